"""Room on the disk that is ours already, so that a service goes on when there is not a byte free.

Two files, made while there is plenty of room: the write-ahead log is long beforehand, zeros which the engine
overwrites; and a file `reserve` stands in for the log where there is none, as after a stop. So logging on, fetching,
deleting, locking and unlocking go on, while mail is refused from a low-water mark on (the setting `diskreserve`).
Invariant: nothing is written to a log but zeros behind its end, and only while nobody else can write to it; a log that
is there is never replaced. To the engine a log of zeros is an empty one.
"""

import contextlib
import os
import sys
from pathlib import Path

from winpop.db.contract import Database
from winpop.db.home import Home, synchronise

LOG = 16 * 1024 * 1024
"""Octets that the log has at least. A checkpoint starts it anew when 4 MiB are used."""
RESERVE = 8 * 1024 * 1024
_REST = 1024 * 1024
"""Octets of the reserve that are set free, when it becomes the log, for what else is made at a start."""
_PLENTY = 2 * (LOG + RESERVE)
"""Octets that must be free before any is taken."""
_NOTHING = 1024 * 1024
"""Octets free under which there is no room for a log."""
_PIECE = bytes(1024 * 1024)
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def keep(home: Home, database: Database) -> None:
    """Make what is missing, if there is plenty of room. Raises `Refusal` as the engine does."""
    short, reserved = _size(home.log) < LOG, _size(home.reserve) >= RESERVE
    if (reserved and not short) or _free(home) < _PLENTY:
        return
    with database.write(), contextlib.suppress(OSError):  # nobody else writes to the log
        if short:
            _lengthen(home.log, LOG)
        if not reserved:
            home.reserve.touch(0o600)
            _lengthen(home.reserve, RESERVE)
            synchronise(home.path)


def make_sure(home: Home) -> None:
    """Give up the reserve where the next change would find neither a log nor room for one."""
    if _size(home.log) < _REST and is_used_up(home):
        give_up(home)


def is_used_up(home: Home) -> bool:
    """Tell whether there is no room for a log."""
    return _free(home) < _NOTHING


def give_up(home: Home) -> None:
    """Make the reserve the log, or where there is one, room for it to grow."""
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            os.link(home.reserve, home.log)
            os.truncate(home.log, RESERVE - _REST)
        home.reserve.unlink()


def _lengthen(path: Path, size: int) -> None:
    """Write zeros behind the end of a file, durably. Raises `OSError`."""
    descriptor = os.open(path, _APPEND)
    try:
        missing = size - os.fstat(descriptor).st_size
        while missing > 0:
            missing -= os.write(descriptor, _PIECE[:missing])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _free(home: Home) -> int:
    try:
        if sys.platform == "win32":
            import shutil  # here: it takes long to import, and the tool shall start at once

            return shutil.disk_usage(home.path).free
        status = os.statvfs(home.path)
        return status.f_bavail * status.f_frsize
    except OSError:
        return _PLENTY  # not known: nothing is given up for it
