"""Copying bodies into a backup, in batches, each compared with its checksum.

Invariant: a message names a body of the backup only when that is wholly on disk and was what came in; one that is
damaged is named, one that was expunged meanwhile is left out. A body is kept once, whoever had it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from winpop.db.contract import Database
from winpop.store import backup_reading
from winpop.store.backup_format import Archive
from winpop.store.backup_reading import UnreadableError
from winpop.store.backup_source import Source
from winpop.store.maildrops import Stored

_OCTETS = 16 * 1024 * 1024
"""Octets of bodies after which a batch is committed."""
_ROWS = 1000
"""Messages after which a batch is committed."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A message whose body could not be had, and why."""

    mailbox: str
    unique_id: str
    why: str


@dataclass(slots=True)
class Taken:
    """What a backup did. Octets are of bodies."""

    time: int = 0
    domains: int = 0
    mailboxes: int = 0
    messages: int = 0
    octets: int = 0
    copied: int = 0
    copied_octets: int = 0
    kept: int = 0
    gone: int = 0
    removed_snapshots: int = 0
    verified: int = 0
    """Bodies of the backup that were read again."""
    lost: int = 0
    """Bodies that are damaged in the backup or missing from it, and cannot be had here any more."""
    damaged: list[Damaged] = field(default_factory=list)
    damaged_there: list[Damaged] = field(default_factory=list)
    """The messages of `lost`."""
    without_password: list[str] = field(default_factory=list)
    """Mailboxes whose password hashes cannot be read."""


class Copier:
    """Copies the bodies of the messages that are listed in `wanted`."""

    def __init__(self, database: Database, archive: Archive, source: Source, taken: Taken, lost: set[int]) -> None:
        self._database, self._archive, self._source = database, archive, source
        self._taken, self._lost = taken, lost
        self._last: tuple[int, bytes, int] | None = None
        """The body that was looked at last, its messages' prefix, and where it is now."""

    def batch(self, done: int) -> int:
        """Copy some more and commit; return how many are done."""
        until = self._taken.copied_octets + _OCTETS
        rows = self._archive.rows("SELECT * FROM temp.wanted WHERE n > :n ORDER BY n LIMIT :most", n=done, most=_ROWS)
        with self._archive.write():
            for number, message, identifier, body in list(rows):
                found = self._shared(identifier, body) or self._copy(message, identifier, body)
                if found:
                    self._archive.run("UPDATE message SET body = :body WHERE id = :id", body=found, id=message)
                    self._taken.copied += 1
                done = number
                if self._taken.copied_octets >= until:
                    break
        return done

    def _shared(self, identifier: int, body: int) -> int:
        """Return where the body is, if it is the last message's too; else 0."""
        if self._last is None or self._last[0] != body:
            return 0
        return self._last[2] if backup_reading.prefix_of(self._database, identifier) == self._last[1] else 0

    def _copy(self, message: int, identifier: int, body: int) -> int:
        """Copy a body; return where it is in the backup, or 0 for one that is damaged or was expunged meanwhile."""
        mailbox = self._archive.number("SELECT mailbox FROM message WHERE id = :id", id=message)
        try:
            stored = backup_reading.find(self._database, mailbox, identifier)
            if stored is None:
                return 0
            found = self._found(stored, stored.checksum) or self._placed(stored)
        except UnreadableError as error:
            if backup_reading.is_there(self._database, mailbox, identifier):  # else it was expunged in this moment
                self._taken.damaged.append(Damaged(*self._named(message), str(error)))
            return 0
        self._last = (body, stored.prefix, found)
        return found

    def _found(self, stored: Stored, key: bytes | None) -> int:
        """Return where the backup has this body already, whole; else 0."""
        found = self._row(key, stored.size)
        return 0 if found in self._lost else found

    def _row(self, key: bytes | None, size: int) -> int:
        return self._archive.number("SELECT id FROM body WHERE checksum = :key AND size = :size", key=key, size=size)

    def _placed(self, stored: Stored) -> int:
        content = self._archive.place(self._pieces(stored))
        key = content.checksum(stored.prefix)
        assert key is not None
        if content.size != stored.size or stored.checksum not in (None, key):
            raise UnreadableError("it changed while it was read")  # its file, if it has one, goes with the next tidying
        self._taken.copied_octets += content.size
        known = self._row(key, content.size)
        if known and known not in self._lost:
            return known
        if known:
            sql = "UPDATE body SET blob = :blob, content = :content WHERE id = :id"
            self._archive.run(sql, blob=content.blob, content=content.octets, id=known)
            self._lost.discard(known)
            return known
        return self._archive.insert(
            "INSERT INTO body (checksum, size, plain, prefix, blob, content) VALUES (?, ?, ?, ?, ?, ?)",
            key,
            content.size,
            int(stored.plain),
            stored.prefix,
            content.blob,
            content.octets,
        )

    def _pieces(self, stored: Stored) -> Iterator[bytes]:
        """Yield the octets of a body whose checksum is right. Raises `UnreadableError`."""
        if stored.octets is not None:
            if len(stored.octets) != stored.size or stored.damaged:
                raise UnreadableError("the checksum is wrong")
            yield stored.octets
            return
        try:
            with contextlib.closing(self._source.open(self._database, stored)) as reader:
                last = False
                while not last:
                    piece, last = reader.read()
                    yield piece
        except FileNotFoundError:
            raise UnreadableError("its file is missing") from None
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from None

    def _named(self, message: int) -> tuple[str, str]:
        row = self._archive.one(
            "SELECT mailbox.name || '@' || mailbox.domain, message.unique_id FROM message "
            "JOIN mailbox ON mailbox.source = message.mailbox AND mailbox.gone IS NULL WHERE message.id = :id",
            id=message,
        )
        assert row is not None
        return str(row[0]), str(row[1])
