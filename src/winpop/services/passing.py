"""A file that goes to a client past everything else: from the system's memory to its socket (sendfile).

For large messages in clear that need nothing done to their octets. Invariant: it begins when nothing else is left to
be sent, and until it has ended nothing else is; what has to be read from a disk first is read in a thread, so that no
other client waits for it. Measured, CPU for 1 GB in messages of 1 MiB: so 0.34 s, read and written in pieces 1.3 s.

Once the system has taken less than it could, it is waited until it takes more, and the loop goes on waiting for that
until the end: asking for it anew each time, and first trying whether the system takes more after all, was an eighth of
what 20 MiB cost.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

if sys.platform != "win32":
    import fcntl
    import termios

POSSIBLE = sys.platform == "linux"
_MOST_AT_ONCE = 8 * 1024 * 1024
_PIECE = 1024 * 1024
"""Octets that are given to the system at once."""
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)

InThread = Callable[[Callable[[], object], Callable[[object], None]], None]


class Passing:
    """One file on its way. `left` are the octets that the system has not taken."""

    def __init__(  # noqa: PLR0913 - each is needed, none belongs to another
        self,
        loop: asyncio.AbstractEventLoop,
        in_thread: InThread,
        *,
        socket: int,
        file: int,
        size: int,
        done: Callable[[OSError | None], None],
    ) -> None:
        """Prepare to send the `size` octets of `file`; `done` is called once, unless stopped. Raises `OSError`."""
        self._loop, self._in_thread, self._done = loop, in_thread, done
        # A descriptor of our own: the loop lets nobody else wait for that of a transport.
        self._socket = os.dup(socket)
        try:
            self._file = os.dup(file)
        except OSError:
            os.close(self._socket)
            raise
        self._at = 0
        self.left = size
        self._waits = False

    def go(self) -> None:
        """Give the system as much as it takes now."""
        if self._socket < 0:
            return
        turn = self.left - _MOST_AT_ONCE
        try:
            while self.left:
                if self.left < turn:
                    self._wait()  # the others have their turn
                    return
                count = min(self.left, _PIECE)
                if not self._is_in_memory(self._at + count - 1):
                    self._wait_no_longer()
                    self._in_thread(self._read, self._pass_on)
                    return
                if not self._pass():
                    return
        except OSError as error:
            self._end(error)
        else:
            self._end(None)

    def _pass(self) -> bool:
        """Pass a piece, or what the system takes of it; tell whether it may take more at once."""
        count = min(self.left, _PIECE)
        try:
            passed = os.sendfile(self._socket, self._file, self._at, count)
        except BlockingIOError:
            self._wait()
            return False
        if not passed:
            raise OSError("a blob is shorter than it was")
        self._at += passed
        self.left -= passed
        if passed < count:
            self._wait()
        return passed == count

    def _pass_on(self, _read: object) -> None:
        """Pass what was read by a thread, and go on."""
        if self._socket < 0:
            return
        try:
            if not self._pass():
                return
        except OSError as error:
            self._end(error)
            return
        self.go()

    @property
    def untaken(self) -> int:
        """The octets that the client has not taken: those that are left, and those that the system holds for it."""
        held = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._socket, termios.TIOCOUTQ, held)
        return self.left + int.from_bytes(held, sys.byteorder)

    def _wait(self) -> None:
        if not self._waits:
            self._waits = True
            self._loop.add_writer(self._socket, self.go)

    def _wait_no_longer(self) -> None:
        if self._waits:
            self._waits = False
            self._loop.remove_writer(self._socket)

    def _is_in_memory(self, at: int) -> bool:
        """Tell whether the octet there can be had without waiting for a disk."""
        try:
            return bool(os.preadv(self._file, [bytearray(1)], at, _NO_WAIT))
        except OSError:  # it is not, or the file system cannot say
            return False

    def _read(self) -> None:
        """Have the system read the next piece, in a thread; the file may have been given back meanwhile."""
        with contextlib.suppress(OSError):  # passing it finds out
            if self._file >= 0:
                os.pread(self._file, min(self.left, _PIECE), self._at)

    def stop(self) -> None:
        """Give it up where it is."""
        if self._socket < 0:
            return
        self._wait_no_longer()
        socket, file = self._socket, self._file
        self._socket = self._file = -1
        os.close(socket)
        os.close(file)

    def _end(self, error: OSError | None) -> None:
        self.stop()
        self._done(error)
