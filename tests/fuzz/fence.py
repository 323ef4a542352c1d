"""A fence around one directory: while it stands, nothing outside of it is made, changed or removed by this process.

It is an audit hook of the interpreter, which sees what is asked of the operating system and not which of our functions
asks, so that an operation that does not exist yet cannot get out either. Invariant: inside of it files are as free as
ever, and what it refuses is refused as the operating system does (EACCES); it says nothing of other processes.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

_PATHS = {
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "sqlite3.connect": (0,),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_standing: list[str] = []
_hooked: list[bool] = []


@contextlib.contextmanager
def fence(directory: Path) -> Iterator[None]:
    """Let nothing outside of `directory` be changed meanwhile; it is also the current directory."""
    if not _hooked:
        sys.addaudithook(_hook)  # one cannot be taken away again
        _hooked.append(True)
    before = Path.cwd()
    os.chdir(directory)
    _standing.append(os.path.realpath(directory))
    try:
        yield
    finally:
        _standing.pop()
        os.chdir(before)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _standing:
        return
    if event == "open":
        path, _, flags = arguments[:3]
        if isinstance(path, str | bytes) and not _inside(path):
            writes = isinstance(flags, int) and flags & _WRITING
            if (writes and os.fsdecode(path) != os.devnull) or not _harmless(path):
                raise _refused(path)
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.bind"):
        raise _refused(event)
    else:
        for place in _PATHS.get(event, ()):
            path = arguments[place]
            if isinstance(path, str | bytes | os.PathLike) and not _inside(path):
                raise _refused(path)


def _inside(path: str | bytes | os.PathLike[str]) -> bool:
    text = os.fsdecode(path)
    if text == ":memory:":
        return True
    text = text.removeprefix("file:").partition("?")[0] if text.startswith("file:") else text
    if "\0" in text:
        return True  # it is no path: the operating system will say so
    real = os.path.realpath(text)
    return real == _standing[-1] or real.startswith(_standing[-1] + os.sep)


def _harmless(path: str | bytes) -> bool:
    """Tell whether reading it has an end: no device, no pipe."""
    try:
        mode = Path(os.fsdecode(path)).stat().st_mode
    except (OSError, ValueError):
        return True  # there is none
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or os.fsdecode(path) in (os.devnull, "/dev/urandom")


def _refused(what: object) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(what))
