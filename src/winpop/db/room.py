"""Room on the disk that is ours already, so that a service goes on when there is not a byte free.

Two files, made while there is plenty of room: the write-ahead log is long beforehand, zeros which the engine
overwrites; and a file `reserve` stands in for the log where there is none, as after a stop. It becomes the log by a
second link, so that its room is not lost when the engine removes the log, and it can be the log again. So logging on,
fetching, deleting, locking and unlocking go on, while mail is refused from a low-water mark on (`diskreserve`).
Invariant: nothing is written to a log but zeros behind its end, and only while nobody else can write to it; a log that
is there is never replaced, and the reserve is emptied only while it is no log, by one process at a time (a lease). To
the engine a log whose header is zeros is an empty one.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

from winpop.db.contract import Database
from winpop.db.home import Home, synchronise
from winpop.db.leases import ROOM, Leases
from winpop.terms.refusals import Refusal

LOG = 16 * 1024 * 1024
"""Octets that the log has at least. A checkpoint starts it anew when 4 MiB are used."""
RESERVE = 8 * 1024 * 1024
_REST = 512 * 1024
"""Octets of the reserve that are set free, each time that it becomes the log, for what else is made at a start."""
_LEAST = 1024 * 1024
"""Octets of a log with which something can be changed."""
_HEADER = 32
_PLENTY = 2 * (LOG + RESERVE)
"""Octets that must be free before any is taken."""
_NOTHING = 1024 * 1024
"""Octets free under which there is no room for a log."""
_WAIT = 1.0
_PIECE = bytes(1024 * 1024)
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def keep(home: Home, database: Database) -> None:
    """Make what is missing, if there is plenty of room. Raises `Refusal` as the engine does."""
    short = _size(home.log) < LOG
    reserved = _size(home.reserve) >= RESERVE and not _is_the_log(home)
    if (reserved and not short) or _free(home) < _PLENTY:
        return
    with database.write(), contextlib.suppress(OSError):  # nobody else writes to the log
        if short:
            _lengthen(home.log, LOG)
        if not reserved:
            if _is_the_log(home):
                home.reserve.unlink()
            home.reserve.touch(0o600)
            _lengthen(home.reserve, RESERVE)
            synchronise(home.path)


def make_sure(home: Home) -> None:
    """Make the reserve the log where the next change would find neither a log nor room for one."""
    if _size(home.log) < _LEAST and is_used_up(home) and home.reserve.exists():
        with contextlib.suppress(OSError, Refusal), contextlib.closing(Leases(home.leases)) as leases:
            until = time.monotonic() + _WAIT
            while not leases.take(ROOM) and time.monotonic() < until:
                time.sleep(0.01)
            if home.log.exists():
                give_up(home)
            else:
                _make_it_the_log(home)


def is_used_up(home: Home) -> bool:
    """Tell whether there is no room for a log."""
    return _free(home) < _NOTHING


def set_free(home: Home) -> bool:
    """Set a part of the reserve free, which has become the log and is still empty; tell whether there was one.

    For who could not open the database: somebody else was quicker to take what was free.
    """
    if not is_used_up(home) or not _is_the_log(home):
        return False
    with contextlib.suppress(OSError, Refusal), contextlib.closing(Leases(home.leases)) as leases:
        if leases.take(ROOM):
            with home.log.open("rb+") as file:
                left = os.fstat(file.fileno()).st_size - _REST
                if left >= _LEAST and file.read(_HEADER) == bytes(_HEADER):
                    os.ftruncate(file.fileno(), left)
                    return True
    return False


def give_up(home: Home) -> None:
    """Give up the reserve, for a log that there is to grow."""
    with contextlib.suppress(OSError):
        home.reserve.unlink()


def _make_it_the_log(home: Home) -> None:
    descriptor = os.open(home.reserve, os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        os.write(descriptor, bytes(_HEADER))  # what an earlier log had in it is nothing now
        os.fsync(descriptor)
        os.link(home.reserve, home.log)
        # Last, and not synchronised: whoever fills the disk would take it meanwhile.
        os.ftruncate(descriptor, max(os.fstat(descriptor).st_size - _REST, 0))
    finally:
        os.close(descriptor)


def _is_the_log(home: Home) -> bool:
    try:
        return home.reserve.samefile(home.log)
    except OSError:
        return False


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
