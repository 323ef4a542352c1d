"""A long run under steady load: mail comes in and is fetched, domains are locked, processes are killed; all is counted.

    python tests/durability/soak.py --seconds 3600

Invariant: every message that was fetched was compared octet for octet, and every acknowledged one is looked for at each
restart and at the end; memory and descriptors are read each second, and what grows without end is a violation.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from durability.book import Book
from durability.report import Extent, Result
from durability.service import Attempt, patience
from durability.traffic import DOMAINS, LOCKED, MAILBOXES, Traffic, copy, prepared
from services.wire import descriptors, eventually

MESSAGES, SESSIONS = 20.0, 5.0
"""A second, over all threads: some half of a core here, clients included."""
_SENDERS, _FETCHERS = 4, 3
_SIZES = [900] * 60 + [5_001] * 30 + [60_000] * 8 + [140_000, 400_001]
_LOCK_EVERY, _KILL_EVERY, _RESTART_EVERY = 7.0, 60.0, 300.0
_LONG = 600.0
"""Seconds from which on a run has restarts of the whole service."""
_WARM = 60.0
"""Seconds that a process may grow in, to the caches and threads that it needs; a third of a short run."""
_MOST_AN_HOUR = 1.0
_NOISE = 3.0
"""MB: the slope times its time. A worker's memory goes up and down by 1 MB or so with the large messages under way."""
_MB = float(1 << 20)


def run(extent: Extent) -> Result:
    """Run for as long as there is time."""
    result = Result("soak: steady load with locks and kills")
    began = time.monotonic()
    with prepared() as place:
        soak = Soak(place, extent, result)
        try:
            soak.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was wrong
            result.violated("all along", [f"{type(error).__name__}: {error}"])
        finally:
            soak.end()
    result.of = result.points
    result.seconds = time.monotonic() - began
    return result


# --- memory ---


@dataclass(slots=True)
class Series:
    """What one process was seen to have: seconds and octets of memory, without its first time."""

    name: str
    born: float
    seconds: list[float] = field(default_factory=list)
    octets: list[int] = field(default_factory=list)

    def slope(self) -> float:
        """Return octets a second, by least squares."""
        n = len(self.seconds)
        if n < 2:
            return 0.0
        middle, level = sum(self.seconds) / n, sum(self.octets) / n
        above = sum((t - middle) * (o - level) for t, o in zip(self.seconds, self.octets, strict=True))
        return above / sum((t - middle) ** 2 for t in self.seconds)

    def window(self) -> float:
        """Return over how many seconds it was seen."""
        return self.seconds[-1] - self.seconds[0] if self.seconds else 0.0

    def an_hour(self) -> float:
        """Return MB an hour, if it went on so."""
        return self.slope() * 3600 / _MB

    def grown(self) -> float:
        """Return MB over its time."""
        return self.slope() * self.window() / _MB

    def violation(self) -> list[str]:
        """Say that it grows, if it does."""
        if self.an_hour() <= _MOST_AN_HOUR or self.grown() <= _NOISE:
            return []
        return [f"{self.name} grew by {self.grown():.1f} MB in {self.window():.0f} s, {self.an_hour():.1f} MB/h"]


def resident(process: int) -> int:
    """Return how many octets of memory a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the load ---


class Gate:
    """Lets many work at the same time, or for a while nobody."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Work; wait first while it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def closed(self) -> Iterator[Callable[[], None]]:
        """Let nobody begin meanwhile; what is given waits until nobody works any more."""
        with self._changed:
            self._closed = True
        try:
            yield self._empty
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()

    def _empty(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._inside == 0, 60), "a client hangs"


class Soak:
    """The service, its clients, and what is seen of both."""

    def __init__(self, place: Path, extent: Extent, result: Result) -> None:
        self._home = copy(place)
        self._extent = extent
        self._result = result
        self._book = Book(MAILBOXES)
        self._began = time.monotonic()
        self._warm = min(_WARM, extent.seconds / 3)
        self._gate = Gate()
        self._over = threading.Event()
        self._tokens = itertools.count()
        self._service = Attempt(self._home.path)
        self._traffic = Traffic(self._service, self._book)
        self._series: dict[int, Series] = {}
        self._all: list[Series] = []
        self._rest: dict[int, int] = {}
        self._threads: list[threading.Thread] = []
        self._next = dict.fromkeys(("kill", "restart", "progress", "forget"), self._began)
        self.kills = self.restarts = 0

    def run(self) -> None:
        """Do all of it."""
        self._warm_up()
        self._begin()
        while not self._extent.over() and not self._traffic.wrong and not self._result.violations:
            time.sleep(1)
            self._sample()
            self._disturb()
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
        self._at_rest()
        self._last_look()

    def end(self) -> None:
        """End what is still there."""
        self._over.set()
        if self._service.process.poll() is None:
            self._service.kill()
        shutil.rmtree(self._home.path, ignore_errors=True)

    # --- clients ---

    def _begin(self) -> None:
        draws = random.Random(self._extent.random.random())
        works = [(self._send, MESSAGES / _SENDERS)] * _SENDERS + [(self._fetch, SESSIONS / _FETCHERS)] * _FETCHERS
        works.append((self._lock, 1 / _LOCK_EVERY))
        for work, rate in works:
            draw = random.Random(draws.random())
            self._threads.append(threading.Thread(target=self._paced, args=(work, rate, draw), daemon=True))
        for thread in self._threads:
            thread.start()

    def _paced(self, work: Callable[[random.Random], None], rate: float, draw: random.Random) -> None:
        """Work so many times a second, or as often as it can."""
        due = time.monotonic() + draw.random() / rate
        while not self._over.wait(max(due - time.monotonic(), 0)):
            due = max(due + 1 / rate, time.monotonic())
            try:
                with self._gate.work():
                    work(draw)
            except Exception as error:  # noqa: BLE001 - it is a violation like another
                self._traffic.wrong.append(f"{type(error).__name__}: {error}")

    def _send(self, draw: random.Random) -> None:
        recipients = draw.sample(MAILBOXES, 2 if draw.random() < 0.1 else 1)
        kind = draw.choice(["smtp", "lmtp"])
        self._traffic.send(f"s-{next(self._tokens)}", draw.choice(_SIZES), *recipients, kind=kind)

    def _fetch(self, draw: random.Random) -> None:
        self._traffic.fetch(draw.choice(MAILBOXES), delete=1000, quit=draw.random() < 0.95)

    def _lock(self, draw: random.Random) -> None:
        target = draw.choice([*DOMAINS, *MAILBOXES])
        self._traffic.turn(target, locked=True)
        try:
            time.sleep(0.5)
            outcome = self._traffic.fetch(target if "@" in target else f"user0@{target}")
            if outcome != LOCKED and not self._book.troubled():
                self._traffic.wrong.append(f"{target} is locked, and a logon was {outcome}")
        finally:
            self._traffic.turn(target, locked=False)

    # --- what is seen ---

    def _processes(self) -> dict[int, str]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            workers = self._service.workers()
            return {self._service.process.pid: "the master"} | dict.fromkeys(workers, "a worker")
        return {}

    def _sample(self) -> None:
        now = time.monotonic()
        for process, name in self._processes().items():
            if process not in self._series:
                self._series[process] = Series(name, now)
                self._all.append(self._series[process])
            series = self._series[process]
            if now - series.born >= self._warm:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
                    series.octets.append(resident(process))
                    series.seconds.append(now)

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._next[what] < every:
            return False
        self._next[what] = now
        return True

    def _disturb(self) -> None:
        if self._due("progress", 10):
            sys.stderr.write(f"{time.monotonic() - self._began:6.0f} s  {self._figures()}\n")
        if self._due("forget", 10):
            self._book.forget()
        if self._extent.seconds >= _LONG and self._due("restart", _RESTART_EVERY):
            self._restart()
        elif self._due("kill", min(_KILL_EVERY, max(self._extent.seconds / 2, 5))):
            self._kill_a_worker()

    def _kill_a_worker(self) -> None:
        """Kill the younger worker, so that the other is old enough to be measured."""
        workers = self._service.workers()
        ages = {worker: self._series[worker].born for worker in workers if worker in self._series}
        victim = max(ages, key=lambda worker: (ages[worker], worker))
        self.kills += 1
        self._traffic.kill(victim)

    def _restart(self) -> None:
        """Kill all of it under load, look, start again."""
        with self._gate.closed() as empty, self._book.trouble():
            self._service.kill()
            empty()
            self._judge("a restart", self._traffic.wrong_in(self._home))
            self._forget_processes()
            self._service = self._traffic.service = Attempt(self._home.path)
            self.restarts += 1
        self._warm_up()

    def _forget_processes(self) -> None:
        self._series.clear()
        self._rest.clear()

    def _warm_up(self) -> None:
        """Use both workers, and count their descriptors, with all clients gone."""
        with self._gate.closed() as empty:
            empty()
            for _ in range(40):
                self._send(self._extent.random)
            for mailbox in MAILBOXES:
                self._traffic.fetch(mailbox)
            time.sleep(0.5)
            self._rest = {process: descriptors(process) for process in self._processes()}

    def _at_rest(self) -> None:
        """Compare the descriptors, with all clients gone: none is lost."""

        def lost() -> list[str]:
            now = {process: descriptors(process) for process in self._processes()}
            most = max(self._rest.values())
            return [
                f"process {process} has {count} descriptors at rest, and had {self._rest.get(process, most)}"
                for process, count in now.items()
                if (count != self._rest[process] if process in self._rest else count > most)
            ]

        with contextlib.suppress(AssertionError):
            eventually(lambda: not lost(), patience(10))
        self._result.violated("at rest", lost())
        now = sorted(descriptors(process) for process in self._processes())
        self._result.notes.append(f"descriptors at rest {sorted(self._rest.values())}, and {now} at the end")

    def _last_look(self) -> None:
        self._judge("the end", self._traffic.last_look())
        self._result.notes.append(self._figures())
        for series in self._all:
            self._result.violated("memory", series.violation())
        for name in ("the master", "a worker"):
            longest = max((series for series in self._all if series.name == name), key=Series.window)
            self._result.notes.append(
                f"{name}: {longest.an_hour():+.1f} MB/h, {longest.grown():+.2f} MB in {longest.window():.0f} s, "
                f"at {longest.octets[-1] / _MB if longest.octets else 0:.0f} MB"
            )

    def _judge(self, where: str, wrong: list[str]) -> None:
        """Say what is wrong in the home, held against the book, and how much was done so far."""
        self._result.violated(where, wrong)
        told = self._traffic.told
        self._result.points = told.get("send done", 0)
        self._result.states = told.get("fetch done", 0)

    def _figures(self) -> str:
        told = self._traffic.told
        counts = ", ".join(f"{what} {count}" for what, count in sorted(told.items()))
        memory = ", ".join(f"{resident(process) / _MB:.0f}" for process in self._processes())
        return f"{counts}; {self.kills} workers killed, {self.restarts} restarts; MB {memory or '-'}"


def main() -> int:
    """Run it for some time; return the exit status."""
    parser = argparse.ArgumentParser(description="A long run under steady load.")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    result = run(Extent(full=True, seed=asked.seed, seconds=asked.seconds))
    lines = [
        f"seed {asked.seed}: {result.points} messages, {result.states} sessions",
        *result.notes,
        *result.violations,
    ]
    sys.stdout.write("".join(f"{line}\n" for line in [*lines, f"{len(result.violations)} violations"]))
    return int(bool(result.violations))


if __name__ == "__main__":
    os.environ.pop("WINPOP_HOME", None)
    sys.exit(main())
