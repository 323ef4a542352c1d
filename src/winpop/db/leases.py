"""Leases: numbers that at most one holder has, given up by a process that dies in whatever way.

One machine: a byte of the file `leases` is locked for each number. The kernel frees the byte when the
process ends, so no holder can be dead. Invariant: a number is held once in this process (a set sees to it)
and once among processes (the byte-range lock does).

Open file description locks where the system has them (Linux): closing another descriptor of the file does
not free them, as it would a POSIX lock. Elsewhere POSIX locks, on Windows `msvcrt.locking`.
"""

import contextlib
import os
import struct
import sys
from pathlib import Path

from winpop.db.home import not_permitted
from winpop.terms.refusals import out_of_reach, readable

SERVICE = 0
"""The number of the running service."""
UPGRADE = 1
"""The number of whoever upgrades the database."""
ROOM = 3
"""The number of whoever makes the reserve the log."""
RESTORE = 2
"""The number of whoever restores a backup."""
# 4 and 5 are those of `turns`.
_FIRST_MAILBOX = 1024


def mailbox_number(mailbox_id: int) -> int:
    """Return the number of the lease that is a mailbox's maildrop lock (RFC 1939 §4)."""
    return _FIRST_MAILBOX + mailbox_id


class Leases:
    """The leases of one home, as this process sees them."""

    def __init__(self, path: Path) -> None:
        """Open the file, making it when it is missing. Raises `Refusal` (`not-permitted`, `home-unusable`)."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except PermissionError:
            raise not_permitted(path.parent) from None
        except OSError as error:
            place = readable(str(path))
            raise out_of_reach("home-unusable", f"{place} cannot be opened: {error.strerror}.") from error
        self._held: set[int] = set()
        self._path, self._home = path, -1

    def take(self, number: int) -> bool:
        """Take a lease now, or tell that somebody has it."""
        if number in self._held or not _lock(self._descriptor, number):
            return False
        if number == SERVICE and not self._hold_home():
            _unlock(self._descriptor, number)
            return False
        self._held.add(number)
        return True

    def _hold_home(self) -> bool:
        """Lock the directory too, where the system can: somebody may remove the file, thinking that it is stale."""
        if sys.platform == "win32":
            return True
        try:
            self._home = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._home, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._leave_home()
            return False
        return True

    def _leave_home(self) -> None:
        if self._home >= 0:
            os.close(self._home)
            self._home = -1

    def free(self, number: int) -> None:
        """Give a lease back."""
        self._held.discard(number)
        if number == SERVICE:
            self._leave_home()
        _unlock(self._descriptor, number)

    def close(self) -> None:
        """Give all back."""
        self._leave_home()
        os.close(self._descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, number: int) -> bool:
        os.lseek(descriptor, number, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int, number: int) -> None:
        os.lseek(descriptor, number, os.SEEK_SET)
        with contextlib.suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    _FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid

    def _lock(descriptor: int, number: int) -> bool:
        try:
            _change(descriptor, fcntl.F_WRLCK, number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(descriptor: int, number: int) -> None:
        _change(descriptor, fcntl.F_UNLCK, number)

    def _change(descriptor: int, kind: int, number: int) -> None:
        if sys.platform == "linux" and sys.maxsize > 2**32:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))
        elif kind == fcntl.F_UNLCK:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, number)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
