"""Power cuts: what the home has on a disk that forgot everything that was not synchronised.

The real service works on the forgetful file system. At every acknowledgement, and at moments in between, the disk is
asked what a power cut would leave: only what was synchronised, and that with random parts of the rest. Each such state
is written out and held against the ledger as it was at that moment; in some the real service starts again, and its mail
is fetched and delivered; and now and then the power is cut under the running service itself, which goes on after it.

Invariant: the ledger and the disk are taken in the same moment: while that lasts nobody is told anything, and nobody
asks for anything that would have to be entered first.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from conftest import fill
from durability.forgetful import ATTRIBUTE, Moment, read_moment, survivors
from durability.ledger import Ledger, State, look_inside, token_of
from durability.report import Extent, Result
from durability.script import ACCOUNTS, ALICE, BOB, CAROL, DONE, EVE, Client, Story
from durability.service import planted
from durability.shim import FAST
from running import Service
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite

MODES = ("lenient", "strict")
CONTROLS = ("nosync", "nodirsync", "skipped", "normal", "early", "early-quit")
"""What has to be found: a disk that does not synchronise, or no directories; a program that skips directories, commits
with `synchronous=NORMAL`, or says 250, or +OK to QUIT, before the commit."""
_IN_THE_PROGRAM = ("skipped", "normal", "early", "early-quit")
_TORN = 3
"""Random states beside the one in which all is forgotten, for each cut."""
_WANTED = 500
"""States of each mode in a full run, at least."""
_MOST_CUTS = 12
_FEWEST_CUTS = 4
"""Cuts of one scene that a sample looks at, and when its time is over."""
_LIVES = 2
"""How often the power is cut under the service of one random schedule."""
_MOST_SCHEDULES = 200
_QUICK = ("--workers", "2")


def missing() -> str:
    """Return why there can be no forgetful file system here, or nothing."""
    import importlib.util

    if not sys.platform.startswith("linux"):
        return "FUSE is asked of Linux only"
    if not Path("/dev/fuse").exists() or not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        return "it needs root and /dev/fuse"
    if shutil.which("fusermount3") is None:
        return "it needs fusermount3 (the Debian package fuse3)"
    if importlib.util.find_spec("mfusepy") is None:
        return "it needs the Python package mfusepy (the extra `dev`)"
    return ""


class Disk:
    """A forgetful file system, mounted on `path`."""

    def __init__(self, mode: str) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="winpop-power-", dir=FAST))
        self.path = self._place / "disk"
        self.path.mkdir()
        self._count = 0
        program = Path(__file__).with_name("forgetful.py")
        self._process = subprocess.Popen([sys.executable, str(program), str(self.path), "--mode", mode])
        until = time.monotonic() + 20
        try:
            while not self.path.is_mount():
                assert self._process.poll() is None, "the forgetful file system ended"
                assert time.monotonic() < until, "the forgetful file system was not mounted"
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def order(self, order: str) -> None:
        """Give an order."""
        os.setxattr(self.path, ATTRIBUTE, order.encode())

    def moment(self) -> Path:
        """Write what is there to a file; return it."""
        self._count += 1
        file = self._place / f"moment-{self._count}"
        self.order(f"moment:{file}")
        return file

    def beside(self) -> Path:
        """Return an empty directory on an ordinary disk, which goes with this one."""
        return Path(tempfile.mkdtemp(dir=self._place))

    def close(self) -> None:
        """Unmount it, whoever uses it."""
        for command in (["fusermount3", "-u"], ["fusermount3", "-u", "-z"], ["umount", "-l"]):
            if self.path.is_mount():
                subprocess.run([*command, str(self.path)], capture_output=True, timeout=20, check=False)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        if not self.path.is_mount():
            shutil.rmtree(self._place, ignore_errors=True)


class Witness(Ledger):
    """A ledger that calls `told` with every acknowledgement, in the moment when it is entered."""

    told: Callable[[str], None] = staticmethod(lambda _: None)

    def entered(self, told: str = "") -> None:
        """Call it, if somebody was told something."""
        if told:
            self.told(told)


@dataclass(slots=True)
class Cut:
    """A moment in which the power could have been cut."""

    where: str
    moment: Path
    ledger: Ledger


@dataclass(slots=True)
class Scene:
    """A home on a forgetful disk, what was promised about it, and the moments that were noted."""

    disk: Disk
    name: str
    result: Result
    inside: str = ""
    """Where on the disk the home is."""
    ledger: Witness = field(default_factory=Witness)
    cuts: list[Cut] = field(default_factory=list)
    unique_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """The unique-id that a message had in the first state that was looked at."""
    share: float = 1.0
    """How many of the acknowledgements become cuts."""

    @property
    def home(self) -> Home:
        """The home as the service uses it."""
        return Home(self.disk.path / self.inside)

    def cut(self, where: str) -> None:
        """Note this moment."""
        with self.ledger._guard:
            self.cuts.append(Cut(where, self.disk.moment(), self.ledger.copy()))

    def in_between(self) -> None:
        """Note this moment, of which nobody was told anything."""
        self.cut("in between")

    def watch(self, chance: random.Random) -> None:
        """Note the moments of acknowledgements from now on, or so many of them."""

        def told(where: str) -> None:
            if chance.random() < self.share:
                self.cut(f"at {where}")

        self.ledger.told = told

    # --- what a cut leaves ---

    def judge(self, extent: Extent, torn: int = _TORN, restarts: int = 1) -> None:
        """Look at the states after the cuts that were noted, and forget these."""
        self.ledger.told = lambda _: None
        chosen = extent.some(list(range(len(self.cuts))), _MOST_CUTS)
        restarted = set(extent.random.sample(chosen, min(restarts, len(chosen))))
        self.result.of += len(self.cuts)
        for count, number in enumerate(chosen):
            if count >= _FEWEST_CUTS and extent.over() and not extent.full:
                break
            cut = self.cuts[number]
            moment = read_moment(cut.moment)
            cut.moment.unlink()
            seeds = [None, *(extent.random.randrange(1 << 32) for _ in range(torn))]
            for seed in seeds:
                with self._state(moment, seed) as home:
                    self._add(cut, seed, self._wrong(home, cut.ledger.copy()))
            if number in restarted:
                seed = extent.random.choice(seeds)
                with self._state(moment, seed) as home:
                    self._add(cut, seed, [f"restarted: {wrong}" for wrong in served(home, cut.ledger.copy())])
            self.result.points += 1
        for cut in self.cuts:
            cut.moment.unlink(missing_ok=True)
        self.cuts.clear()

    @contextlib.contextmanager
    def _state(self, moment: Moment, seed: int | None) -> Iterator[Home]:
        place = self.disk.beside()
        try:
            survivors(moment, seed).write(place / "home")
            yield Home(place / "home" / self.inside)
        finally:
            shutil.rmtree(place)

    def _add(self, cut: Cut, seed: int | None, wrong: list[str]) -> None:
        self.result.states += 1
        left = "all forgotten" if seed is None else f"seed {seed}"
        self.result.violated(f"{self.name}, {cut.where}, {left}", wrong)

    def _wrong(self, home: Home, ledger: Ledger) -> list[str]:
        state, wrong = looked(home)
        if state is None:
            return wrong
        sure = {(mailbox, token) for mailbox in state.mail for token in ledger.expected(mailbox)}
        wrong += ledger.violations(state)
        for mailbox, token in sure:
            unique_id = ledger._mail[mailbox][token].unique_id
            if unique_id and self.unique_ids.setdefault((mailbox, token), unique_id) != unique_id:
                wrong.append(f"{mailbox}: {token} has other unique-ids in other states")
        return wrong

    # --- a cut under the service ---

    def cut_off(self, service: Service, extent: Extent, known: Ledger | None = None) -> None:
        """Kill the service and cut the power, now or as of the snapshot `off` in which `known` was known. Look at some
        states on the disk itself; stay in the last."""
        self.ledger.told = lambda _: None
        if known is None:
            known = self.ledger.copy()
            self.disk.order("snapshot:off")
        service.kill()
        seeds = [*(extent.random.randrange(1 << 32) for _ in range(_TORN)), None]
        for seed in seeds:
            self.disk.order("restore:off" if seed is None else f"restore:off:{seed}")
            state, wrong = looked(self.home)
            ledger = known.copy()
            if state is not None:
                wrong += ledger.violations(state)
            self.result.states += 1
            self.result.violated(f"{self.name}, under the service, seed {seed}", wrong)
        self.result.points += 1
        self.result.of += 1
        self.ledger = Witness(
            ledger._mail, ledger._mailboxes, ledger._locked, ledger._used, ledger._together, ledger._time
        )


@contextlib.contextmanager
def now_and_then(chance: random.Random, pause: float, do: Callable[[], None]) -> Iterator[None]:
    """Do something every so many seconds or so, while this lasts."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(chance.uniform(0.1, 1.9) * pause):
            do()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def looked(home: Home) -> tuple[State | None, list[str]]:
    """Open a home after a cut, as it is; return what it has and what is wrong already."""
    try:
        if not home.exists():
            return State({}, frozenset()), []
        state = look_inside(home)
        database = Sqlite(home)
        try:
            rows = database.all("PRAGMA integrity_check") + database.all("PRAGMA foreign_key_check")
        finally:
            database.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, the home does not open
        return None, [f"the home does not open: {error!r}"]
    return state, [] if rows == [("ok",)] else [f"the database is damaged: {rows[:3]}"]


def served(home: Home, ledger: Ledger) -> list[str]:
    """Start the real service on a home after a cut; fetch everything, deliver one more, fetch that."""
    try:
        service = Service(home.path, "--workers", "1")
    except AssertionError as error:
        return [f"the service does not start: {error}"]
    with service:
        story = Story(home.path, service.ports, ledger)
        wrong = [wrong for mailbox in (BOB, CAROL) for wrong in fetched(story, mailbox)]
        return wrong + _goes_on(story)


def one_more(story: Story) -> None:
    """Deliver to two."""
    story.deliver(f"after-{random.randrange(1 << 40):x}", 150_000, ALICE, BOB)


def fetched(story: Story, mailbox: str) -> list[str]:
    """Fetch a mailbox by POP3, unless it is locked; return what is wrong with it."""
    state = look_inside(Home(story.home))
    if mailbox not in state.mail or {mailbox, mailbox.partition("@")[2]} & state.locked:
        return []
    outcome = story.step(f"fetch {mailbox}", lambda: story.fetch(mailbox, delete=0))
    return [] if outcome == DONE else [f"the mail of {mailbox} was not fetched: {outcome}"]


# --- what happens on the disk ---


def new_home(disk: Disk, result: Result, extent: Extent) -> None:
    """The first commands on a home that is not there yet, and neither is the directory that it lies in."""
    scene = Scene(disk, "a new home", result, inside="srv/winpop")
    story = Story(scene.home.path, {}, scene.ledger)
    scene.watch(_another(extent.random))
    deeds: list[Callable[[], None]] = [
        lambda: story.command("add", "example.com"),
        lambda: story.add(ALICE),
        lambda: story.lock("example.com", True),
        lambda: story.add(BOB),
    ]
    with now_and_then(_another(extent.random), 0.03, scene.in_between):
        for deed in deeds:
            story.step("command", deed)
    result.violated(scene.name, story.wrong)
    scene.cut("at the end")
    scene.judge(extent, restarts=0)


@contextlib.contextmanager
def serving(scene: Scene, **environment: str) -> Iterator[tuple[Service, Story]]:
    """The service on the scene's home, and the script for it."""
    service = Service(scene.home.path, *_QUICK, **environment)  # type: ignore[arg-type]  # none is called `prefix`
    try:
        yield service, Story(scene.home.path, service.ports, scene.ledger, environment)
    finally:
        service.kill()


def prepared(disk: Disk, name: str, result: Result, inside: str = "") -> Scene:
    """Make a home on the disk, which is the disk's root if nothing else is said."""
    disk.path.chmod(0o700)
    scene = Scene(disk, name, result, inside)
    fill(scene.home, dict.fromkeys([*ACCOUNTS, EVE], b"secret"))
    for address in (*ACCOUNTS, EVE):
        scene.ledger.mailbox(address, True)
    return scene


def script(disk: Disk, result: Result, extent: Extent) -> None:
    """The fixed script, with a cut at every acknowledgement and others in between."""
    scene = prepared(disk, "the script", result)
    with serving(scene) as (service, story):
        scene.watch(_another(extent.random))
        with now_and_then(_another(extent.random), 0.1, scene.in_between):
            for _ in story.all():
                pass
        result.violated(scene.name, story.wrong + [f"{name}: {said}" for name, said in story.said if said != DONE])
        scene.cut("at the end")
        scene.cut_off(service, extent)
    scene.judge(extent)


def moving(disk: Disk, result: Result, extent: Extent) -> None:
    """The mail root is moved to directories that are not there yet. The states are looked at on the disk itself, since
    its path is a setting."""
    scene = prepared(disk, "moving the mail", result, "home")
    with serving(scene) as (_, story):
        for count in range(3):
            story.step("deliver", lambda token=f"r-{count}": story.deliver(token, 200_000, ALICE))  # type: ignore[misc]
    snapshots: list[str] = []

    def note() -> None:
        snapshots.append(f"move-{len(snapshots)}")
        disk.order(f"snapshot:{snapshots[-1]}")

    with now_and_then(_another(extent.random), 0.015, note):
        root = disk.path / "srv" / "more" / "mail"
        result.violated(scene.name, _said(story, lambda: story.command("set", "mailroot", str(root))))
    note()
    result.of += len(snapshots)
    for name in {*extent.some(list(range(len(snapshots))), _MOST_CUTS), len(snapshots) - 1}:
        for seed in [None, *(extent.random.randrange(1 << 32) for _ in range(_TORN))]:
            disk.order(f"restore:{snapshots[name]}" + ("" if seed is None else f":{seed}"))
            state, wrong = looked(scene.home)
            if state is not None:
                wrong += scene.ledger.copy().violations(state)
            result.states += 1
            result.violated(f"{scene.name}, {snapshots[name]} of {len(snapshots)}, seed {seed}", wrong)
        result.points += 1


def _said(story: Story, do: Callable[[], None]) -> list[str]:
    """Do a step, which has to be done; return what is wrong."""
    outcome = story.step("command", do)
    return story.wrong if outcome == DONE else [outcome, *story.wrong]


def schedule(disk: Disk, result: Result, extent: Extent, seed: int) -> None:
    """Senders, readers and an administrator at once; the power is cut at some moment, and they go on after it."""
    chance = random.Random(seed)
    scene = prepared(disk, f"schedule {seed}", result)
    scene.share = 0.4
    for life in range(_LIVES):
        with serving(scene) as (service, story):
            if life:
                result.violated(f"{scene.name}, after a cut under the service", _goes_on(story))
            scene.watch(_another(chance))
            known: list[Ledger] = []
            off = threading.Thread(target=_off, args=(scene, service, chance.uniform(0.1, 1.0), known))
            threads = [off, *(threading.Thread(target=play) for play in _players(story, chance, life))]
            with now_and_then(_another(chance), 0.08, scene.in_between):
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            result.violated(scene.name, story.wrong)
            scene.cut_off(service, extent, known[0])
    with serving(scene) as (_, story):
        result.violated(f"{scene.name}, after all cuts", _goes_on(story))
    scene.judge(extent)


def _another(chance: random.Random) -> random.Random:
    """Return a source of chance for one thread."""
    return random.Random(chance.random())


def _goes_on(story: Story) -> list[str]:
    outcome = story.step("deliver", lambda: one_more(story))
    return [*([] if outcome == DONE else [f"no delivery: {outcome}"]), *fetched(story, ALICE), *story.wrong]


def _off(scene: Scene, service: Service, pause: float, known: list[Ledger]) -> None:
    """After a while note the moment, and kill the service in the midst of things."""
    time.sleep(pause)
    with scene.ledger._guard:
        known.append(scene.ledger.copy())
        scene.disk.order("snapshot:off")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(service.process.pid, signal.SIGKILL)


def _players(story: Story, chance: random.Random, life: int) -> list[Callable[[], None]]:
    def send(who: int, own: random.Random) -> None:
        for count in range(own.randrange(4, 12)):
            token = f"{life}-{who}-{count}"
            size = own.choice(
                [own.randrange(200, 3000), own.randrange(60_000, 140_000), own.randrange(140_000, 400_000)]
            )
            recipients = own.sample([ALICE, BOB, CAROL, EVE], own.randrange(1, 4))
            deliver = own.choice([story.deliver, story.deliver_by_lmtp])
            story.step("send", lambda d=deliver, t=token, s=size, r=recipients: d(t, s, *r))  # type: ignore[misc]

    def read(own: random.Random) -> None:
        for _ in range(own.randrange(2, 6)):
            mailbox, count, leave = own.choice([ALICE, BOB, CAROL]), own.randrange(1, 5), own.random() < 0.8
            story.step("read", lambda m=mailbox, c=count, q=leave: take(story, m, c, q))  # type: ignore[misc]

    def rule(own: random.Random) -> None:
        address = f"m-{life}@other.example"
        deeds: list[Callable[[], None]] = [
            lambda: story.lock(EVE, True),
            lambda: story.add(address),
            lambda: story.deliver(f"{life}-m", own.choice([700, 170_000]), address, EVE),
            lambda: story.lock(EVE, False),
            lambda: story.delete(address),
        ]
        for deed in deeds[: own.randrange(1, len(deeds) + 1)]:
            if story.step("rule", deed) != DONE:
                return

    seeds = [random.Random(chance.random()) for _ in range(5)]
    players: list[Callable[[], None]] = [lambda w=who: send(w, seeds[w]) for who in range(chance.randrange(1, 4))]  # type: ignore[misc]
    return [*players, lambda: read(seeds[3]), lambda: rule(seeds[4])]


def take(story: Story, mailbox: str, count: int, leave: bool) -> None:  # noqa: FBT001 - one of four random things
    """Fetch and delete so many acknowledged messages, while others come in; end with QUIT, or just go."""
    with contextlib.closing(Client(story.ports["pop3"])) as client:
        client.expect(b"+OK")
        client.ask(b"USER " + mailbox.encode(), b"+OK")
        client.ask(b"PASS secret", b"+OK")
        before = story.ledger.expected(mailbox)  # what came in after the logon is not in the listing
        client.ask(b"UIDL", b"+OK")
        unique_ids = [line.split()[1].decode() for line in client.multiline().splitlines()]
        doomed = []
        for number, unique_id in enumerate(unique_ids[:count], 1):
            client.ask(b"RETR %d" % number, b"+OK")
            octets = client.multiline()
            token = token_of(octets)
            wrong = story.ledger.wrong_octets(mailbox, token, octets)
            story.wrong += wrong or story.ledger.seen(mailbox, token, unique_id)
            if token in before:
                client.ask(b"DELE %d" % number, b"+OK")
                doomed.append(token)
        if leave:
            story.ledger.deleting(mailbox, doomed)
            client.ask(b"QUIT", b"+OK")
            story.ledger.deleted(mailbox, doomed)


# --- the runs ---


def run(extent: Extent) -> Result:
    """Cut the power in both modes."""
    result, began = Result("power cut"), time.monotonic()
    for share, mode in enumerate(MODES, 1):
        until = began + extent.seconds * share / len(MODES)
        before, wrong, schedules = result.states, len(result.violations), 0
        with Disk(mode) as disk:
            new_home(disk, result, extent)
        with Disk(mode) as disk:
            moving(disk, result, extent)
        with Disk(mode) as disk:
            script(disk, result, extent)
        while schedules < _MOST_SCHEDULES and (
            time.monotonic() < until or (extent.full and result.states - before < _WANTED)
        ):
            schedules += 1
            with Disk(mode) as disk:
                schedule(disk, result, extent, extent.random.randrange(1 << 32))
        result.violations[wrong:] = [f"{mode}: {sentence}" for sentence in result.violations[wrong:]]
        result.notes.append(f"{mode}: {result.states - before} states, {schedules} random schedules")
    result.seconds = time.monotonic() - began
    return result


def control(which: str, extent: Extent) -> Result:
    """Do the same to a disk or a program that is known to lose mail; whoever asks wants to see violations."""
    result, began = Result(f"power cut, control {which}"), time.monotonic()
    environment = planted(which) if which in _IN_THE_PROGRAM else {}
    mode = "strict" if which in ("nodirsync", "skipped") else "lenient"
    with Disk(mode) as disk:
        scene = prepared(disk, which, result)
        with serving(scene, **environment) as (_, story):
            if not environment:
                disk.order(which)
            for count in range(20):
                scene.watch(_another(extent.random))
                for size in (900, 200_000, 70_000):
                    token = f"c-{count}-{size}"
                    story.step("deliver", lambda t=token, s=size: story.deliver(t, s, ALICE, BOB))  # type: ignore[misc]
                story.step("read", lambda: take(story, ALICE, 1, leave=True))
                scene.judge(extent, torn=1, restarts=0)
                if result.violations or extent.over():
                    break
    result.seconds = time.monotonic() - began
    return result
