"""The sweep: files that no row needs, removed.

Invariant: a blob that a row names is never touched, whatever the clock says: that no row names it is looked up, and it
is unlinked, in one transaction, and a delivery looks for its blob in its own. What a commit has discarded is removed at
once; what a crash has left unfinished when it is older than any delivery takes; a complete blob that no row names (a
crash has left it, or an older database was brought back) 30 days after a sweep has found it.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from winpop.db.contract import Database, Reader, Transaction
from winpop.store.blobs import Blobs

_LEFT_BEHIND = 36 * 3600
"""Seconds after which an unfinished or unnamed file was left behind (the rule of maildir(5))."""

_KEPT = 30 * 24 * 3600
"""Seconds for which a complete file is kept that a sweep has found to be named by no row."""
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Swept:
    """How many files went: discarded by a commit, left in `tmp`, complete but named by no row."""

    discarded: int
    unfinished: int
    unnamed: int


def unlink(blobs: Blobs, names: Iterable[str]) -> None:
    """Remove the files of discarded blobs; an error leaves the rest to a later sweep."""
    with contextlib.suppress(OSError):
        for name in names:
            blobs.unlink(name)


def forget(transaction: Transaction, names: Iterable[str]) -> None:
    """Forget discarded blobs whose files are gone."""
    transaction.many("DELETE FROM discarded_blob WHERE name = ?", [(name,) for name in names])


def discard(database: Database, blobs: Blobs, names: Iterable[str]) -> None:
    """Remove the files of discarded blobs and forget them, in the caller's thread."""
    iterator = iter(names)
    while some := list(islice(iterator, _AT_ONCE)):
        with database.write() as transaction:
            named = {name for name in some if _named(transaction, name)}  # none, unless the row of it is damaged
            unlink(blobs, [name for name in some if name not in named])
            forget(transaction, [name for name in some if name in named or not blobs.path(name).exists()])


def sweep(database: Database, blobs: Blobs, now: float) -> Swept:
    """Remove everything that no row needs; `now` is in seconds since 1970."""
    discarded = [str(row[0]) for row in database.all("SELECT name FROM discarded_blob")]
    discard(database, blobs, discarded)
    unfinished = 0
    for path in blobs.tmp.iterdir():
        with contextlib.suppress(FileNotFoundError):  # finished or dropped in this moment
            if left_behind(path.stat().st_mtime, now):
                path.unlink()  # were it still being written, its delivery would be refused for now
                unfinished += 1
    unnamed = 0
    for name, written in blobs.names():
        if left_behind(written, now) and not _named(database, name):
            with database.write() as transaction:
                unnamed += not _named(transaction, name) and _put_away(blobs, name, now)
    return Swept(len(discarded), unfinished, unnamed)


def _put_away(blobs: Blobs, name: str, now: float) -> bool:
    """Mark a file that no row names; remove it if it was marked long ago. Tell whether it is removed.

    The mark is that it cannot be written, and its time. Long: somebody who has brought an older database back may
    still bring back the newer one.
    """
    path = blobs.path(name)
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        if status.st_mode & stat.S_IWUSR:
            path.chmod(0o400)
            os.utime(path, (now, now))
        elif abs(now - status.st_mtime) > _KEPT:
            path.chmod(0o600)  # Windows removes nothing that cannot be written
            blobs.unlink(name)
            return True
    return False


def left_behind(written: float, now: float) -> bool:
    """Tell whether a file that was `written` then was left behind: by the clock, which may have been set back since."""
    return abs(now - written) > _LEFT_BEHIND


def _named(reader: Reader, name: str) -> bool:
    return reader.number("SELECT count(*) FROM body WHERE blob = ?", name) > 0
