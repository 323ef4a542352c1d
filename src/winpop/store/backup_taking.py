"""Taking a backup: a snapshot of the directory and of the lists of messages, then the bodies that are not there yet.

Invariant: directory and lists are read in one short snapshot of the installation, bodies afterwards one by one, so no
long reading keeps its log from being reset; a message that was expunged meanwhile is not in the snapshot. The snapshot
is complete, and counts, with its last commit; one that was cut off is begun anew under its number, and what it had
copied stays. A body is compared with its checksum when it is copied; a damaged one is named and left out. What no kept
snapshot needs goes with a commit, and its file after it.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any

from winpop.db.contract import Database
from winpop.store import backup_reading, backup_verifying
from winpop.store.backup_copying import Copier, Damaged, Taken
from winpop.store.backup_format import HELD, Archive
from winpop.store.backup_source import Source

_COLUMNS = {
    "setting": ("name", "value"),
    "domain": ("name", "locked"),
    "mailbox": ("source", "domain", "name", "locked", "hash", "scram_sha_1", "scram_sha_256", "method", "account"),
    "message": ("mailbox", "source", "unique_id", "size"),
}

_NUMBERS = {"locked", "source", "mailbox", "size", "body", "method"}


def take(  # noqa: PLR0913 - what to do, and how
    database: Database,
    archive: Archive,
    source: Source,
    keep: int | None,
    tell: Callable[[str], None],
    *,
    verify: bool = False,
) -> Taken:
    """Add a snapshot; with `keep`, remove all but the newest so many. Raises `Refusal`.

    With `verify`, all that is in the backup already is read again, else a part of it.
    """
    taken = Taken()
    try:
        archive.tidy()
        verified = backup_verifying.verify(archive, tell, every=verify)
        taken.verified, lost = verified.bodies, verified.bad
        source.without_password = backup_reading.unreadable_logons(database)
        snapshot = _begin(database, archive, source, taken, lost)
        copier = Copier(database, archive, source, taken, lost)
        every = archive.number("SELECT count(*) FROM temp.wanted")
        done = 0
        while done < every:
            done = copier.batch(done)
            tell(f"Copying messages: {done:,} of {every:,}".replace(",", " "))
        _complete(archive, snapshot, taken, keep)
        _name_lost(archive, taken, lost)
    except BaseException:
        with contextlib.suppress(OSError, sqlite3.Error):
            archive.tidy()  # above all where the disk is full
        raise
    with contextlib.suppress(OSError):
        archive.tidy()  # what is left goes next time
    return taken


# --- what there is ---


def _begin(database: Database, archive: Archive, source: Source, taken: Taken, lost: Iterable[int]) -> int:
    """Enter what there is now, and list in `wanted` what has to be copied; return the snapshot's number."""
    with archive.write():
        with database.snapshot() as reader:
            source.find(reader)
            moment = int(time.time())
            _note(archive, "setting", source.settings(reader))
            _note(archive, "domain", source.domains(reader))
            _note(archive, "mailbox", source.mailboxes(reader))
            for bad in sorted(source.without_password):
                row = archive.one("SELECT name || '@' || domain FROM temp.now_mailbox WHERE source = :id", id=bad)
                taken.without_password += [str(row[0])] if row else []
            _note(archive, "message", source.messages(reader), "body")
        while archive.number("SELECT count(*) FROM snapshot WHERE complete AND time = :time", time=moment):
            moment += 1  # a snapshot is named by its time
        snapshot = archive.number("SELECT id FROM snapshot WHERE NOT complete")
        if snapshot:
            archive.run("UPDATE snapshot SET time = :time WHERE id = :id", time=moment, id=snapshot)
        else:
            snapshot = archive.insert("INSERT INTO snapshot (time) VALUES (?)", moment)
        for table, columns in _COLUMNS.items():
            taken.gone = _enter(archive, table, columns, snapshot)  # that of the last one, the messages, stays
        archive.run("CREATE TEMP TABLE lost (body INTEGER PRIMARY KEY)")
        archive.many("INSERT INTO temp.lost VALUES (?)", ((body,) for body in lost))
        archive.run("CREATE TEMP TABLE wanted (n INTEGER PRIMARY KEY, message INTEGER, source INTEGER, body INTEGER)")
        archive.run(f"""
            INSERT INTO temp.wanted (message, source, body)
            SELECT message.id, message.source, now.body FROM message
            JOIN temp.now_message AS now ON now.mailbox = message.mailbox AND now.source = message.source
            WHERE {HELD} AND (message.body IS NULL OR message.body IN (SELECT body FROM temp.lost))
            ORDER BY now.body, message.source""", snapshot=snapshot)  # fmt: skip
        archive.run("DROP TABLE temp.now_message")
    taken.time = moment
    return snapshot


def _note(archive: Archive, table: str, rows: Iterable[tuple[Any, ...]], *further: str) -> None:
    """Enter in a temporary table what there is now."""
    columns = (*_COLUMNS[table], *further)
    names = ", ".join(columns)
    typed = ", ".join(f"{column} {'INTEGER' if column in _NUMBERS else 'TEXT'}" for column in columns)
    # With other types than those of the table itself the two could not be compared by the key.
    archive.run(f"CREATE TEMP TABLE now_{table} ({typed}, PRIMARY KEY ({names})) WITHOUT ROWID")
    archive.many(f"INSERT INTO temp.now_{table} VALUES ({', '.join('?' * len(columns))})", rows)


def _enter(archive: Archive, table: str, columns: tuple[str, ...], snapshot: int) -> int:
    """Bring a table up to what there is now; return how many rows are gone. What an attempt left is taken back."""
    names = ", ".join(columns)
    same = " AND ".join(f"{table}.{column} = now.{column}" for column in columns)
    there = f"EXISTS (SELECT 1 FROM temp.now_{table} AS now WHERE {same})"
    archive.run(f"UPDATE {table} SET gone = NULL WHERE gone = :snapshot", snapshot=snapshot)
    archive.run(f"DELETE FROM {table} WHERE first = :snapshot AND NOT {there}", snapshot=snapshot)
    gone = archive.run(f"UPDATE {table} SET gone = :snapshot WHERE gone IS NULL AND NOT {there}", snapshot=snapshot)
    archive.run(
        f"INSERT INTO {table} ({names}, first) SELECT {names}, :snapshot FROM temp.now_{table} AS now "
        f"WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE gone IS NULL AND {same})",
        snapshot=snapshot,
    )
    return gone


def _complete(archive: Archive, snapshot: int, taken: Taken, keep: int | None) -> None:
    """Make the snapshot count, and remove those that are not kept."""
    with archive.write():
        archive.run("DELETE FROM message WHERE body IS NULL")
        taken.domains = archive.number(f"SELECT count(*) FROM domain WHERE {HELD}", snapshot=snapshot)
        taken.mailboxes = archive.number(f"SELECT count(*) FROM mailbox WHERE {HELD}", snapshot=snapshot)
        row = archive.one(f"SELECT count(*), coalesce(sum(size), 0) FROM message WHERE {HELD}", snapshot=snapshot)
        assert row is not None
        taken.messages, taken.octets = row
        taken.kept = max(taken.messages - taken.copied, 0)
        archive.run(
            "UPDATE snapshot SET complete = 1, domains = :domains, mailboxes = :mailboxes, messages = :messages, "
            "octets = :octets WHERE id = :id",
            domains=taken.domains,
            mailboxes=taken.mailboxes,
            messages=taken.messages,
            octets=taken.octets,
            id=snapshot,
        )
        if keep is not None:
            oldest = archive.number(
                "SELECT min(id) FROM (SELECT id FROM snapshot ORDER BY id DESC LIMIT :keep)", keep=keep
            )
            taken.removed_snapshots = archive.run("DELETE FROM snapshot WHERE id < :oldest", oldest=oldest)
            for table in _COLUMNS:
                archive.run(f"DELETE FROM {table} WHERE gone <= :oldest", oldest=oldest)
        archive.run("DELETE FROM body WHERE NOT EXISTS (SELECT 1 FROM message WHERE message.body = body.id)")
    if taken.removed_snapshots:
        for _ in archive.rows("PRAGMA incremental_vacuum"):
            pass


def _name_lost(archive: Archive, taken: Taken, lost: set[int]) -> None:
    """Name what is damaged in the backup and was not copied again."""
    there = {body for body in lost if archive.number("SELECT count(*) FROM body WHERE id = :id", id=body)}
    taken.lost = len(there)
    here = {(each.mailbox, each.unique_id) for each in taken.damaged}
    named = (named for named in backup_verifying.messages(archive, there) if named not in here)
    taken.damaged_there += [Damaged(*each, "damaged in the backup, and gone here") for each in named]
