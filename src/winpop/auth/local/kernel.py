"""What the helper asks of the kernel beyond POSIX; where there is no such thing (other than Linux), it does without.

Invariant: nothing here raises; what cannot be had makes the helper less tidy, never less strict about who comes in.
"""

import ctypes
import os
import signal
import socket
import struct
import sys
from pathlib import Path

_PDEATHSIG, _DUMPABLE, _CHILD_SUBREAPER = 1, 4, 36
"""Operations of prctl(2)."""


def hide_memory() -> None:
    """Let no core file and no debugger of another user show what this process and its children know."""
    if sys.platform == "win32":
        return
    import resource  # here: there is none on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of what a child leaves behind, however it has detached itself."""
    _prctl(_CHILD_SUBREAPER, 1)


def own_children() -> list[int]:
    """Return the numbers of this process's children, adopted ones too; none where the kernel does not tell."""
    if sys.platform != "linux":
        return []
    try:
        return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_bytes().split()]
    except OSError:
        return []


def die_with_parent() -> None:
    """Be killed when the parent ends."""
    if sys.platform != "win32":
        _prctl(_PDEATHSIG, signal.SIGKILL)


def belongs_to(channel: socket.socket, users: tuple[int, ...]) -> bool:
    """Tell whether the process that made a pair of sockets was one of these users'.

    Where the kernel cannot tell, whoever had the means to send the channel is believed.
    """
    if sys.platform == "win32" or channel.family != socket.AF_UNIX:
        return False
    if sys.platform != "linux":
        return True
    _, user, _ = struct.unpack("iII", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user in users


def _prctl(operation: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(operation, value, 0, 0, 0)
