"""What is backed up of an installation: all of it, a domain, or a mailbox.

Invariant: what is listed is read by and by, in the order of its key, so no list is ever in memory as a whole; the
caller's snapshot makes it one state.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from winpop.db.contract import Reader
from winpop.db.home import Home
from winpop.directory import domains, mailboxes, settings
from winpop.store import clock
from winpop.store.blobs import Blobs
from winpop.store.maildrops import BlobReader, Stored
from winpop.terms.names import Address, DomainName

_LISTED = 5000
"""Rows that are listed at once."""


class Source:
    """The part of an installation that is backed up: all, a domain or a mailbox."""

    def __init__(self, home: Home, target: DomainName | Address | None) -> None:
        """Look at nothing yet."""
        self._home = home
        self._target = target
        self._where: tuple[str, ...] = ("", "", "")
        self._narrow: tuple[int, ...] = ()
        self.without_password: frozenset[int] = frozenset()
        """Mailboxes whose passwords or accounts cannot be read; they are listed as if they had none."""

    def find(self, reader: Reader) -> None:
        """Look the target up. Raises `Refusal` (`no-such-domain`, `no-such-mailbox`)."""
        if isinstance(self._target, Address):
            mailbox = mailboxes.find(reader, self._target)
            domain = "AND domain.id = (SELECT domain_id FROM mailbox WHERE id = ?)"
            self._where, self._narrow = (domain, "AND mailbox.id = ?", "AND mailbox_id = ?"), (mailbox.id,)
        elif self._target is not None:
            messages = "AND mailbox_id IN (SELECT id FROM mailbox WHERE domain_id = ?)"
            self._where = ("AND domain.id = ?", "AND mailbox.domain_id = ?", messages)
            self._narrow = (domains.find(reader, self._target).id,)

    def settings(self, reader: Reader) -> Iterable[tuple[Any, ...]]:
        """Return the settings that were set; those of a part of the server are none."""
        stored = settings.stored(reader) if self._target is None else {}
        stored = {name: text for name, text in stored.items() if name not in settings.SECRET}  # their key stays here
        return [(name, value) for name, value in stored.items() if name != clock.NAME]

    def domains(self, reader: Reader) -> Iterator[tuple[Any, ...]]:
        """Yield name and lock."""
        lock = "EXISTS (SELECT 1 FROM domain_lock WHERE domain_id = domain.id)"
        sql = f"SELECT id, name, {lock} FROM domain WHERE id > ? {self._where[0]} ORDER BY id LIMIT ?"
        yield from (row[1:] for row in self._listed(reader, sql, 0))

    def mailboxes(self, reader: Reader) -> Iterator[tuple[Any, ...]]:
        """Yield identifier, domain, name, own lock, password hash, SCRAM keys, and method and name of an account."""
        bad = ", ".join(f"{mailbox:d}" for mailbox in self.without_password)  # not even looked at
        sql = f"""
            SELECT mailbox.id, domain.name, mailbox.name,
                   EXISTS (SELECT 1 FROM mailbox_lock WHERE mailbox_id = mailbox.id), coalesce(password.hash, ''),
                   coalesce(password.scram_sha_1, ''), coalesce(password.scram_sha_256, ''),
                   coalesce(account.method, 0), coalesce(account.identifier, '')
            FROM mailbox CROSS JOIN domain ON domain.id = mailbox.domain_id
            LEFT JOIN password ON password.mailbox_id = CASE WHEN mailbox.id NOT IN ({bad}) THEN mailbox.id END
            LEFT JOIN account ON account.mailbox_id = CASE WHEN mailbox.id NOT IN ({bad}) THEN mailbox.id END
            WHERE mailbox.id > ? {self._where[1]} ORDER BY mailbox.id LIMIT ?"""
        return self._listed(reader, sql, 0)

    def messages(self, reader: Reader) -> Iterator[tuple[Any, ...]]:
        """Yield mailbox, identifier, unique-id, size and body, all from one index."""
        sql = f"""
            SELECT mailbox_id, id, unique_id, size, body_id FROM message
            WHERE (mailbox_id, id) > (?, ?) {self._where[2]} ORDER BY mailbox_id, id LIMIT ?"""
        return self._listed(reader, sql, 0, 0)

    def _listed(self, reader: Reader, sql: str, *start: int) -> Iterator[tuple[Any, ...]]:
        """Yield rows by and by; the first columns are those by which they are ordered."""
        after: tuple[Any, ...] = start
        while rows := reader.all(sql, *after, *self._narrow, _LISTED):
            yield from rows
            after = rows[-1][: len(start)]

    def open(self, reader: Reader, stored: Stored) -> BlobReader:
        """Open a blob, wherever the mail root is now. Raises `OSError`."""
        return BlobReader(Blobs(self._home.mail_root(settings.stored(reader).get("mailroot", ""))), stored)
