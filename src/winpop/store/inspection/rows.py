"""The rows of messages and bodies, whatever damage has made of them.

Invariant: no value is believed to be of the type that its column should have. No query is given more than a few
hundred rows at once, but for the messages of one body.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from winpop.db.contract import Reader, Row, Value
from winpop.store.inspection.flaws import Inspection, Letter
from winpop.terms.refusals import Refusal

BLOB = re.compile(r"[0-9a-f]{32}")
"""The name of a blob."""
_ROWS = 500
_LIST = "SELECT id, CAST(unique_id AS BLOB), body_id FROM message INDEXED BY message_of_mailbox WHERE mailbox_id = ?"
_LETTER = "SELECT id, mailbox_id, CAST(unique_id AS BLOB), size, CAST(prefix AS BLOB) FROM message"
_OF_BODY = "INDEXED BY message_of_body WHERE body_id"


@dataclass(frozen=True, slots=True)
class Body:
    """A body as its row has it."""

    id: int
    size: int
    plain: bool
    blob: str | None
    content: bytes | None
    checksum: bytes | None


def fetch_body(reader: Reader, body_id: int) -> Body | None:
    """Return a body, or None where it has no row."""
    row = reader.one(
        "SELECT size, plain, CAST(blob AS BLOB), CAST(content AS BLOB), CAST(checksum AS BLOB) FROM body WHERE id = ?",
        body_id,
    )
    if row is None:
        return None
    size, plain, blob, content, checksum = row
    return Body(
        body_id,
        size if isinstance(size, int) else -1,
        bool(plain),
        as_octets(blob).decode("ascii", "replace") if blob is not None else None,
        content if isinstance(content, bytes) else None,
        checksum if isinstance(checksum, bytes) else None,
    )


def last_body(reader: Reader) -> int:
    """Return the highest identifier of a body that is there or is named."""
    queries = "SELECT max(id) FROM body", "SELECT max(body_id) FROM message"
    return max(as_integer(reader.one(sql)) for sql in queries)


def next_bodies(inspection: Inspection, last: int, top: int) -> tuple[list[int], int]:
    """Return the bodies after `last`, those that are there and those that are named, and up to which it is all."""
    database = inspection.database
    sql = f"SELECT DISTINCT body_id FROM message {_OF_BODY} > ? AND body_id <= ? ORDER BY body_id LIMIT {_ROWS}"
    named = _ids(database, sql, last, top)
    there: list[int] = []
    try:
        sql = f"SELECT id FROM body WHERE id > ? AND id <= ? ORDER BY id LIMIT {_ROWS}"
        there = _ids(database, sql, last, top)
    except Refusal as refusal:  # a page of the table: those of it are told one by one
        inspection.because(refusal)
    end = min(ids[-1] if len(ids) == _ROWS else top for ids in (named, there))
    return sorted(body_id for body_id in {*named, *there} if body_id <= end), end


def letters_of(inspection: Inspection, body_id: int, only: Letter | None) -> tuple[list[Letter], list[Letter]]:
    """Return the messages that have a body, or `only` that one, and those of them whose rows cannot be read."""
    database = inspection.database
    if only is None:
        try:
            return [_letter(row) for row in database.all(f"{_LETTER} {_OF_BODY} = ? ORDER BY id", body_id)], []
        except Refusal as refusal:
            inspection.because(refusal)
        ids = _ids(database, f"SELECT id FROM message {_OF_BODY} = ?", body_id)
    else:
        ids = [only.id]
    whole, lost = [], []
    for message in ids:
        try:
            row = database.one(f"{_LETTER} WHERE id = ?", message)
            whole += [_letter(row)] if row else []
        except Refusal as refusal:
            inspection.because(refusal)
            lost.append(only or _named_by_index(database, message))
    return whole, lost


def _letter(row: Row) -> Letter:
    message, mailbox_id, unique_id, size, prefix = row
    return Letter(
        message if isinstance(message, int) else 0,
        mailbox_id if isinstance(mailbox_id, int) else 0,
        as_octets(unique_id),
        size if isinstance(size, int) else -1,
        as_octets(prefix),
    )


def _named_by_index(reader: Reader, message: int) -> Letter:
    sql = "SELECT mailbox_id, CAST(unique_id AS BLOB) FROM message INDEXED BY message_of_mailbox WHERE +id = ?"
    with contextlib.suppress(Refusal):
        row = reader.one(sql, message)
        if row is not None and isinstance(row[0], int):
            return Letter(message, row[0], as_octets(row[1]))
    return Letter(message, 0, b"")


def mailboxes(reader: Reader) -> Iterator[int]:
    """Yield the identifiers of all mailboxes."""
    last = 0
    while ids := _ids(reader, f"SELECT id FROM mailbox WHERE id > ? ORDER BY id LIMIT {_ROWS}", last):
        yield from ids
        last = ids[-1]


def listing(inspection: Inspection, mailbox_id: int) -> Iterator[tuple[Letter, int]]:
    """Yield the messages of a mailbox with their bodies' identifiers, from its index alone."""
    last = 0
    while rows := inspection.database.all(f"{_LIST} AND id > ? ORDER BY id LIMIT {_ROWS}", mailbox_id, last):
        for message, unique_id, body_id in rows:
            if isinstance(message, int) and isinstance(body_id, int):
                yield Letter(message, mailbox_id, as_octets(unique_id)), body_id
        inspection.went_on()
        before, last = last, max((row[0] for row in rows if isinstance(row[0], int)), default=last)
        if last <= before:
            return  # a damaged index leads nowhere; the engine's own check names it


def _ids(reader: Reader, sql: str, *parameters: int) -> list[int]:
    return [row[0] for row in reader.all(sql, *parameters) if isinstance(row[0], int)]


def as_octets(value: Value) -> bytes:
    """Return what was cast to a BLOB; nothing where it is NULL."""
    return value if isinstance(value, bytes) else b""


def as_integer(row: Row | None) -> int:
    """Return the one integer of a row; 0 where there is none."""
    return row[0] if row and isinstance(row[0], int) else 0
