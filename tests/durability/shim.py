"""Faults at system calls of the real program: builds `shim.c`, and tells it what is to happen at which call.

Invariant: calls are counted over all threads and all processes that were started with `environment`; what is struck is
chosen by number only, so whatever was hit (`hit`) is known afterwards and not before. A fault strikes once unless it is
`lasting`; a lasting one goes on until `calm`.
"""

import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, Self

import pytest

Action = Literal["kill", "killafter", "killone", "eio", "enospc", "short", "nofsync", "nodirsync"]
"""What may happen at a call: the service dies before it, or after it; the calling process alone dies; the call fails;
half of it is written; synchronising does nothing, for all or for directories (both are to be `lasting`)."""

_NUMBERS: dict[str, int] = {
    "": 0, "kill": 1, "killafter": 2, "killone": 3, "eio": 4, "enospc": 5, "short": 6, "nofsync": 7, "nodirsync": 8,
}  # fmt: skip
# The layout of `struct shared` in shim.c.
_HEAD = struct.Struct("=QQQQIIiI")
_COUNT, _HITS, _AT, _HIT, _ACTION, _LASTING = 0, 8, 16, 24, 32, 36
_POINTS, _LABEL = 16384, 64
_SOURCE = Path(__file__).with_suffix(".c")
FAST = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
"""Where homes lie that need no disk: a killed process loses nothing that the system had taken."""


def missing() -> str:
    """Return what this machine lacks for faults at system calls, or nothing."""
    return "" if shutil.which("gcc") else "it needs gcc (packages gcc and libc6-dev), which makes the shim"


def required() -> None:
    """Skip the test where gcc is missing; where all tests have to run, fail."""
    if missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing())


def library() -> Path:
    """Return the shim, made if this source of it was not made before."""
    if missing():
        raise OSError(missing())
    cache = Path(tempfile.gettempdir()) / f"winpop-shim-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    made = cache / f"{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not made.exists():
        descriptor, name = tempfile.mkstemp(dir=cache)
        os.close(descriptor)
        command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", name, str(_SOURCE)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if result.returncode:
            raise OSError(f"gcc: {result.stderr}")
        Path(name).rename(made)  # at once: others may be making it too
    return made


class Faults:
    """Faults below one directory, of which there is at most one at a time."""

    def __init__(
        self, directory: Path, action: Action | Literal[""] = "", at: int = 0, *, lasting: bool = False
    ) -> None:
        self.directory = directory.resolve()
        descriptor, name = tempfile.mkstemp(prefix="winpop-faults-", dir=FAST)
        self._path = Path(name)
        try:
            os.ftruncate(descriptor, _HEAD.size + _POINTS * _LABEL)
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self.strike(action, at, lasting=lasting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; whoever still runs with it goes on counting for nobody."""
        self._map.close()
        self._path.unlink(missing_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a process has to be given, so that it counts."""
        return {
            "LD_PRELOAD": str(library()),
            "FAULT_DIR": str(self.directory),
            "FAULT_COUNTER": str(self._path),
        }

    def strike(self, action: Action | Literal[""], at: int, *, lasting: bool = False) -> None:
        """Let this happen at the call with this number; `lasting`, at all from it on."""
        self._put("I", _ACTION, 0)
        self._put("Q", _AT, at)
        self._put("I", _LASTING, int(lasting))
        self._put("I", _ACTION, _NUMBERS[action])  # last: from here on it strikes

    def calm(self) -> None:
        """Let nothing more happen."""
        self._put("I", _ACTION, 0)

    @property
    def count(self) -> int:
        """How many calls there were."""
        return self._get("Q", _COUNT)

    @property
    def hits(self) -> int:
        """How many calls were struck."""
        return self._get("Q", _HITS)

    @property
    def hit(self) -> str:
        """The first call that was struck, such as `pwrite winpop.db-wal`; empty when there was none."""
        number = self._get("Q", _HIT)
        return self._label(number - 1) if number else ""

    def points(self) -> list[str]:
        """Return the calls that there were, in their order."""
        return [self._label(index) for index in range(min(self.count, _POINTS))]

    def _label(self, index: int) -> str:
        if index >= _POINTS:
            return "a late call"
        begin = _HEAD.size + index * _LABEL
        return self._map[begin : begin + _LABEL].partition(b"\0")[0].decode("utf-8", "replace")

    def _get(self, kind: Literal["I", "Q"], place: int) -> int:
        number: int = struct.unpack_from("=" + kind, self._map, place)[0]
        return number

    def _put(self, kind: Literal["I", "Q"], place: int, number: int) -> None:
        struct.pack_into("=" + kind, self._map, place, number)
