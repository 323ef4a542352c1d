"""A disk that writes down what is done to it, without the device-mapper: every write, flush and discard, and our marks.

Run as a program it is a FUSE file system with one file, `disk`, which stands for an image. A loop device on that file
passes a block write on as a write and a flush as an fsync. A test puts a mark in between by setting the attribute
`user.mark` of the file. The rest of this module makes such disks, reads their logs, and mounts things.

Invariant: the log has everything in the order in which it reached the disk, for one thread serves it; something is in
the log before it is answered. So whatever was answered before a mark lies before it, and whatever was begun after a
mark lies behind it.
"""

import contextlib
import ctypes
import errno
import gc
import importlib
import importlib.util
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

WRITE, FLUSH, DISCARD, MARK = b"W", b"F", b"D", b"M"
_HEAD = struct.Struct("<cQQ")
_MARK = "user.mark"
_PUNCH_HOLE, _KEEP_SIZE, _ZERO_RANGE = 2, 1, 16
_WITHIN = 20.0
_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


class Entry(NamedTuple):
    """One entry of a log: what was done, where, how many octets of the disk it was about, and what was written."""

    kind: bytes
    offset: int
    size: int
    data: bytes


def missing() -> list[str]:
    """Return what this machine lacks for such disks."""
    lacking = [] if os.geteuid() == 0 else ["root"]
    lacking += [path for path in ("/dev/fuse", "/dev/loop-control") if not Path(path).exists()]
    programs = {"fusermount3": "fuse3", "losetup": "util-linux", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs"}
    lacking += [f"{package} ({name})" for name, package in programs.items() if shutil.which(name) is None]
    if importlib.util.find_spec("mfusepy") is None:
        lacking.append("the Python module mfusepy")
    known = Path("/proc/filesystems").read_text().split()
    return lacking + [f"{kind} in the kernel" for kind in ("ext4", "xfs") if kind not in known]


def entries(log: Path) -> Iterator[Entry]:
    """Yield the entries of a log in their order."""
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            kind, offset, size = _HEAD.unpack(head)
            yield Entry(kind, offset, size, file.read(size) if kind in (WRITE, MARK) else b"")


# --- the program ---


class _Files:
    """The file system: its methods are what `mfusepy` looks for."""

    use_ns = True

    def __init__(self, image: str, log: str) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _enter(self, kind: bytes, offset: int, size: int, data: bytes = b"") -> None:
        octets = _HEAD.pack(kind, offset, size) + data
        if os.write(self._log, octets) != len(octets):
            raise OSError(errno.ENOSPC, "no room for the log")

    def init(self, _path: str) -> None:
        """Begin."""

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != "/disk":
            raise OSError(errno.ENOENT, path)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self._image).st_size}

    def readdir(self, _path: str, _fh: int) -> list[str]:
        return [".", "..", "disk"]

    def open(self, _path: str, _flags: int) -> int:
        return 0

    def read(self, _path: str, size: int, offset: int, _fh: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, _path: str, data: bytes, offset: int, _fh: int) -> int:
        self._enter(WRITE, offset, len(data), data)
        return os.pwrite(self._image, data, offset)

    def fsync(self, _path: str, _datasync: int, _fh: int) -> int:
        self._enter(FLUSH, 0, 0)
        return 0

    def fallocate(self, _path: str, mode: int, offset: int, size: int, _fh: int) -> int:
        if mode & ~_KEEP_SIZE not in (_PUNCH_HOLE, _ZERO_RANGE):
            raise OSError(errno.EOPNOTSUPP, "neither a discard nor a zeroing")
        self._enter(DISCARD, offset, size)
        if _libc.fallocate(self._image, _PUNCH_HOLE | _KEEP_SIZE, offset, size):
            raise OSError(ctypes.get_errno(), "fallocate")
        return 0

    def setxattr(self, _path: str, name: str, value: bytes, _options: int, _position: int = 0) -> int:
        if name != _MARK:
            raise OSError(errno.ENOTSUP, name)
        self._enter(MARK, 0, len(value), value)
        return 0


def main(image: str, log: str, place: str) -> None:
    """Be the file system at `place` until it is unmounted."""
    fuse: Any = importlib.import_module("mfusepy")
    fuse.FUSE(_Files(image, log), place, foreground=True, nothreads=True, fsname="winpop-blocklog")


# --- disks of tests ---


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode:
        raise OSError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout.strip()


_SIZE = 320 << 20
"""Octets of a disk: what xfs wants at least, and more than what makes the service refuse mail. They are sparse."""
_MAKE = {
    # Nothing is put off until later, so that the log has what the test did, and nothing of mkfs.
    "ext4": "mkfs.ext4 -q -F -b 4096 -J size=4 -E lazy_itable_init=0,lazy_journal_init=0",
    "xfs": "mkfs.xfs -q -f -K",
}
LIVE = {"ext4": "commit=300", "xfs": "nouuid"}
"""Options of the mount that is logged: the timer of the journal must not help."""
AGAIN = {"ext4": "", "xfs": "nouuid"}
"""Options of the mounts of copies."""


def make_file_system(kind: str, image: Path) -> None:
    """Make an image with an empty file system."""
    with image.open("wb") as file:
        file.truncate(_SIZE)
    _run(*_MAKE[kind].split(), str(image))


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """A loop device on this file."""
    device = _run("losetup", "--find", "--show", "--direct-io=off", str(file))
    try:
        yield device
    finally:
        _run("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(device: str, kind: str, place: Path, options: str) -> Iterator[Path]:
    """The file system on a device, mounted at `place`. Raises `OSError` when it cannot be."""
    if _libc.mount(device.encode(), str(place).encode(), kind.encode(), 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount of {kind}: {os.strerror(number)}")
    try:
        yield place
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    """Unmount; who still holds a file there has a little time to let go."""
    until = time.monotonic() + _WITHIN
    while _libc.umount2(str(place).encode(), 0):
        number = ctypes.get_errno()
        if number != errno.EBUSY or time.monotonic() > until:
            _libc.umount2(str(place).encode(), _DETACH)
            raise OSError(number, f"umount of {place}: {os.strerror(number)}")
        gc.collect()  # an exception may hold the file
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk with a log. `file` is what a loop device is put on."""

    file: Path
    log: Path

    def mark(self, text: str) -> None:
        """Put a mark into the log, behind everything that was answered."""
        os.setxattr(self.file, _MARK, text.encode())


@contextlib.contextmanager
def logged_disk(image: Path, directory: Path) -> Iterator[Disk]:
    """A disk that stands for this image; its log lies in the directory."""
    place, log = directory / "fuse", directory / "log"
    place.mkdir()
    disk = Disk(place / "disk", log)
    with (directory / "fuse.err").open("wb") as trouble:
        command = [sys.executable, __file__, str(image), str(log), str(place)]
        process = subprocess.Popen(command, stderr=trouble, start_new_session=True)
    try:
        until = time.monotonic() + _WITHIN
        while not disk.file.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise OSError(f"no FUSE: {(directory / 'fuse.err').read_text()}")
            time.sleep(0.02)
        yield disk
    finally:
        try:
            if place.is_mount():
                _run("fusermount3", "-u", str(place))
            process.wait(_WITHIN)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait(_WITHIN)
            subprocess.run(["fusermount3", "-u", "-z", str(place)], capture_output=True, timeout=60, check=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
