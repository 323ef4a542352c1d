"""What a server takes of the machine (processor seconds and memory of all its processes), and the machine's kind.

Invariant: a server runs in a box of its own, so that what is measured is the whole server, with every process that it
ever started, and nothing else; and when the box is closed none of them runs. A box is a control group where one can be
made (version 1 or 2 of the kernel's interface, as root), otherwise the tree of processes below the first one.
"""

import contextlib
import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, Self

_TICKS = os.sysconf("SC_CLK_TCK")
_ORPHANS = 2.0
"""Seconds that processes have to end by themselves once the first one has."""
_ENTER = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@"'
"""A shell's program: enters the groups whose files are named before `--`, then becomes the program behind it."""


class Meter(Protocol):
    """How the processes of a box are found and measured."""

    name: str

    def entrance(self) -> list[str]:
        """Return the files that a process writes its number to, to be counted."""
        ...

    def processes(self) -> list[int]:
        """Return the numbers of the processes that run."""
        ...

    def cpu(self) -> float:
        """Return the processor seconds of all processes so far, of those that have ended too."""
        ...

    def memory(self) -> int:
        """Return the octets of memory that are theirs alone (anonymous memory; what is shared counts once)."""
        ...

    def close(self) -> None:
        """Take the meter away; no process runs any more."""
        ...


class _Groups1:
    """Control groups, version 1: one for the processor, one for memory."""

    name = "control group, version 1: cpuacct.usage, and rss in memory.stat"

    def __init__(self, name: str) -> None:
        self._cpu = _group(Path("/sys/fs/cgroup/cpuacct"), name)
        try:
            self._memory = _group(Path("/sys/fs/cgroup/memory"), name)
        except OSError:
            self._cpu.rmdir()
            raise

    def entrance(self) -> list[str]:
        return [str(group / "cgroup.procs") for group in (self._cpu, self._memory)]

    def processes(self) -> list[int]:
        return [int(line) for line in (self._cpu / "cgroup.procs").read_text().split()]

    def cpu(self) -> float:
        return int((self._cpu / "cpuacct.usage").read_text()) / 1e9

    def memory(self) -> int:
        return _numbers(self._memory / "memory.stat")["total_rss"]

    def close(self) -> None:
        for group in (self._cpu, self._memory):
            _remove(group)


class _Groups2:
    """Control groups, version 2."""

    name = "control group, version 2: usage_usec in cpu.stat, and anon in memory.stat"

    def __init__(self, name: str) -> None:
        self._group = _group(Path("/sys/fs/cgroup"), name)
        try:
            self.cpu()
            self.memory()
        except (OSError, KeyError) as error:
            self._group.rmdir()
            raise OSError(f"{self._group} lacks a controller") from error

    def entrance(self) -> list[str]:
        return [str(self._group / "cgroup.procs")]

    def processes(self) -> list[int]:
        return [int(line) for line in (self._group / "cgroup.procs").read_text().split()]

    def cpu(self) -> float:
        return _numbers(self._group / "cpu.stat")["usage_usec"] / 1e6

    def memory(self) -> int:
        return _numbers(self._group / "memory.stat")["anon"]

    def close(self) -> None:
        _remove(self._group)


class Tree:
    """The processes below the first one, without control groups: coarser (hundredths of seconds for each process)."""

    name = "process tree: utime, stime and those of children that have ended in /proc, and Pss_Anon in smaps_rollup"

    def __init__(self) -> None:
        self.first: int | None = None

    def entrance(self) -> list[str]:
        """Return nothing: a process is counted for its parent."""
        return []

    def processes(self) -> list[int]:
        """Return the first process, those of its session and those below them."""
        parents: dict[int, int] = {}
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if state not in "ZX":
                    parents[int(path.parent.name)] = int(parent)
                    if int(session) == self.first:  # also one whose parent has died
                        found.append(int(path.parent.name))
        for process in found:
            found += [child for child, parent in parents.items() if parent == process and child not in found]
        return found

    def cpu(self) -> float:
        """Return the processor seconds of the processes, and of those that they have waited for."""
        ticks = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        return ticks / _TICKS

    def memory(self) -> int:
        """Return their octets of anonymous memory, each shared page in parts."""
        octets = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss_Anon:"):
                        octets += int(line.split()[1]) * 1024
        return octets

    def close(self) -> None:
        """Do nothing: there is nothing to take away."""


class Box:
    """Where a server runs."""

    def __init__(self, name: str, meter: Meter | None = None) -> None:
        """Make it; `name` tells it from other boxes of this process. `meter`: not the best that there is, but this."""
        self.meter = meter or _best_meter(f"winpop-benchmark-{os.getpid()}-{name}")
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        command: Sequence[str],
        *,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the box. Its standard input is empty."""
        words = ["/bin/sh", "-c", _ENTER, "sh", *self.meter.entrance(), "--", *command]
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        if isinstance(self.meter, Tree):
            self.meter.first = self.meter.first or process.pid
        self._started.append(process)
        return process

    def cpu(self) -> float:
        """Return the processor seconds of all processes so far."""
        return self.meter.cpu()

    def memory(self) -> int:
        """Return the octets of memory that are the server's alone."""
        return self.meter.memory()

    def close(self, patience: float = 20.0) -> None:
        """End what runs in the box: politely first, then not; and take the box away."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + patience
        while self._running() and time.monotonic() < until:
            time.sleep(0.02)
            if all(process.poll() is not None for process in self._started):
                until = min(until, time.monotonic() + _ORPHANS)  # nobody is left who would end them
        while left := self._running():
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.02)
        for process in self._started:
            process.wait()
        self.meter.close()

    def _running(self) -> list[int]:
        for process in self._started:
            process.poll()  # so that one that has ended is nobody's any more
        return self.meter.processes()


def _best_meter(name: str) -> Meter:
    for kind_of_it in (_Groups1, _Groups2):
        with contextlib.suppress(OSError):
            return kind_of_it(name)
    return Tree()


def _group(root: Path, name: str) -> Path:
    """Make a control group; raises OSError where that is not possible."""
    if not (root / "cgroup.procs").exists():
        raise FileNotFoundError(root)
    group = root / name
    group.mkdir()
    return group


def _remove(group: Path) -> None:
    for _ in range(100):  # the kernel takes a moment after the last process
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return


def _numbers(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def kind(place: Path) -> dict[str, str | int | float]:
    """Describe the machine, with the file system of `place` and how often it synchronises a small write in a second."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": release.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release().partition("-")[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "filesystem": _file_system(place),
        "fsyncs_per_second": _fsyncs(place),
    }


def _field(path: Path, name: str) -> str:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def _file_system(place: Path) -> str:
    """Return the type of the file system that holds a place."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind_of_it = line.split()[:3]
        if place.resolve().is_relative_to(mounted) and len(mounted) >= len(best[0]):
            best = (mounted, kind_of_it)
    return best[1]


def _fsyncs(place: Path, seconds: float = 0.5) -> int:
    path, count = place / "fsync", 0
    with path.open("wb", buffering=0) as file:
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            count += 1
    path.unlink()
    return round(count / seconds)
