"""Messages of an installation as a backup and a restore read them: what damage hides of one stops nobody.

Invariant: no value is believed to be of the type that its column should have. What cannot be read is told of its own
message, and only while the database as a whole still answers; else the refusal goes on.
"""

from winpop.db.contract import Database, Value
from winpop.store.inspection.flaws import bear
from winpop.store.inspection.rows import BLOB
from winpop.store.maildrops import PLAIN, Stored
from winpop.terms.refusals import Refusal

_FIND = f"""
    SELECT CAST(message.prefix AS BLOB), body.id, body.plain IN (1, {PLAIN}), CAST(body.content AS BLOB),
           CAST(body.blob AS BLOB), body.size, CAST(body.checksum AS BLOB)
    FROM message LEFT JOIN body ON body.id = message.body_id WHERE message.id = ?"""
_LISTED = "SELECT count(*) FROM message INDEXED BY message_of_mailbox WHERE mailbox_id = ? AND id = ?"
_KEYS = "coalesce(CAST(scram_sha_1 AS BLOB), x''), coalesce(CAST(scram_sha_256 AS BLOB), x'')"
_LOGONS = (
    f"SELECT mailbox_id, CAST(hash AS BLOB), {_KEYS} FROM password WHERE",
    "SELECT mailbox_id, CAST(identifier AS BLOB), iif(typeof(method) = 'integer', x'', NULL) FROM account WHERE",
)
"""What a mailbox has to be logged on to with: texts, all but the first column."""
_ROWS = 5000


class UnreadableError(Exception):
    """A message that cannot be had, and why."""


def find(database: Database, mailbox: int, identifier: int) -> Stored | None:
    """Return a message, or None where it was expunged. Raises `UnreadableError`."""
    try:
        row = database.one(_FIND, identifier)
        if row is None and database.number(_LISTED, mailbox, identifier) == 0:
            return None
    except Refusal as refusal:
        bear(database, refusal)
        raise UnreadableError("its row cannot be read") from None
    if row is None:
        raise UnreadableError("its row is missing")
    prefix, body, plain, octets, blob, size, key = row
    if body is None:
        raise UnreadableError("the row of its body is missing")
    name = blob.decode("ascii", "replace") if isinstance(blob, bytes) else None
    named = name is not None and BLOB.fullmatch(name) is not None
    if not isinstance(prefix, bytes) or not isinstance(size, int) or isinstance(octets, bytes) == named:
        raise UnreadableError("the row of its body makes no sense")
    assert octets is None or isinstance(octets, bytes)
    return Stored(prefix, bool(plain), octets, name, size, key if isinstance(key, bytes) else None)


def is_there(database: Database, mailbox: int, identifier: int) -> bool:
    """Tell whether a message was not expunged, as far as that can be known."""
    try:
        return database.number(_LISTED, mailbox, identifier) > 0
    except Refusal as refusal:
        bear(database, refusal)
        return True


def prefix_of(database: Database, identifier: int) -> bytes | None:
    """Return what the server put before a message; None where it is gone or cannot be read."""
    try:
        row = database.one("SELECT CAST(prefix AS BLOB) FROM message WHERE id = ?", identifier)
    except Refusal as refusal:
        bear(database, refusal)
        return None
    return row[0] if row is not None and isinstance(row[0], bytes) else None


def unreadable_logons(database: Database) -> frozenset[int]:
    """Return the mailboxes whose password hashes, SCRAM keys or accounts cannot be read."""
    return frozenset(mailbox for sql in _LOGONS for mailbox in _unreadable(database, sql))


def _unreadable(database: Database, sql: str) -> set[int]:
    bad, last = set(), 0
    try:
        while rows := database.all(f"{sql} mailbox_id > ? ORDER BY mailbox_id LIMIT {_ROWS}", last):
            bad |= {int(str(mailbox)) for mailbox, *values in rows if not all(map(_is_text, values))}
            last = int(str(rows[-1][0]))
    except Refusal as refusal:
        bear(database, refusal)
        bad |= {mailbox for mailbox in _mailboxes(database) if not _is_readable(database, sql, mailbox)}
    return bad


def _mailboxes(database: Database) -> list[int]:
    return [int(str(row[0])) for row in database.all("SELECT id FROM mailbox")]


def _is_readable(database: Database, sql: str, mailbox: int) -> bool:
    try:
        row = database.one(f"{sql} mailbox_id = ?", mailbox)
    except Refusal as refusal:
        bear(database, refusal)
        return False
    return row is None or all(map(_is_text, row[1:]))


def _is_text(value: Value) -> bool:
    if not isinstance(value, bytes):
        return False
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
