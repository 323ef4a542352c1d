"""Mail out of a backup, back into its mailboxes.

Invariant: nothing is removed and nothing newer is changed. A message is added where its unique-id is missing, under the
row identifier that it had if this is its installation and the identifiers of all that its mailbox lacks are free, so
that it stands where it stood; otherwise behind what is there, in order. A message that is there and is no longer what
came in gets its body back, in a row of its own: what is damaged is not written to. The age of an added message counts
from its restoring. Bodies are placed before the
transaction of the rows that name them, which looks that they are still there; so a restore that was cut off has added
some messages, whole, and goes on when it is run again.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from winpop.db.contract import Database, Reader, Transaction
from winpop.db.home import Home
from winpop.directory import settings
from winpop.directory.mailboxes import Mailbox
from winpop.store import backup_logons, backup_reading, sweep
from winpop.store.backup_bodies import Body, DamagedError, discard, fetch, is_sound
from winpop.store.backup_copying import Damaged
from winpop.store.backup_format import HELD, Archive
from winpop.store.backup_reading import UnreadableError
from winpop.store.blobs import Blobs
from winpop.store.inspection.flaws import bear
from winpop.store.inspection.rows import BLOB
from winpop.terms.refusals import Refusal, out_of_reach

_OCTETS = 16 * 1024 * 1024
_ROWS = 500
_ASKED_AT_ONCE = 500
_UNUSED = (
    "FROM body WHERE id = ? AND NOT EXISTS "
    "(SELECT 1 FROM message INDEXED BY message_of_body WHERE body_id = body.id AND message.id <> ?)"
)
"""A body that no other message has."""


@dataclass(slots=True)
class Restored:
    """What came back. Octets are those of the added messages."""

    added: int = 0
    octets: int = 0
    present: int = 0
    mended: list[tuple[str, str]] = field(default_factory=list)
    """Mailbox and unique-id."""
    damaged: list[Damaged] = field(default_factory=list)
    vanished: set[str] = field(default_factory=set)
    """Mailboxes that were deleted meanwhile."""


@dataclass(frozen=True, slots=True)
class _Missing:
    """A message that is to be added; `identifier` is None where a new one is to be taken."""

    mailbox: Mailbox
    identifier: int | None
    unique_id: str
    size: int
    body: int


class Restorer:
    """Brings the mail of one snapshot back, mailbox by mailbox; `finish` commits what is left."""

    def __init__(self, database: Database, home: Home, archive: Archive, snapshot: int, *, own: bool) -> None:
        """Begin; `own` says that the backup is of this installation."""
        self._database, self._home, self._archive, self._snapshot, self._own = database, home, archive, snapshot, own
        self._blobs = self._mail_root(database)
        self._blobs.make()
        self._batch: list[_Missing] = []
        self._bodies: dict[int, Body] = {}
        """What the batch brings, by its number in the backup."""
        self._logons: list[tuple[int, backup_logons.Logon]] = []
        """What the batch brings to mailboxes to be logged on to with, by their identifiers."""
        self._octets = 0
        self._shared: dict[int, int] = {}
        """Where bodies with several messages are in the installation, by their number in the backup."""
        self.restored = Restored()

    @property
    def done(self) -> int:
        """How many messages were looked at."""
        said = self.restored
        return said.added + said.present + len(said.mended) + len(said.damaged) + len(self._batch)

    def mailbox(self, source: int, mailbox: Mailbox, tell: Callable[[], None], *, add: bool) -> None:
        """Bring the mail of the mailbox back that was `source`; without `add`, only bodies of what is there.

        With `add` also what it is logged on to with, where that is missing.
        """
        logon = backup_logons.find(self._archive, self._snapshot, source) if add else None
        if logon is not None:
            self._logons.append((mailbox.id, logon))
            if len(self._logons) >= _ROWS:
                self.finish()
        there = self._there(mailbox)
        stays = (
            self._own
            and add
            and self._free(identifier for identifier, unique_id, *_ in self._messages(source) if unique_id not in there)
        )
        for identifier, unique_id, size, body in self._messages(source):
            if unique_id in there:
                self._look_at(mailbox, unique_id, there[unique_id], size, body)
            elif add:
                self._add(_Missing(mailbox, identifier if stays else None, unique_id, size, body))
            tell()

    def is_of(self, source: int, mailbox: Mailbox) -> bool:
        """Tell whether a mailbox has any message that the mailbox `source` had."""
        there = self._there(mailbox)
        return any(unique_id in there for _, unique_id, *_ in self._messages(source))

    def _there(self, mailbox: Mailbox) -> dict[str, tuple[int, int]]:
        """Return identifier and body of a mailbox's messages by their unique-ids; what damage hides of one, not."""
        sql = "SELECT CAST(unique_id AS BLOB), id, body_id FROM message WHERE mailbox_id = ?"
        return {
            unique_id.decode("ascii", "replace"): (identifier, body)
            for unique_id, identifier, body in self._database.all(sql, mailbox.id)
            if isinstance(unique_id, bytes) and isinstance(identifier, int) and isinstance(body, int)
        }

    def _messages(self, source: int) -> Iterator[tuple[int, str, int, int]]:
        yield from self._archive.rows(
            f"SELECT source, unique_id, size, body FROM message WHERE mailbox = :mailbox AND {HELD} ORDER BY source",
            mailbox=source,
            snapshot=self._snapshot,
        )

    def _free(self, identifiers: Iterable[int]) -> bool:
        """Tell whether all these identifiers were given out, and no row has one of them now."""
        try:
            last = self._database.number("SELECT seq FROM sqlite_sequence WHERE name = 'message'")
            iterator = iter(identifiers)
            while some := list(islice(iterator, _ASKED_AT_ONCE)):
                sql = f"SELECT count(*) FROM message WHERE id IN ({', '.join('?' * len(some))})"
                if max(some) > last or self._database.number(sql, *some):
                    return False
        except Refusal as refusal:
            bear(self._database, refusal)
            return False
        return True

    def _is_shared(self, body: int) -> bool:
        sql = f"SELECT count(*) FROM (SELECT 1 FROM message WHERE body = :body AND {HELD} LIMIT 2)"
        return self._archive.number(sql, body=body, snapshot=self._snapshot) > 1

    # --- what is missing ---

    def _add(self, missing: _Missing) -> None:
        if missing.body not in self._shared and missing.body not in self._bodies:
            try:
                body = fetch(self._archive, missing.body, self._blobs)
            except DamagedError as error:
                self._name_damaged(missing.mailbox, missing.unique_id, error)
                return
            self._bodies[missing.body] = body
            self._octets += len(body.content.octets or b"")
        self._batch.append(missing)
        if self._octets >= _OCTETS or len(self._batch) >= _ROWS:
            self.finish()

    def finish(self) -> None:
        """Commit what was gathered. Raises `Refusal`."""
        if not self._batch and not self._logons:
            return
        try:
            with self._database.write() as transaction:
                self._check_files(transaction, self._bodies.values())
                for mailbox_id, logon in self._logons:
                    logon.bring(transaction, mailbox_id)
                bodies, vanished, unused = self._insert(transaction)
        except Refusal as refusal:
            if refusal.code not in ("disk-full", "database-busy"):
                self._bodies = {}  # the outcome is open: a row may name them, and else the sweep sees to them
            raise
        added = [missing.size for missing in self._batch if missing.mailbox.id not in vanished]
        self.restored.added += len(added)
        self.restored.octets += sum(added)
        self.restored.vanished |= {str(each.mailbox.address) for each in self._batch if each.mailbox.id in vanished}
        self._shared |= {body: place for body, place in bodies.items() if self._is_shared(body)}
        sweep.discard(self._database, self._blobs, unused)
        self._batch, self._logons, self._bodies, self._octets = [], [], {}, 0

    def abandon(self) -> None:
        """Remove the files of what was not committed, above all where the disk is full."""
        for body in self._bodies.values():
            discard(self._blobs, body.content)
        self._batch, self._logons, self._bodies = [], [], {}

    def _insert(self, transaction: Transaction) -> tuple[dict[int, int], set[int], list[str]]:
        """Insert the batch; return where the bodies are, the mailboxes that are gone, and the blobs nobody needs."""
        places: dict[int, int] = {}
        mailboxes = {missing.mailbox.id for missing in self._batch}
        sql = "SELECT count(*) FROM mailbox WHERE id = ?"
        now = int(time.time())
        vanished = {mailbox for mailbox in mailboxes if not transaction.number(sql, mailbox)}
        for missing in self._batch:
            if missing.mailbox.id not in vanished:
                place, prefix = self._place(transaction, missing.body, places)
                transaction.insert(
                    "INSERT INTO message (id, mailbox_id, body_id, unique_id, size, prefix, received) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    missing.identifier,
                    missing.mailbox.id,
                    place,
                    missing.unique_id,
                    missing.size,
                    prefix,
                    now,
                )
        # A message that comes back where it stood is behind none: listings that were kept hold no longer.
        back = {missing.mailbox.id for missing in self._batch if missing.identifier is not None} - vanished
        transaction.many("UPDATE mailbox SET removals = removals + 1 WHERE id = ?", [(each,) for each in back])
        blobs = [body.content.blob for number, body in self._bodies.items() if number not in places]
        unused = [name for name in blobs if name is not None]
        transaction.many("INSERT INTO discarded_blob (name) VALUES (?)", [(name,) for name in unused])
        return places, vanished, unused

    def _place(self, transaction: Transaction, body: int, places: dict[int, int]) -> tuple[int, bytes]:
        """Return the row of a body, made where it is not there yet, and the prefix of its messages."""
        known = places.get(body, self._shared.get(body))
        if known is not None:
            row = self._archive.one("SELECT prefix FROM body WHERE id = :id", id=body)
            if row is not None and transaction.number("SELECT count(*) FROM body WHERE id = ?", known):
                return known, bytes(row[0])
        if body not in self._bodies:  # those that had it have deleted it meanwhile
            try:
                self._bodies[body] = fetch(self._archive, body, self._blobs)
            except DamagedError as error:
                raise out_of_reach("backup-damaged", f"A message changed meanwhile ({error}); restore again.") from None
        found = self._bodies[body]
        places[body] = found.insert(transaction)
        return places[body], found.prefix

    # --- what is there ---

    def _look_at(self, mailbox: Mailbox, unique_id: str, place: tuple[int, int], size: int, body: int) -> None:
        """Give a message that is no longer what came in its body back."""
        identifier, row = place
        if self._shared.get(body) == row:
            self.restored.present += 1
            return
        key = self._archive.one("SELECT checksum FROM body WHERE id = :id", id=body)
        assert key is not None
        try:
            stored = backup_reading.find(self._database, mailbox.id, identifier)
            sound = stored is None or is_sound(stored, self._blobs, key[0])
        except UnreadableError:
            stored, sound = None, False
        if not sound:
            try:
                mended = self._mend(mailbox, identifier, size, body)
            except DamagedError as error:
                self._name_damaged(mailbox, unique_id, error)
                return
            if mended:
                self.restored.mended.append((str(mailbox.address), unique_id))
                return
        self.restored.present += 1
        if stored is not None and stored.checksum == key[0] and self._is_shared(body):
            self._shared[body] = row

    def _mend(self, mailbox: Mailbox, identifier: int, size: int, number: int) -> bool:
        """Give a damaged message its body back; tell whether it was still there. Raises `DamagedError`."""
        body = fetch(self._archive, number, self._blobs)
        place = 0
        for drop in (True, False):  # a row that damage has hit cannot always be removed
            try:
                place = self._repoint(identifier, size, body, drop=drop)
            except Refusal as refusal:
                bear(self._database, refusal)
            else:
                break
        if place:
            if self._is_shared(number):
                self._shared[number] = place
        elif backup_reading.is_there(self._database, mailbox.id, identifier):
            raise DamagedError("its row here is damaged and cannot be written")
        return place > 0

    def _repoint(self, identifier: int, size: int, body: Body, *, drop: bool) -> int:
        """Put a body in a row of its own and let a message name it; return that row, or 0 where the message is gone.

        With `drop`, the body that it named before goes if no other message has it.
        """
        place, unused = 0, [body.content.blob]
        with self._database.write() as transaction:
            self._check_files(transaction, [body])
            row = transaction.one("SELECT body_id FROM message WHERE id = ?", identifier)
            if row is not None:
                old, unused = row[0], []
                blob = transaction.one(f"SELECT CAST(blob AS BLOB) {_UNUSED}", old, identifier) if drop else None
                if blob is not None:
                    unused = [blob[0].decode("ascii", "replace") if isinstance(blob[0], bytes) else None]
                place = body.insert(transaction)
                sql = "UPDATE message SET body_id = ?, prefix = ?, size = ? WHERE id = ?"
                transaction.run(sql, place, body.prefix, size, identifier)
                if blob is not None:
                    transaction.run("DELETE FROM body WHERE id = ?", old)
            gone = [name for name in unused if name is not None and BLOB.fullmatch(name)]
            transaction.many("INSERT OR IGNORE INTO discarded_blob (name) VALUES (?)", [(name,) for name in gone])
        sweep.discard(self._database, self._blobs, gone)
        return place

    # --- both ---

    def _name_damaged(self, mailbox: Mailbox, unique_id: str, error: DamagedError) -> None:
        self.restored.damaged.append(Damaged(str(mailbox.address), unique_id, str(error)))

    def _mail_root(self, reader: Reader) -> Blobs:
        return Blobs(self._home.mail_root(settings.stored(reader).get("mailroot", "")))

    def _check_files(self, transaction: Transaction, bodies: Iterable[Body]) -> None:
        """Refuse to name a file that is not where the mail root is now."""
        now = self._mail_root(transaction)
        for body in bodies:
            if body.content.blob is not None and not now.has(body.content.blob):
                raise out_of_reach("draft-lost", "The mail root was moved or swept meanwhile; restore again.")
