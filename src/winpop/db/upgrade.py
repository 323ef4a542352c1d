"""From an earlier schema to today's: under a lease, with the service stopped, and reversible.

Invariant: before a step is applied, the database as it was lies beside it, complete and synchronised; the steps are
one transaction. Whatever fails or is killed in between, the database has the one schema or the other, and the next
command goes on. To go back: stop the service, put the copy in the place of `winpop.db`, use the older winpop; blobs
are the same for both.
"""

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from winpop.db import migrations
from winpop.db.contract import Database
from winpop.db.home import Home, synchronise
from winpop.db.leases import SERVICE, UPGRADE, Leases
from winpop.db.sqlite import Sqlite, translated
from winpop.terms.refusals import Refusal, out_of_reach, readable

_PAGES = 1024
"""How many pages are copied between two words about the progress."""
_TRIES, _PAUSE = 5, 0.05


def copy_before(home: Home, schema: int) -> Path:
    """Return where the database with the earlier schema `schema` is kept."""
    return home.path / f"winpop-schema-{schema}.db"


def open_upgraded(home: Home, tell: Callable[[str], None] = lambda _: None) -> tuple[Sqlite, Path | None]:
    """Open the database of a home, upgraded if need be; return it, and the copy that was made before.

    Raises `Refusal` as `upgrade` and the engine do.
    """
    try:
        return Sqlite(home), None
    except Refusal as refusal:
        if refusal.code != "schema-older":
            raise
    copy = upgrade(home, tell)
    return Sqlite(home), copy


def upgrade(home: Home, tell: Callable[[str], None] = lambda _: None) -> Path | None:
    """Bring the database of a home up to date; return the copy that was made of it before, or None.

    Nothing is done where there is no installation, a new one, or one that is up to date. `tell` is given the progress.
    Raises `Refusal`: `service-running`, `schema-upgrading`, `disk-full`, and those of the engine.
    """
    if not home.exists():
        return None
    database = Sqlite(home, any_schema=True)
    try:
        if not 0 < database.schema() < migrations.LATEST:
            return None
        with contextlib.closing(Leases(home.leases)) as leases:
            _take(leases, UPGRADE, "schema-upgrading", "Another winpop is upgrading the database; wait for it.")
            _take(
                leases,
                SERVICE,
                "service-running",
                "The service still runs with the older winpop; stop it first, and start it again with this one.",
            )
            schema = database.schema()
            if schema == migrations.LATEST:
                return None  # another was quicker
            kept = copy_before(home, schema)
            _copy(home, kept, tell)
            tell("Upgrading the database.")
            _apply(database, schema)
            return kept
    finally:
        database.close()


def _take(leases: Leases, number: int, code: str, sentence: str) -> None:
    for _ in range(_TRIES):  # who only looks whether a service runs has the lease for a moment
        if leases.take(number):
            return
        time.sleep(_PAUSE)
    raise Refusal(code, sentence)


def _apply(database: Database, schema: int) -> None:
    with database.write() as transaction:
        migrations.apply(transaction, schema)


def _copy(home: Home, kept: Path, tell: Callable[[str], None]) -> None:
    """Copy the database, durably, under a name that it has only when it is complete."""
    import shutil  # here: it takes long to import, and this is done once a version

    status = home.database.stat()
    place = readable(str(home.path))
    if shutil.disk_usage(home.path).free < status.st_size:
        raise out_of_reach(
            "disk-full",
            f"The database is upgraded only after a copy was made, and the disk that holds {place} has no room for "
            f"{status.st_size} octets; nothing was changed.",
        )
    unfinished = kept.with_suffix(".tmp")
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        if sys.platform != "win32" and os.geteuid() == 0:
            os.chown(unfinished, status.st_uid, status.st_gid)
        with (
            translated(home),
            contextlib.closing(sqlite3.connect(home.database)) as source,
            contextlib.closing(sqlite3.connect(unfinished)) as target,
        ):
            source.backup(
                target,
                pages=_PAGES,
                progress=lambda _, left, every: tell(f"Copying the database: {100 - 100 * left // max(every, 1)} %"),
            )
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(kept)
        synchronise(home.path)
    except OSError as error:
        raise out_of_reach("copy-failed", f"The database in {place} could not be copied: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
