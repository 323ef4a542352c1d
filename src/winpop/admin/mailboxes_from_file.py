"""Many mailboxes from a CSV file of `address,password` or `address,password_hash`.

A row is a line: neither an address nor a password can hold a line end. Invariant: a row that cannot be taken is named
and skipped, and every other row goes in; each batch is one transaction, of 500 rows or what is hashed in a second,
so what was said to be added stays, and giving the same file again goes on where it stopped. No password is ever quoted.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import BinaryIO

from winpop.admin.contract import Batches, Work
from winpop.admin.outcomes import Outcome, Table
from winpop.auth import passwords
from winpop.auth.contract import FILE
from winpop.db.contract import Reader
from winpop.directory import domains, mailboxes, settings
from winpop.directory.mailboxes import Kept
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal, not_understood

_BATCH = 500
_SECONDS = 1.0
_THREADS = 2
_LONGEST_LINE = 4096
_HASH = "$argon2id$"


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that can be read. `secret` is what is kept of a password, or one that is not hashed yet."""

    line: int
    address: Address
    secret: Kept | bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Skipped:
    """A row that was not taken, and why."""

    line: int
    address: str
    code: str
    sentence: str


@dataclass(slots=True)
class _Counts:
    added: int = 0
    present: int = 0
    skipped: list[_Skipped] = field(default_factory=list)

    def take(self, others: "_Counts") -> None:
        self.added += others.added
        self.present += others.present
        self.skipped += others.skipped


def add_from_file(batches: Batches, file: BinaryIO) -> Outcome:
    """Make the mailboxes of a file. The outcome is complete when every row is in or was there already."""
    counts = _Counts()
    if settings.load(batches.database).auth != FILE:
        raise Refusal(
            "wrong-method",
            "A file of passwords is for the encrypted password file; 'winpop get auth' shows what is set.",
        )
    try:
        _add_all(batches, file, counts)
    except KeyboardInterrupt:
        raise Refusal(
            "interrupted",
            f"Interrupted; {_mailboxes(counts.added)} went in and will stay; the same file goes on there.",
        ) from None
    return _outcome(counts)


def _add_all(batches: Batches, file: BinaryIO, counts: _Counts) -> None:
    rows = _rows(file)
    with _hashing() as hashed:
        while batch := list(islice(rows, _BATCH)):
            counts.skipped += [row for row in batch if isinstance(row, _Skipped)]
            missing = _missing(batches.database, [row for row in batch if isinstance(row, _Row)], counts)
            for ready in hashed(missing):
                these = _Counts()
                batches.commit(partial(_add, rows=ready, counts=these), f"{_mailboxes(len(ready))} from {_name(file)}")
                counts.take(these)  # only now: an interrupted commit adds nothing
                batches.tell(_progress(counts))
            batches.tell(_progress(counts))


def _progress(counts: _Counts) -> str:
    return f"{counts.added} added, {counts.present} there already, {len(counts.skipped)} skipped"


def _mailboxes(count: int) -> str:
    return "1 mailbox" if count == 1 else f"{count} mailboxes"


def _name(file: BinaryIO) -> str:
    """Return what the audit shall call a file."""
    name = getattr(file, "name", None) or "a file"
    return "standard input" if name == "<stdin>" else str(name)


def _missing(reader: Reader, rows: Iterable[_Row], counts: _Counts) -> list[_Row]:
    """Return the rows whose mailboxes are not there yet, so that no password is hashed in vain."""
    missing = []
    for row in rows:
        try:
            if mailboxes.look_up(reader, row.address) is not None:
                counts.present += 1
            else:
                domains.find(reader, row.address.domain)
                missing.append(row)
        except Refusal as refusal:
            counts.skipped.append(_unless_lost(row, refusal))
    return missing


@contextlib.contextmanager
def _hashing() -> Iterator[Callable[[list[_Row]], Iterator[list[_Row]]]]:
    """Give a function that hashes the passwords of rows and yields those that are ready about every second.

    It uses threads: hashing leaves the interpreter's lock.
    """
    from concurrent.futures import ThreadPoolExecutor  # here: no other operation needs it

    def hashed(row: _Row) -> _Row:
        secret = row.secret if isinstance(row.secret, Kept) else passwords.keep(row.secret)
        return _Row(row.line, row.address, secret)

    def in_time(rows: list[_Row]) -> Iterator[list[_Row]]:
        ready: list[_Row] = []
        until = time.monotonic() + _SECONDS
        for row in pool.map(hashed, rows):
            ready.append(row)
            if time.monotonic() >= until:
                yield ready
                ready, until = [], time.monotonic() + _SECONDS
        if ready:
            yield ready

    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield in_time
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest of its batch


def _add(work: Work, rows: list[_Row], counts: _Counts) -> Outcome:
    """Make the mailboxes of a batch. What may have changed since it was looked up is looked up again."""
    known: dict[DomainName, domains.Domain] = {}
    for row in rows:
        name = row.address.domain
        assert isinstance(row.secret, Kept)
        try:
            known[name] = known.get(name) or domains.find(work.transaction, name)
            mailboxes.add(work.transaction, known[name], row.address, row.secret)
            counts.added += 1
        except Refusal as refusal:
            if refusal.code == "mailbox-exists":
                counts.present += 1
            else:
                counts.skipped.append(_unless_lost(row, refusal))
    return Outcome(changed=counts.added > 0)


def _unless_lost(row: _Row, refusal: Refusal) -> _Skipped:
    """Describe a row that was refused for what it says; a database that fails is no row's fault."""
    if refusal.code != "no-such-domain":
        raise refusal
    return _Skipped(row.line, str(row.address), refusal.code, refusal.sentence)


def _outcome(counts: _Counts) -> Outcome:
    skipped = sorted(counts.skipped, key=lambda row: row.line)
    empty = not (counts.added or counts.present or skipped)
    return Outcome(
        f"Mailboxes: {counts.added} added, {counts.present} there already, {len(skipped)} skipped.",
        {
            "added": counts.added,
            "present": counts.present,
            "skipped": [
                {"line": row.line, "address": row.address, "code": row.code, "sentence": row.sentence}
                for row in skipped
            ],
        },
        changed=counts.added > 0,
        table=Table(
            ("LINE", "ADDRESS", "CODE", "WHY IT WAS SKIPPED"),
            tuple((row.line, row.address or "-", row.code, row.sentence) for row in skipped),
        ),
        notes=("There was no row in what was read.",) if empty else (),
        complete=not skipped,
    )


def _rows(file: BinaryIO) -> Iterator[_Row | _Skipped]:
    """Read the file row by row; a header decides whether the second column must be a hash."""
    import csv  # here: no other operation needs it

    only_hashes = False
    for number, line in _lines(file):
        fields: list[str] | None = None
        if line is not None:
            with contextlib.suppress(UnicodeDecodeError, csv.Error):
                fields = next(csv.reader([line.decode("utf-8")], strict=True), [])
        if number == 1 and fields is not None:
            header = [name.strip().lower() for name in fields]
            if header in (["address", "password"], ["address", "password_hash"]):
                only_hashes = header[1] == "password_hash"
                continue
        if fields != []:  # an empty line is no row
            yield _row(number, fields, only_hashes=only_hashes)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line with its number, without its end; None for one that is too long to be a row."""
    number = 0
    while line := _read_line(file):
        number += 1
        whole = line.endswith(b"\n") or len(line) < _LONGEST_LINE
        rest = line
        while not (rest.endswith(b"\n") or len(rest) < _LONGEST_LINE):
            rest = _read_line(file)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that spreadsheets write
        yield number, line.removesuffix(b"\n").removesuffix(b"\r") if whole else None


def _read_line(file: BinaryIO) -> bytes:
    try:
        return file.readline(_LONGEST_LINE)
    except OSError as error:  # standard input that is open for writing only
        raise not_understood("no-such-file", f"The file cannot be read: {error.strerror}.") from None


def _row(number: int, fields: list[str] | None, *, only_hashes: bool) -> _Row | _Skipped:
    if fields is None:
        return _Skipped(number, "", "bad-row", "This line is not CSV in UTF-8, or is too long to be a row.")
    if len(fields) > 2 and fields[1].startswith(_HASH):  # noqa: PLR2004 - a hash has commas, and who knows to quote it
        fields = [fields[0], ",".join(fields[1:])]
    if len(fields) != 2:  # noqa: PLR2004 - address and password
        return _Skipped(
            number, "", "bad-row", f"A row has two columns, address and password; this one has {len(fields)}."
        )
    named, secret = fields
    if "@" not in named and "@" in secret:
        return _Skipped(number, "", "bad-row", "The first column is not an address and the second may be one.")
    try:
        address = Address.parse(named)
    except Refusal as refusal:
        return _Skipped(  # not quoted: the columns may be swapped, and a password may have an @ in it
            number, "", refusal.code, "The first column is not a mailbox address; write it like alice@example.com."
        )
    try:
        if only_hashes or secret.startswith(_HASH):
            return _Row(number, address, Kept(passwords.check_hash(secret)))
        return _Row(number, address, passwords.check(secret))
    except Refusal as refusal:
        return _Skipped(number, str(address), refusal.code, refusal.sentence)
