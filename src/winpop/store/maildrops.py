"""Maildrops: what a session sees of a mailbox, and what leaves it.

Invariant: `expunge` removes exactly the messages that it is given, and only while the mailbox exists and is not
locked; the check and the removal are one transaction, so a lock that was set before a QUIT is never too late. A
damaged value in a row is no other message's trouble: it is listed, and given out as damaged. What is listed for
clients without UTF8 are the sizes of the messages as they get them (RFC 6858 §4).
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from winpop.db.contract import Reader, Row, Transaction, Value
from winpop.directory import mailboxes
from winpop.directory.mailboxes import Mailbox
from winpop.store import downgrades
from winpop.store.blobs import PIECE, Blobs, checksum
from winpop.terms.mail import EMPTY, UNIQUE_ID, Listing


def _number(size: str) -> str:
    """Return a number of octets; 0 where the row has none, or one that no message has."""
    return f"iif(typeof({size}) = 'integer' AND {size} BETWEEN 0 AND 0xFFFFFFFFFF, {size}, 0)"


_SIZE = _number("message.size")
_REMOVALS = "SELECT removals FROM mailbox WHERE id = ?1"
_LIST = f"""
    SELECT id, {_SIZE}, CAST(unique_id AS BLOB), ({_REMOVALS}) FROM message
    WHERE mailbox_id = ?1 AND id > ?2 ORDER BY id
"""
_LIST_DOWNGRADED = f"""
    SELECT message.id, {_number("(message.size + coalesce(downgrade.size - body.size, 0))")},
           CAST(message.unique_id AS BLOB), ({_REMOVALS})
    FROM message LEFT JOIN downgrade ON downgrade.body_id = message.body_id
    LEFT JOIN body ON body.id = downgrade.body_id
    WHERE message.mailbox_id = ?1 AND message.id > ?2 ORDER BY message.id
"""
_AT_ONCE = 64 * 1024
"""Octets of a blob that are read where they do not come from a disk: what a processor has at hand, to encrypt them."""
_NO_WAIT, _ON = getattr(os, "RWF_NOWAIT", 0), -1
"""Read only what is in memory; where the file was read to."""
_LARGE = 64
"""Messages from which on a maildrop is worth keeping: below, it is read as quickly as it is looked at."""
_BLOB = re.compile(rb"[0-9a-f]{32}")
_ALL_LEGAL = re.compile(rb"%b(?:\n%b)*" % (UNIQUE_ID.pattern, UNIQUE_ID.pattern))
_DOTTED = re.compile(rb"\n\.")  # 1 ns an octet; `in` takes twice that


@dataclass(frozen=True, slots=True)
class Maildrop:
    """The snapshot of one mailbox. `messages` are row identifiers; index n belongs to message number n + 1."""

    mailbox_id: int
    messages: tuple[int, ...]
    listing: Listing


class Stored(NamedTuple):  # made four times as quickly as a frozen dataclass, one for each message that is fetched
    """A message as it lies in the store: `prefix`, then `octets`, or the blob of that name.

    `size` is the body's. `plain` promises that no line begins with a dot; of a blob only its `BlobReader` knows whether
    that is true. `checksum` is None for what came in before there were checksums. `international`: clients without
    UTF8 get another body, and of that the size was listed to them.
    """

    prefix: bytes
    plain: bool
    octets: bytes | None
    blob: str | None
    size: int
    checksum: bytes | None
    international: bool = False
    surely_plain: bool = False
    """`plain` is true of the blob as it came in, so nothing has to be looked through for it."""
    with_ascii_header: bool = False
    """It shall be given out as clients without UTF8 get it; a `BlobReader` sees to that."""

    def downgraded(self) -> "Stored":
        """Return the message as clients without UTF8 get it. Octets are looked at whether they are `damaged` before.

        A long header takes a while: not for an event loop.
        """
        if not self.international:
            return self
        if self.octets is None:
            return self._replace(with_ascii_header=True)
        octets = downgrades.downgraded(self.octets)
        return self._replace(octets=octets, size=len(octets), checksum=None, international=False)

    @property
    def damaged(self) -> bool:
        """Tell whether the octets in the row are not those that came in."""
        assert self.octets is not None
        return self.checksum is not None and checksum(self.prefix, self.octets) != self.checksum


_NOT_ONE = Stored(b"", plain=False, octets=b"", blob=None, size=-1, checksum=b"")
"""What stands for a row whose values cannot be those that came in: it is damaged, whoever looks at it."""


def _octets(column: str) -> str:
    """Return the octets of a column, or a number for what are none: the engine would decode a text, and fail."""
    return f"iif(typeof({column}) = 'text', 0, {column})"


PLAIN = 0x504C41494E
"""What the row of a body has that was found to have no line that begins with a dot: a number that damage makes of no
other. Before, it was 1, which is one bit away from 0, so that these are looked through each time: 14 µs for 20 KiB."""
_FIND = f"""
    SELECT message.id, message.mailbox_id, CAST(message.unique_id AS BLOB), typeof(message.size) = 'integer',
           {_octets("message.prefix")}, iif(typeof(body.plain) = 'integer', body.plain, 0),
           {_octets("body.content")}, CAST(body.blob AS BLOB),
           iif(typeof(body.size) = 'integer', body.size, -1), {_octets("body.checksum")},
           EXISTS (SELECT 1 FROM downgrade WHERE body_id = body.id)
    FROM {{}} JOIN body ON body.id = message.body_id WHERE
"""
_FIND_ONE = _FIND.format("message") + "message.id = ?"
# By the index, and then the rows themselves: what the index has of them may be otherwise there.
_FIND_SOME = (
    _FIND.format("message AS listed INDEXED BY message_of_mailbox JOIN message ON message.id = listed.id")
    + "listed.mailbox_id = ? AND listed.id BETWEEN ? AND ?"
)


class DamagedError(OSError):
    """The octets of a blob are not those that came in."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What an expunge did. `locked` and `missing` mean that nothing was removed."""

    blobs: tuple[str, ...] = ()
    locked: str | None = None
    missing: bool = False


def open_maildrop(reader: Reader, mailbox_id: int, *, utf8: bool = True) -> Maildrop:
    """Return what there is now, oldest first; without `utf8` with the sizes of what `Stored.downgraded` gives out."""
    return _listed(reader, mailbox_id, utf8=utf8)[0]


def _listed(reader: Reader, mailbox_id: int, *, utf8: bool, known: Maildrop | None = None) -> tuple[Maildrop, int]:
    """Return what there is behind what is `known`, together with that, and how much was removed before it was read."""
    before, listing = (known.messages, known.listing) if known is not None else ((), EMPTY)
    rows = reader.all(_LIST if utf8 else _LIST_DOWNGRADED, mailbox_id, before[-1] if before else 0)
    if not rows:
        return known or Maildrop(mailbox_id, (), listing), -1
    messages, sizes, unique_ids, removals = zip(*rows, strict=True)
    shown = _all_shown(messages, unique_ids)
    listing = listing.with_more(sizes, shown) if before else Listing(sizes, shown)
    return Maildrop(mailbox_id, before + messages, listing), removals[0]


class Opened:
    """The large maildrops that were opened here last, so that they need not be read and shown again.

    What was read holds for as long as nothing was removed (the mailbox counts that), and lacks only what has a higher
    identifier. Invariant: what `open` returns is what `open_maildrop` would. Measured: to open a maildrop of 10,000
    messages and to list it twice takes 14 ms, with what was kept 0.2 ms.
    """

    def __init__(self, most: int) -> None:
        """Keep maildrops with so many messages together; some 300 octets each."""
        self.most = most
        self._kept: dict[tuple[int, bool], tuple[int, Maildrop]] = {}
        """By mailbox and whether for clients with UTF8, the longest unused first: its removals, and it."""
        self._messages = 0

    def open(self, reader: Reader, mailbox_id: int, *, utf8: bool = True) -> Maildrop:
        """Return what there is now."""
        key = (mailbox_id, utf8)
        removals, known = self._kept.pop(key, (-1, None))
        if known is not None:
            self._messages -= len(known.messages)
            now = reader.number(_REMOVALS, mailbox_id)  # first: what is removed after it is seen the next time
            if now != removals:
                known = None
        if known is None:
            maildrop, removals = _listed(reader, mailbox_id, utf8=utf8)
            if _LARGE <= len(maildrop.messages) <= self.most:
                maildrop = replace(maildrop, listing=replace(maildrop.listing, lines={}))
        else:
            maildrop, _ = _listed(reader, mailbox_id, utf8=utf8, known=known)
        if _LARGE <= len(maildrop.messages) <= self.most:
            self._kept[key] = (removals, maildrop)
            self._messages += len(maildrop.messages)
            while self._messages > self.most:
                _, longest_unused = self._kept.pop(next(iter(self._kept)))
                self._messages -= len(longest_unused.messages)
        return maildrop


def _all_shown(messages: tuple[int, ...], unique_ids: tuple[Value, ...]) -> tuple[str, ...]:
    """Return what `_shown` does for each, all at once where all are in order."""
    if set(map(type, unique_ids)) == {bytes}:
        joined = b"\n".join(unique_ids)  # type: ignore[arg-type]  # as was just seen
        if _ALL_LEGAL.fullmatch(joined):
            return tuple(joined.decode("ascii").split("\n"))
    return tuple(map(_shown, messages, unique_ids))


def _shown(message: int, unique_id: Value) -> str:
    """Return the unique-id of a message, or where damage has made none of it one that no delivery gives."""
    if isinstance(unique_id, bytes) and UNIQUE_ID.fullmatch(unique_id):
        return unique_id.decode("ascii")
    return f"damaged-{message}"


def find(reader: Reader, message: int, mailbox_id: int = 0, unique_id: str = "") -> Stored | None:
    """Return the message with that row identifier, or None when its row is gone.

    Whoever has listed it names the mailbox and the unique-id too: a row that denies them is not that message's.
    """
    row = reader.one(_FIND_ONE, message)
    return None if row is None else _stored(row, mailbox_id, unique_id)


def find_some(reader: Reader, maildrop: Maildrop, indexes: range) -> dict[int, Stored]:
    """Return messages of a maildrop that follow each other, by index, but those whose rows are gone.

    To read 16 of 2 KiB together takes 3.5 µs each, to read them one by one 11 µs.
    """
    messages, unique_ids = maildrop.messages, maildrop.listing.unique_ids
    rows = reader.all(_FIND_SOME, maildrop.mailbox_id, messages[indexes[0]], messages[indexes[-1]])
    by_message = {row[0]: row for row in rows}
    return {
        index: _stored(by_message[messages[index]], maildrop.mailbox_id, unique_ids[index])
        for index in indexes
        if messages[index] in by_message
    }


def _stored(row: Row, mailbox_id: int, unique_id: str) -> Stored:
    message, owner, named, sized, prefix, plain, octets, blob, size, kept, international = row
    if mailbox_id and named != unique_id.encode("ascii"):
        assert isinstance(message, int)
        if not _may_be(_shown(message, named), unique_id, f"damaged-{message}"):
            return _NOT_ONE
    if mailbox_id and owner != mailbox_id:
        return _NOT_ONE
    if (
        not sized
        or not isinstance(prefix, bytes)
        or not isinstance(octets, bytes | None)
        or not isinstance(kept, bytes | None)
        or not isinstance(size, int)
    ):
        return _NOT_ONE
    if octets is not None:
        is_plain = plain == PLAIN or (plain == 1 and not _dotted(octets))
        return Stored(prefix, is_plain, octets, None, size, kept, bool(international))
    if not isinstance(blob, bytes) or not _BLOB.fullmatch(blob):
        return _NOT_ONE
    stored = Stored(prefix, plain in {1, PLAIN}, None, blob.decode("ascii"), size, kept, bool(international))
    return stored._replace(surely_plain=True) if plain == PLAIN else stored


def _may_be(one: str, other: str, damaged: str) -> bool:
    """Tell whether two unique-ids may have been the same."""
    return one == other or damaged in (one, other)


def _dotted(octets: bytes) -> bool:
    """Tell whether a line begins with a dot."""
    return octets.startswith(b".") or _DOTTED.search(octets) is not None


class BlobReader:
    """The bytes of a blob, piece by piece; each call but `read_now` reads from disk, so it belongs in a thread.

    All of it is read and compared before the first piece is given out: what a client has begun to read cannot be
    taken back. The first piece of a message `with_ascii_header` has all of the header, downgraded.
    """

    def __init__(self, blobs: Blobs, stored: Stored, *, compared: bool = False) -> None:
        """Open the blob of a message; `compared` says that this was done and its checksum found right.

        Raises `OSError`, of which `DamagedError` says that the octets are wrong.
        """
        assert stored.blob is not None
        self.plain = stored.plain
        """Whether no line begins with a dot."""
        self._first = b""
        self._descriptor = blobs.open(stored.blob)
        try:
            self._left = self._whole = os.fstat(self._descriptor).st_size
            self._compare(stored, compared=compared)
            if stored.with_ascii_header:
                self._first = downgrades.downgraded(downgrades.beginning(self._read))
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._descriptor

    @property
    def passes(self) -> bool:
        """Whether the file holds the very octets that the client is to get, and none of them was read."""
        return self.plain and not self._first and self._left == self._whole

    @property
    def size(self) -> int:
        """The octets that are left to be read."""
        return self._left

    def tail(self) -> bytes:
        """Return the last two octets of the file."""
        return os.pread(self._descriptor, 2, max(0, self._left - 2))

    def _compare(self, stored: Stored, *, compared: bool) -> None:
        if self._left != stored.size:
            raise DamagedError(f"the blob has {self._left} octets, not {stored.size}")
        self._surely_plain = stored.surely_plain
        known = compared or stored.checksum is None
        if known and (self._surely_plain or not stored.plain):
            return
        found = self._checksum(stored.prefix)
        if stored.checksum is not None and found != stored.checksum:
            raise DamagedError("the checksum is wrong")

    def _checksum(self, prefix: bytes) -> bytes:
        whole = hashlib.sha256()
        before = b"\n"
        while piece := os.read(self._descriptor, PIECE):
            whole.update(piece)
            if self.plain and not self._surely_plain:
                self.plain = not (_dotted(piece) if before == b"\n" else _DOTTED.search(piece))
            before = piece[-1:]
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        whole.update(prefix)
        return whole.digest()

    def read(self) -> tuple[bytes, bool]:
        """Return the next piece and whether it is the last. Raises `OSError`."""
        data, self._first = self._first or self._read(), b""
        return data, self._left <= 0

    def read_now(self, room: memoryview) -> tuple[bytes, bool] | None:
        """Return the next piece if the system has it in memory, as it mostly has what was just compared; else None.

        It is read by way of `room`, which is the caller's. To read 64 KiB so takes 10 µs; a thread, and the way there
        and back, takes 50.
        """
        if self._first or not _NO_WAIT:
            return None
        piece = room[: min(_AT_ONCE, self._left)]
        try:
            count = os.preadv(self._descriptor, [piece], _ON, _NO_WAIT)
        except OSError:  # it has not, or the file system cannot say
            return None
        self._left -= count
        return (bytes(piece[:count]), self._left <= 0) if count else None

    def _read(self) -> bytes:
        data = os.read(self._descriptor, PIECE)
        self._left -= len(data)
        if not data and self._left > 0:
            raise OSError("a blob is shorter than it was")
        return data

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def expunge(transaction: Transaction, mailbox_id: int, messages: Sequence[int]) -> Removed:
    """Remove messages of a mailbox; the names of blobs that nobody needs any more are in the result.

    They are noted as discarded too, so that a crash before they are unlinked loses no disk space.
    """
    mailbox = mailboxes.by_id(transaction, [mailbox_id]).get(mailbox_id)
    if mailbox is None:
        return Removed(missing=True)
    if mailbox.locked:
        return Removed(locked=mailbox.locked)
    return Removed(tuple(_remove(transaction, messages, "AND mailbox_id = ?", mailbox_id)))


def empty(transaction: Transaction, mailbox: Mailbox) -> list[str]:
    """Remove all mail of a mailbox that is being deleted, locked or not; return the discarded blobs."""
    return _remove_all(transaction, "SELECT id FROM message WHERE mailbox_id = ?", mailbox.id)


def empty_domain(transaction: Transaction, domain_id: int) -> list[str]:
    """Remove all mail of a domain that is being deleted; return the discarded blobs."""
    sql = "SELECT message.id FROM mailbox JOIN message ON message.mailbox_id = mailbox.id WHERE mailbox.domain_id = ?"
    return _remove_all(transaction, sql, domain_id)


def totals(reader: Reader, where: str = "", *parameters: int) -> tuple[int, int]:
    """Return how many messages there are and their octets; `where` narrows them."""
    row = reader.one(f"SELECT count(*), coalesce(sum({_SIZE}), 0) FROM message {where}", *parameters)
    assert row is not None
    messages, octets = row
    assert isinstance(messages, int)
    assert isinstance(octets, int)
    return messages, octets


def totals_of_domain(reader: Reader, domain_id: int) -> tuple[int, int]:
    """Return how many messages a domain has and their octets."""
    return totals(reader, "JOIN mailbox ON mailbox.id = message.mailbox_id WHERE mailbox.domain_id = ?", domain_id)


def totals_by_mailbox(reader: Reader, mailbox_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Return messages and octets by mailbox identifier, for those of these mailboxes that have mail."""
    found = {}
    for some in _by(500, mailbox_ids):
        marks = ", ".join("?" * len(some))
        grouped = f"FROM message WHERE mailbox_id IN ({marks}) GROUP BY mailbox_id"
        for mailbox, messages, octets in reader.all(f"SELECT mailbox_id, count(*), sum({_SIZE}) {grouped}", *some):
            if isinstance(mailbox, int) and isinstance(messages, int) and isinstance(octets, int):
                found[mailbox] = messages, octets
    return found


def _remove_all(transaction: Transaction, sql: str, owner: int) -> list[str]:
    return _remove(transaction, [row[0] for row in transaction.all(sql, owner) if isinstance(row[0], int)])


def _remove(transaction: Transaction, messages: Iterable[int], only: str = "", *parameters: int) -> list[str]:
    discarded: list[str] = []
    for some in _by(500, messages):
        marks = ", ".join("?" * len(some))
        those = f"FROM message WHERE id IN ({marks}) {only}"
        named = f"SELECT DISTINCT body_id {those} AND typeof(body_id) = 'integer'"
        bodies = [row[0] for row in transaction.all(named, *some, *parameters)]
        transaction.run(f"DELETE {those}", *some, *parameters)
        marks = ", ".join("?" * len(bodies))
        unused = (
            f"FROM body WHERE id IN ({marks}) AND NOT EXISTS (SELECT 1 FROM message WHERE message.body_id = body.id)"
        )
        names = [row[0] for row in transaction.all(f"SELECT CAST(blob AS BLOB) {unused}", *bodies)]
        blobs = [name.decode("ascii") for name in names if isinstance(name, bytes) and _BLOB.fullmatch(name)]
        transaction.many("INSERT INTO discarded_blob (name) VALUES (?)", [(name,) for name in blobs])
        transaction.run(f"DELETE {unused}", *bodies)
        discarded += blobs
    return discarded


def _by(size: int, items: Iterable[int]) -> Iterator[list[int]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
