"""Opening the directory of a backup, to read it or to add to it.

Invariant: nothing is made or changed in a directory that is not a backup of this installation and this scope; whatever
is wrong with it or with its disk comes out as a refusal. Who adds is alone, until the end of its process at the latest.
"""

import contextlib
import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from winpop.db.home import synchronise, synchronise_above
from winpop.store.backup_format import (
    APPLICATION,
    NAME,
    SCHEMA,
    STATEMENTS,
    STEPS,
    Archive,
    no_backup,
    scope_words,
    unusable,
)
from winpop.terms.refusals import Refusal, out_of_reach, readable

_WAIT = 2.0
"""Seconds for which another's lock is waited for."""
_OF_THE_DISK = "lost+found"
"""What is in a new file system already."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextlib.contextmanager
def opened(directory: Path, *, make: tuple[str, str] | None = None) -> Iterator[Archive]:
    """Open a backup: to read it, or with `make` (the installation and the scope) to add to it, alone.

    Raises `Refusal`: `not-a-backup`, `other-backup`, `unsafe-backup`, `backup-running`, `backup-newer`,
    `backup-damaged`, `backup-unusable`, `disk-full`, `not-permitted`.
    """
    with _translated(directory):
        if make is not None:
            _make(directory)
        connection = _connect(directory, alone=make is not None)
        archive = Archive(directory, connection)
        try:
            _check_schema(archive, make)
            if make is not None:
                archive.make_directories()
            else:
                connection.execute("BEGIN")  # nobody may begin to write while this is open
                archive.origin()
            yield archive
        finally:
            if make is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA locking_mode = NORMAL")
                    archive.one("SELECT 1 FROM origin")  # only now the lock and the journal go
            connection.close()


def exists(directory: Path) -> bool:
    """Tell whether this looks like a backup. Raises `Refusal`."""
    with _translated(directory):
        try:
            return stat.S_ISREG((directory / NAME).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def _make(directory: Path) -> None:
    """Make the directory and an empty database where they are missing; refuse a directory that is something else."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix" and directory.stat().st_mode & _OTHERS_WRITE:
        raise Refusal(
            "unsafe-backup",
            f"Others may write in {readable(str(directory))}, so it cannot hold a backup; run chmod go-w on it.",
        )
    if not (directory / NAME).exists():
        if any(path.name != _OF_THE_DISK for path in directory.iterdir()):
            raise no_backup(directory)
        os.close(os.open(directory / NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        synchronise(directory)
        synchronise_above(directory)


def _connect(directory: Path, *, alone: bool) -> sqlite3.Connection:
    path = directory / NAME
    if not exists(directory):
        raise no_backup(directory)
    # What cannot be written (another's, or on a disk that is mounted so) can still be restored from.
    mode = "rw" if alone or (os.access(directory, os.W_OK) and os.access(path, os.W_OK)) else "ro"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", _WAIT, isolation_level=None, uri=True)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        if alone:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # from the next transaction on
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(archive: Archive, make: tuple[str, str] | None) -> None:
    schema, application = archive.schema(), archive.number("PRAGMA application_id")
    empty = schema == application == archive.number("SELECT count(*) FROM sqlite_master") == 0
    if empty and archive.has_files():  # a new database would make them nobody's
        raise out_of_reach(
            "backup-damaged",
            f"{readable(str(archive.directory / NAME))} is empty, and mail lies in blobs beside it; bring that file "
            "back from a copy of the backup, or take another directory.",
        )
    if empty and make is not None:
        archive.run("PRAGMA auto_vacuum = INCREMENTAL")  # while there is no table
        with archive.write():
            for statement in STATEMENTS:
                archive.run(statement)
            archive.insert("INSERT INTO origin (installation, scope) VALUES (?, ?)", *make)
            archive.run(f"PRAGMA application_id = {APPLICATION:d}")
            archive.run(f"PRAGMA user_version = {SCHEMA:d}")
        return
    if application != APPLICATION:
        raise no_backup(archive.directory)
    place = readable(str(archive.directory))
    if schema > SCHEMA:
        raise Refusal("backup-newer", f"The backup in {place} was made by a newer winpop; use that one.")
    installation, scope = archive.origin()
    if make is not None and installation != make[0]:
        raise Refusal(
            "other-backup", f"The backup in {place} is of another installation; take another directory for this one."
        )
    if make is not None and scope != make[1]:
        raise Refusal(
            "other-backup",
            f"The backup in {place} is of {scope_words(scope)}, not of {scope_words(make[1])}; take another directory.",
        )
    if make is not None:
        _bring_up(archive, schema)


def _bring_up(archive: Archive, schema: int) -> None:
    """Bring a backup of an earlier format to the present one."""
    if schema < SCHEMA:
        with archive.write():
            for number in range(schema + 1, SCHEMA + 1):
                for statement in STEPS[number]:
                    archive.run(statement)
            archive.run(f"PRAGMA user_version = {SCHEMA:d}")


@contextlib.contextmanager
def _translated(directory: Path) -> Iterator[None]:
    """Turn errors of the directory and of the engine into refusals."""
    place = readable(str(directory))
    try:
        yield
    except OSError as error:
        raise unusable(directory, error) from error
    except sqlite3.DatabaseError as error:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise Refusal(
                    "backup-running", f"Another winpop works with the backup in {place}; wait for it."
                ) from None
            case sqlite3.SQLITE_FULL:
                raise unusable(directory, OSError(errno.ENOSPC, "")) from error
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN if _is_read_only(directory):
                raise unusable(directory, OSError(errno.EROFS, "")) from error
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                raise unusable(directory, PermissionError(errno.EACCES, "")) from error
            case sqlite3.SQLITE_NOTADB:
                raise no_backup(directory) from error
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_NOMEM:
                raise unusable(directory, OSError(errno.EIO, str(error))) from error
            case sqlite3.SQLITE_CORRUPT:
                raise out_of_reach(
                    "backup-damaged", f"The backup in {place} is damaged ({error}); take another, and make a new one."
                ) from error
        raise


def _is_read_only(directory: Path) -> bool:
    """Tell whether the disk is mounted so that nobody can write."""
    try:
        return os.name == "posix" and bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False
