"""The kill sweep: the whole service is killed before or after each system call that changes its home, and goes on.

The fixed script runs on the real program under the shim, once without a fault, to see which calls there are; then once
more for each of them, until the kill. The service starts again on what is left, with nobody's help, and its mail is
held against the ledger, from inside and by POP3; then mail comes in, and it stops.

Invariant: a home is judged after every kill. The calls of a run vary a little (threads, processes), so a point is a
number; what was hit there is told by the shim, and a run that has fewer calls than the point counts for nothing.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from durability.ledger import Ledger, look_inside
from durability.report import Extent, Result
from durability.script import ACCOUNTS, ALICE, DONE, Story
from durability.service import Attempt, copied, fill_quickly, planted, troubles
from durability.shim import FAST, Action, Faults, missing  # noqa: F401 - `run` asks what is missing
from running import Service, winpop
from services.wire import eventually
from winpop.db.home import Home

WORKERS = 2
_AT_ONCE = os.cpu_count() or 1
_MOST = 12
_NAME = re.compile("[0-9a-f]{2,}")
_MADE_DIRECTORY = re.compile(r"mkdir mail/[0-9a-f]{2}$")
_INTERESTING = (
    "fdatasync winpop.db-wal",
    "fsync mail/tmp",
    "rename",
    "fsync mail/",
    "unlink mail/",
    "pwrite winpop.db-shm",
)
"""A sample has one of each of these: the commit, the steps of a blob, what goes away, the shared index."""


# --- scenes ---


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a run begins and what is done in it. `home` is copied for each run; None: there is none yet.

    `planted` is a defect (see `planted`) that the service is to have.
    """

    name: str
    home: Path | None
    steps: Callable[[Story], list[tuple[str, Callable[[], None]]]]
    planted: str = ""

    def lay(self, place: Path) -> Home:
        """Lay a home of its own for a run."""
        place.mkdir(exist_ok=True)
        return copied(self.home, place / "home") if self.home else Home(place / "home")

    def ledger(self) -> Ledger:
        """Return what is known before the first step."""
        known = Ledger()
        for address in ACCOUNTS if self.home is not None else ():
            known.mailbox(address, True)
        return known

    def serve(self, home: Home, faults: Faults) -> Attempt:
        """Start the service under the shim."""
        environment = faults.environment | (planted(self.planted) if self.planted else {})
        return Attempt(home.path, "--workers", str(WORKERS), environment=environment)


def _first_steps(story: Story) -> list[tuple[str, Callable[[], None]]]:
    """Return what is done on a new home."""
    return [
        ("add the first domain", lambda: story.command("add", "example.com")),
        ("add the first mailbox", lambda: story.add(ALICE)),
        ("deliver small", lambda: story.deliver("n-1", 900, ALICE)),
        ("deliver large", lambda: story.deliver("n-2", 200_000, ALICE)),
    ]


@contextlib.contextmanager
def scenes() -> Iterator[tuple[Path, list[Scene]]]:
    """Make a directory for homes, and the scenes: the fixed script, and the first hour of a new home."""
    place = Path(tempfile.mkdtemp(prefix="winpop-sweep-", dir=FAST))
    try:
        home = Home(place / "prepared")
        fill_quickly(home, ACCOUNTS)
        with Attempt(home.path, "--workers", str(WORKERS)), contextlib.suppress(AssertionError):
            eventually(home.reserve.exists, 10)  # the room on the disk is taken in a thread
        yield place, [Scene("script", home.path, Story.steps), Scene("new home", None, _first_steps)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


# --- one run ---


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    where: str = ""
    """What was struck; empty when nothing was."""
    wrong: list[str] = field(default_factory=list)
    states: int = 0
    ready: float = 0.0
    """Seconds until the service served again."""
    left: int = 0
    """Files that the kill left to the sweep."""
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One run: a scene, what happens in it, and at which call."""

    scene: Scene
    action: Action
    point: int
    call: str
    """What was there in the run without a fault."""


def kill(case: Case, place: Path) -> Outcome:
    """Run a scene up to the kill; start again, and judge."""
    outcome, ledger = Outcome(), case.scene.ledger()
    home = case.scene.lay(place)
    with Faults(home.path, case.action, case.point) as faults:
        try:
            service = case.scene.serve(home, faults)
        except AssertionError:
            if not faults.hits:
                raise
        else:
            try:
                _until_the_kill(
                    case, service, Story(home.path, service.ports, ledger, faults.environment), faults, outcome
                )
            finally:
                service.kill()
        if not faults.hits:
            return outcome
        outcome.where = faults.hit
    judge(home, ledger, outcome)
    return outcome


def _until_the_kill(case: Case, service: Service, story: Story, faults: Faults, outcome: Outcome) -> None:
    for name, do in case.scene.steps(story):
        said = story.step(name, do)
        if faults.hits:
            break
        if said != DONE:
            outcome.wrong.append(f"{name} was {said} before the kill")
    else:
        service.stop()
    if case.action == "killone" and faults.hits and case.scene.home is not None:
        _goes_on(service, story, outcome)
    outcome.wrong += story.wrong


def _goes_on(service: Service, story: Story, outcome: Outcome) -> None:
    """A worker or a tool was killed, the master was not: there are as many workers again, and mail comes in."""
    until = time.monotonic() + 10
    while service.process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if len(service.workers()) == WORKERS:
                break
        time.sleep(0.05)
    else:
        if service.process.poll() is None:
            outcome.wrong.append("the worker that was killed is not replaced")
        return
    for lap in range(50):  # one that is being started is counted, and does not serve yet
        if story.step("deliver after it", lambda lap=lap: story.deliver(f"k-{lap}", 900, ALICE)) == DONE:  # type: ignore[misc]
            return
        time.sleep(0.1)
    if service.process.poll() is None:
        outcome.wrong.append("after a worker was killed no mail comes in")


def judge(home: Home, ledger: Ledger, outcome: Outcome) -> None:
    """Start the service on what is left, hold it against the ledger, use it, stop it."""
    began = time.monotonic()
    try:
        service = Attempt(
            home.path, "--workers", "0"
        )  # one process, which is quicker, opens it as a master and a worker do
    except AssertionError as error:
        outcome.wrong.append(f"the service does not start again: {error}")
        return
    outcome.ready = time.monotonic() - began
    try:
        _use(home, service, ledger, outcome)
    finally:
        status = service.stop()
    if status:
        outcome.wrong.append(f"the service stopped with status {status}")
    outcome.wrong += troubles(home.path)
    outcome.wrong += ledger.violations(look_inside(home))
    outcome.left = _left(home)
    outcome.states += 2
    outcome.wrong = list(dict.fromkeys(outcome.wrong))


def _use(home: Home, service: Service, ledger: Ledger, outcome: Outcome) -> None:
    state = look_inside(home)
    outcome.wrong += ledger.violations(state)
    story = Story(home.path, service.ports, ledger)
    for target in sorted(state.locked, key=lambda target: "@" in target):  # domains first
        story.step(f"unlock {target}", lambda target=target: story.lock(target, False))  # type: ignore[misc]
    if ALICE not in state.mail:
        winpop(home.path, "add", "example.com")  # its domain may be there without it
        story.step("add a mailbox again", lambda: story.add(ALICE))
    for mailbox in state.mail:
        story.step(f"fetch {mailbox}", lambda mailbox=mailbox: story.fetch(mailbox, delete=0))  # type: ignore[misc]
    story.step("deliver again", lambda: story.deliver("r-1", 901, ALICE))
    outcome.wrong += [f"{name} was {said} after the start" for name, said in story.said if said != DONE]
    outcome.wrong += story.wrong


def _left(home: Home) -> int:
    """Count the files of the mail root that no row names: unfinished, or complete."""
    with contextlib.closing(sqlite3.connect(home.database)) as database:
        named = {name for (name,) in database.execute("SELECT blob FROM body WHERE blob IS NOT NULL")}
    return sum(path.is_file() and path.name not in named for path in home.mail.glob("*/*"))


# --- sweeps ---


def points_of(scene: Scene, place: Path) -> list[str]:
    """Run a scene without a fault; return its calls."""
    home = scene.lay(place / f"calls of {scene.name}")
    with Faults(home.path) as faults:
        service = scene.serve(home, faults)
        try:
            story = Story(home.path, service.ports, scene.ledger(), faults.environment)
            said = [story.step(name, do) for name, do in scene.steps(story)]
        finally:
            status = service.stop()
        assert not story.wrong, story.wrong
        assert set(said) == {DONE}, story.said
        assert status == 0
        return faults.points()


def chosen(extent: Extent, calls: list[str], wanted: Callable[[str], bool] = lambda _: True) -> list[int]:
    """Choose points: all in a full run; else some, and one of each interesting kind.

    Of the 256 directories that are made one after another only a few are taken, even in a full run: they are all the
    same; a note says so.
    """
    directories = [n for n, call in enumerate(calls, 1) if _MADE_DIRECTORY.match(call)]
    spared = set(directories[1:-1]) - set(directories[100:102])
    points = [n for n, call in enumerate(calls, 1) if n not in spared and wanted(call)]
    if extent.full:
        return points
    by_kind = [[n for n in points if calls[n - 1].startswith(kind)] for kind in _INTERESTING]
    always = [extent.random.choice(these) for these in by_kind if these]
    rest = [n for n in points if n not in always]
    return sorted({*always, *extent.some(rest, max(_MOST - len(always), 0))})


def varied(extent: Extent, cases: list[Case]) -> list[Case]:
    """Put them in such an order that a sweep that is cut short has seen every kind of call, early ones and late."""
    extent.random.shuffle(cases)
    seen: Counter[tuple[str, str, str]] = Counter()
    ranks = {}
    for case in cases:
        kind = (case.scene.name, case.action, _NAME.sub("", case.call))
        ranks[case] = seen[kind]
        seen[kind] += 1
    return sorted(cases, key=ranks.__getitem__)


def sweep(
    result: Result, extent: Extent, cases: list[Case], place: Path, run: Callable[[Case, Path], Outcome]
) -> list[Outcome]:
    """Run the cases, as many at once as there are processors, until the time is over."""
    result.of += len(cases)
    began = time.monotonic()

    def one(number: int, case: Case) -> Outcome | None:
        if extent.over() and number >= _AT_ONCE:  # on a slow machine the runs without a fault took it all
            return None
        where = place / f"run-{threading.get_ident()}-{number}"
        where.mkdir()
        try:
            return run(case, where)
        except Exception as error:  # noqa: BLE001 - the other cases are to be seen too
            return Outcome("?", [f"the run failed: {type(error).__name__}: {error}"])
        finally:
            shutil.rmtree(where, ignore_errors=True)

    outcomes = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for case, outcome in zip(cases, pool.map(one, range(len(cases)), cases), strict=True):
            if outcome is not None and (outcome.where or outcome.wrong):
                outcomes.append(outcome)
                result.points += 1
                result.states += outcome.states
                name = f"{case.scene.name}, {case.action} at call {case.point} ({outcome.where})"
                result.violated(name, outcome.wrong)
                _progress(name, outcome)
    result.seconds = time.monotonic() - began
    return outcomes


def _progress(name: str, outcome: Outcome) -> None:
    """Tell whoever wants to watch a long run."""
    if log := os.environ.get("WINPOP_SWEEP_LOG"):
        with Path(log).open("a") as file:
            file.write("".join(f"{name}: {text}\n" for text in [*outcome.wrong, *outcome.remarks] or ["good"]))


def run(extent: Extent) -> Result:
    """Kill the service at its calls."""
    result = Result("kill -9 at a system call")
    with scenes() as (place, every):
        cases: list[Case] = []
        for scene in every:
            calls = points_of(scene, place)
            result.notes.append(f"{scene.name}: {len(calls)} calls")
            for action in ("kill", "killafter"):
                cases += [Case(scene, action, n, calls[n - 1]) for n in chosen(extent, calls)]
            cases += [Case(scene, "killone", n, calls[n - 1]) for n in _few(extent, chosen(extent, calls))]
        outcomes = sweep(result, extent, varied(extent, cases), place, kill)
    if outcomes:
        left = [outcome.left for outcome in outcomes]
        result.notes.append(f"ready again within {max(outcome.ready for outcome in outcomes):.1f} s")
        result.notes.append(f"{sum(left)} files were left to the sweep, {max(left)} at most at once")
    return result


def _few(extent: Extent, points: list[int]) -> list[int]:
    """Return a part of the points: what dies alone is tried less often."""
    return extent.random.sample(points, len(points) // (4 if extent.full else 2))


def control(extent: Extent) -> Result:
    """Kill a service that says 250 before the commit, while it commits."""
    result = Result("kill -9 of a program that says 250 too early")
    with scenes() as (place, (script, _)):
        scene = Scene("too early", script.home, lambda story: story.steps()[:5], "early")
        sweep(result, extent, commits(extent, scene, place, "kill"), place, kill)
    return result


def commits(extent: Extent, scene: Scene, place: Path, action: Action) -> list[Case]:
    """Return some points in the commits of a scene, not in what comes before it."""
    calls = points_of(scene, place)
    served = max(n for n, call in enumerate(calls, 1) if call.startswith("open leases"))
    points = [n for n, call in enumerate(calls, 1) if n > served + 20 and call.endswith(" winpop.db-wal")]
    return [Case(scene, action, n, calls[n - 1]) for n in extent.random.sample(points, min(len(points), _MOST))]
