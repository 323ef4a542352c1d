"""The sweep: files that no row needs, removed.

Invariant: a blob that a row names is never touched, whatever the clock says: that no row names it is looked up, and it
is unlinked, in one transaction, and a delivery looks for its blob in its own. What a crash may have left (`store` names
the steps) is removed when it is older than any delivery takes; what a commit has discarded is removed at once.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from winpop.db.contract import Database, Reader, Transaction
from winpop.store.blobs import Blobs

_LEFT_BEHIND = 36 * 3600
"""Seconds after which an unfinished or unnamed file was left behind (the rule of maildir(5))."""


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
    gone = list(names)
    if gone:
        unlink(blobs, gone)
        with database.write() as transaction:
            forget(transaction, [name for name in gone if not blobs.path(name).exists()])


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
                if not _named(transaction, name):
                    blobs.unlink(name)
                    unnamed += 1
    return Swept(len(discarded), unfinished, unnamed)


def left_behind(written: float, now: float) -> bool:
    """Tell whether a file that was `written` then was left behind: by the clock, which may have been set back since."""
    return abs(now - written) > _LEFT_BEHIND


def _named(reader: Reader, name: str) -> bool:
    return reader.number("SELECT count(*) FROM body WHERE blob = ?", name) > 0
