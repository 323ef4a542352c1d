"""A backup as it lies on disk: a directory that belongs to one installation and one scope.

    DIR/winpop-backup.db   what there was at each snapshot, and small bodies
    DIR/blobs/             large bodies, laid out as in a mail root

A row of a setting, domain, mailbox or message holds from the snapshot `first` until before the snapshot `gone`, so a
snapshot costs only what has changed. Invariant: a body is in a row or in a file that is wholly on disk, under the
checksum that it had when it was copied; a snapshot that is not `complete` is the newest, and nothing reads it. While
one makes a backup nobody else reads or writes it, by the engine's own locks, which die with their holder. Between two
uses there is no log beside the database, so that the directory can be copied as it is.
"""

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winpop.db.home import not_permitted, synchronise
from winpop.store.blobs import Blobs, Content, Draft
from winpop.terms.refusals import Refusal, out_of_reach, readable

NAME = "winpop-backup.db"
APPLICATION = 0x77706270
SCHEMA = 2

HELD = "first <= :snapshot AND (gone IS NULL OR gone > :snapshot)"
"""What makes a row part of a snapshot."""

STATEMENTS = (
    # `scope` is a domain, an address, or empty for the whole server.
    "CREATE TABLE origin (installation TEXT NOT NULL, scope TEXT NOT NULL) STRICT",
    """CREATE TABLE snapshot (
         id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, complete INTEGER NOT NULL DEFAULT 0,
         domains INTEGER NOT NULL DEFAULT 0, mailboxes INTEGER NOT NULL DEFAULT 0,
         messages INTEGER NOT NULL DEFAULT 0, octets INTEGER NOT NULL DEFAULT 0) STRICT""",
    "CREATE TABLE setting (name TEXT NOT NULL, value TEXT NOT NULL, first INTEGER NOT NULL, gone INTEGER) STRICT",
    "CREATE TABLE domain (name TEXT NOT NULL, locked INTEGER NOT NULL, first INTEGER NOT NULL, gone INTEGER) STRICT",
    """CREATE TABLE mailbox (
         source INTEGER NOT NULL, domain TEXT NOT NULL, name TEXT NOT NULL, locked INTEGER NOT NULL,
         hash TEXT NOT NULL, first INTEGER NOT NULL, gone INTEGER,
         scram_sha_1 TEXT NOT NULL DEFAULT '', scram_sha_256 TEXT NOT NULL DEFAULT '',
         method INTEGER NOT NULL DEFAULT 0, account TEXT NOT NULL DEFAULT '') STRICT""",
    # The checksum is that of `winpop.store.blobs`: of the body, then the prefix.
    """CREATE TABLE body (
         id INTEGER PRIMARY KEY, checksum BLOB NOT NULL, size INTEGER NOT NULL, plain INTEGER NOT NULL,
         prefix BLOB NOT NULL, blob TEXT UNIQUE, content BLOB, UNIQUE (checksum, size),
         CHECK ((content IS NULL) <> (blob IS NULL))) STRICT""",
    # `source` and `mailbox` are identifiers of the installation; `body` is NULL until it was copied.
    """CREATE TABLE message (
         id INTEGER PRIMARY KEY, mailbox INTEGER NOT NULL, source INTEGER NOT NULL, unique_id TEXT NOT NULL,
         size INTEGER NOT NULL, first INTEGER NOT NULL, gone INTEGER, body INTEGER REFERENCES body (id)) STRICT""",
    "CREATE INDEX domain_by_name ON domain (name)",
    "CREATE INDEX mailbox_by_source ON mailbox (source)",
    "CREATE INDEX message_by_source ON message (mailbox, source)",
    "CREATE INDEX message_by_body ON message (body)",
)

STEPS = {
    2: tuple(
        f"ALTER TABLE mailbox ADD COLUMN {column}"
        for column in (
            "scram_sha_1 TEXT NOT NULL DEFAULT ''",
            "scram_sha_256 TEXT NOT NULL DEFAULT ''",
            "method INTEGER NOT NULL DEFAULT 0",
            "account TEXT NOT NULL DEFAULT ''",
        )
    )
}
"""What makes a format of the one before it: 2 has the keys of SCRAM beside a hash, and the accounts of other methods.

A backup is brought to the present format when one is added to it; who only reads it takes it as it is.
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete snapshot. `time` is in seconds since 1970 and no other snapshot's."""

    id: int
    time: int
    domains: int
    mailboxes: int
    messages: int
    octets: int


class Archive:
    """An open backup. Its errors leave `opened` as refusals."""

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        """Use a connection to the backup in `directory`."""
        self.directory = directory
        self.blobs = Blobs(directory / "blobs")
        self._connection = connection

    def rows(self, sql: str, **values: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - whatever SQLite holds
        """Yield the rows of a query, as they are read."""
        return self._connection.execute(sql, values)

    def one(self, sql: str, **values: Any) -> tuple[Any, ...] | None:  # noqa: ANN401 - see `rows`
        """Return the first row, or None."""
        cursor = self._connection.execute(sql, values)
        row: tuple[Any, ...] | None = cursor.fetchone()
        cursor.close()
        return row

    def number(self, sql: str, **values: Any) -> int:  # noqa: ANN401 - see `rows`
        """Return the first column of the first row; 0 where there is no row or it is NULL."""
        row = self.one(sql, **values)
        return int(row[0] or 0) if row else 0

    def run(self, sql: str, **values: Any) -> int:  # noqa: ANN401 - see `rows`
        """Change rows; return how many."""
        return self._connection.execute(sql, values).rowcount

    def insert(self, sql: str, *values: int | str | bytes | None) -> int:
        """Insert a row; return its identifier."""
        return self._connection.execute(sql, values).lastrowid or 0

    def many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each row."""
        self._connection.executemany(sql, rows)

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """One durable transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def schema(self) -> int:
        """Return the number of its format; 0 for an empty database."""
        return self.number("PRAGMA user_version")

    def origin(self) -> tuple[str, str]:
        """Return the installation and the scope that this is a backup of."""
        row = self.one("SELECT installation, scope FROM origin")
        if row is None:
            raise no_backup(self.directory)
        return str(row[0]), str(row[1])

    def snapshots(self) -> list[Snapshot]:
        """Return the complete snapshots, oldest first."""
        names = "id, time, domains, mailboxes, messages, octets"
        return [Snapshot(*row) for row in self.rows(f"SELECT {names} FROM snapshot WHERE complete ORDER BY id")]

    def place(self, pieces: Iterable[bytes]) -> Content:
        """Put a body where it stays, durably where it is a file. Raises `Refusal`."""
        draft = Draft(self.blobs)
        try:
            for piece in pieces:
                draft.write(piece)
            return draft.finish()
        except BaseException as error:
            draft.discard()
            if isinstance(error, Refusal) and isinstance(error.__cause__, OSError):
                raise unusable(self.directory, error.__cause__) from error.__cause__
            raise

    def tidy(self) -> None:
        """Remove the files that no row names: those of a killed run, and those whose rows are gone."""
        named = {name for (name,) in self.rows("SELECT blob FROM body WHERE blob IS NOT NULL")}
        for name, _ in self.blobs.names():
            if name not in named:
                self.blobs.unlink(name)
        for path in self.blobs.tmp.iterdir():
            if not path.is_dir():  # which is nothing of ours
                path.unlink()

    def has_files(self) -> bool:
        """Tell whether there is a file where bodies lie."""
        return any(files for _, _, files in os.walk(self.blobs.root))

    def make_directories(self) -> None:
        """Make what is missing of the directories of bodies. Raises `OSError`, and `Refusal`."""
        self.blobs.make()
        missing = [path for path in (self.blobs.root / f"{n:02x}" for n in range(256)) if not path.is_dir()]
        for path in missing:
            path.mkdir(mode=0o700)
        if missing:
            synchronise(self.blobs.root)


def scope_words(scope: str) -> str:
    """Say what a scope is."""
    return "the whole server" if not scope else f"{'the mailbox' if '@' in scope else 'the domain'} {scope}"


def shown(moment: int) -> str:
    """Return a snapshot's time as it is shown and can be given."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def unusable(directory: Path, error: OSError) -> Refusal:
    """Make the refusal for a directory that cannot be used."""
    place = readable(str(directory))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return out_of_reach(
            "disk-full", f"The disk that holds {place} is full; what was backed up there before is whole."
        )
    if error.errno == errno.EROFS:
        return out_of_reach(
            "backup-unusable", f"The disk that holds {place} is mounted read-only; mount it so that it can be written."
        )
    if isinstance(error, PermissionError):
        refusal = not_permitted(directory)
        user = "the owner of the home" if os.name != "posix" else f"the owner of the home (user {os.geteuid()})"
        sentence = f"Backups are made and restored as {user}, who may not use {place}; give it to that user."
        return Refusal(refusal.code, sentence, refusal.kind)
    where = f" ({readable(str(error.filename))})" if error.filename else ""
    return out_of_reach("backup-unusable", f"The backup in {place} cannot be used: {error.strerror or error}{where}.")


def no_backup(directory: Path) -> Refusal:
    """Make the refusal for a directory that is something else."""
    return Refusal(
        "not-a-backup",
        f"{readable(str(directory))} is not a backup; name a directory that 'winpop backup' has made, or for a new "
        "backup one that is missing or empty.",
    )
