"""Bad days: no descriptor left, clocks that jump, processes that pause, workers and masters that die, two services.

Each is put on the real service while mail comes in and is fetched. Invariant: what the book says was promised is
looked for after each, from inside and by clients; the service goes on by itself, and its log tells of no defect.

It has some hundreds of lines because it is a list: each kind of day has a part of its own, and none uses another's.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from durability.book import Book
from durability.ledger import message, stuffed
from durability.report import Extent, Result
from durability.service import Attempt, patience, runs
from durability.traffic import (
    DONE,
    LOCKED_REPLY,
    MAILBOXES,
    REFUSED,
    SIZES,
    Client,
    GoneError,
    NotDoneError,
    Traffic,
    connect,
    copy,
    listing,
    log_on,
    prepared,
    replaced,
)
from running import COMMAND, Service
from services.wire import change, descriptors, eventually, holder_of, settle, unfinished
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store.blobs import Blobs
from winpop.store.sweep import sweep
from winpop.terms.refusals import Refusal

LIBRARY = "libfaketimeMT.so.1"
YEAR = 365 * 86400
JUMPS = (10 * YEAR, -20 * YEAR)
_LAZY = 4
"""Descriptors that a worker takes with its first change of the database, and keeps."""
_TOKENS = itertools.count()


def missing() -> str:
    """Return what this computer lacks, or nothing."""
    lacking = [f"the program {name} (package util-linux)" for name in ("prlimit", "unshare") if not shutil.which(name)]
    if faketime() is None:
        lacking.append(f"{LIBRARY} (package libfaketime)")
    if os.geteuid():
        lacking.append("root, for a clock of its own since the boot")
    return f"bad days need {', '.join(lacking)}" if lacking else ""


def faketime() -> Path | None:
    """Return the library that makes clocks jump, where there is one."""
    return next(iter(sorted(Path("/usr/lib").glob(f"*/faketime/{LIBRARY}"))), None)


def run(extent: Extent) -> list[Result]:
    """Go through all of them; each has its share of the time."""
    with prepared() as place:
        return [
            _timed(descriptors_are_exhausted, place, extent, 0.2),
            _timed(clocks_jump, place, extent, 0.25),
            _timed(processes_pause, place, extent, 0.2),
            _timed(processes_die, place, extent, 0.2),
            _timed(two_services_start, place, extent, 0.15),
        ]


def _timed(do: Callable[[Path, Extent, Result, float], None], place: Path, extent: Extent, share: float) -> Result:
    result = Result(do.__name__.replace("_", " "))
    began = time.monotonic()
    try:
        do(place, extent, result, began + share * extent.seconds)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was wrong
        result.violated("all along", [f"{type(error).__name__}: {error}"])
    result.of = result.points
    result.seconds = time.monotonic() - began
    return result


def laps(extent: Extent, until: float, least: int) -> Iterator[int]:
    """Count laps: so many at least, and in a full run for as long as there is time."""
    for lap in itertools.count():
        if lap >= least and not (extent.full and time.monotonic() < until):
            return
        yield lap


def token() -> str:
    """Return a new token."""
    return f"d-{next(_TOKENS)}"


# --- a service with things going on ---


@dataclass(slots=True)
class Scene:
    """A home and what was promised in it, over several services."""

    home: Home
    traffic: Traffic
    result: Result
    where: str

    @property
    def book(self) -> Book:
        """What was promised."""
        return self.traffic.book

    def judge(self) -> None:
        """Hold the home against the book; nothing is on its way."""
        self.result.states += 1
        self.result.violated(self.where, self.traffic.wrong_in(self.home))

    def serve(self, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> Attempt:
        """Start a service on the home; the clients use it from now on."""
        self.traffic.service = service = Attempt(self.home.path, environment=environment, prefix=prefix)
        return service

    def judged_stop(self) -> None:
        """Let every mailbox be fetched, stop the service, judge."""
        self.result.states += 1
        self.result.violated(self.where, self.traffic.last_look())


@contextlib.contextmanager
def scene(place: Path, result: Result, where: str, **settings: str) -> Iterator[Scene]:
    """Make a home and a book; its service ends here at the latest."""
    home = copy(place)
    if settings:
        settle(home, **settings)
    made = Scene(home, Traffic(None, Book(MAILBOXES)), result, where)  # type: ignore[arg-type]  # `serve` gives it one
    try:
        yield made
    finally:
        service: Service | None = made.traffic.service
        if service is not None and service.process.poll() is None:
            service.kill()
    result.points += 1


@contextlib.contextmanager
def load(traffic: Traffic, seed: int, mailboxes: list[str], senders: int = 3, fetchers: int = 2) -> Iterator[None]:
    """Let mail come in, small and large, and be fetched and deleted, meanwhile."""
    over = threading.Event()

    def sends(draw: random.Random) -> None:
        while not over.wait(0.02):
            some = draw.sample(mailboxes, draw.randint(1, 2))
            traffic.send(token(), draw.choice(SIZES), *some, kind=draw.choice(["smtp", "lmtp"]))

    def fetches(draw: random.Random) -> None:
        while not over.wait(0.02):
            traffic.fetch(draw.choice(mailboxes), delete=draw.randint(2, 6), quit=draw.random() < 0.9)

    draws = random.Random(seed)
    with ThreadPoolExecutor(senders + fetchers) as pool:
        works = [pool.submit(sends, random.Random(draws.random())) for _ in range(senders)]
        works += [pool.submit(fetches, random.Random(draws.random())) for _ in range(fetchers)]
        try:
            yield
        finally:
            over.set()
        for work in works:
            work.result()


def crash(at: Scene, service: Service) -> None:
    """Kill all processes of a service."""
    with at.book.trouble():
        service.kill()
    at.book.settle()


# --- (a) descriptors ---


def descriptors_are_exhausted(place: Path, extent: Extent, result: Result, until: float) -> None:
    """Give the processes few descriptors, and open more connections than that."""
    for lap in laps(extent, until, 2):
        number = (45, 64, 80, 40, 50, 55, 72)[lap % 7]
        with scene(place, result, f"{number} descriptors", sessionsperaddress="1000") as at:
            _starve(at, number)


def _starve(at: Scene, number: int) -> None:
    service = at.serve(prefix=("prlimit", f"--nofile={number}"))
    first = MAILBOXES[0]
    large, small = token(), token()
    assert at.traffic.send(large, SIZES[-1], first) == DONE
    assert at.traffic.send(small, SIZES[0], first, MAILBOXES[1]) == DONE
    most = max(at_rest(service)) + _LAZY
    before = at.book.before(first)
    with log_on(service, first) as session:
        at.result.violated(at.where, at.book.wrong_listing(first, before, listing(session, {})))
        with at.book.trouble(), contextlib.ExitStack() as crowd:
            at.traffic.within = 1
            for n in range(2 * number + 20):
                with contextlib.suppress(OSError):
                    crowd.enter_context(Client(service.ports[("pop3", "smtp", "lmtp")[n % 3]], within=1))
            time.sleep(0.3)
            height = at_rest(service)
            if max(height[1:]) < number - 3:
                at.result.violated(at.where, [f"nothing was tried: {height} descriptors are not all"])
            at.traffic.send(token(), SIZES[0], first)
            at.traffic.send(token(), SIZES[-1], first, kind="lmtp")
            at.traffic.fetch(MAILBOXES[1], delete=1)
            # It takes a descriptor to read a large message: it comes wholly, or not yet.
            with contextlib.suppress(NotDoneError):
                at.result.violated(at.where, at.book.wrong_octets(first, large, session.fetched(b"RETR 1")))
            at.result.states += 1
            if service.process.poll() is not None:
                at.result.violated(at.where, ["the service has ended"])
            at.book.deleting(first, [small])
            words = [session.ask(command) for command in (b"DELE 2", b"QUIT")]
            if words[1].startswith(b"+OK"):
                at.book.deleted(first, [small])
            else:
                at.result.violated(at.where, [f"a session that was open: {words}"])
        at.traffic.within = 20
    try:
        eventually(lambda: max(at_rest(service)) <= most, patience(10))
    except AssertionError:
        at.result.violated(at.where, [f"descriptors at rest are {at_rest(service)}, and should be {most} at most"])
    for kind in ("smtp", "lmtp"):
        for size in SIZES:
            assert at.traffic.send(token(), size, *MAILBOXES[:3], kind=kind) == DONE
    at.judged_stop()


def at_rest(service: Service) -> list[int]:
    """Return how many descriptors master and workers have."""
    return [descriptors(process) for process in [service.process.pid, *sorted(service.workers())]]


# --- (b) clocks ---


def clocks_jump(place: Path, extent: Extent, result: Result, until: float) -> None:
    """Let the wall clock jump by years while the service runs, and start it again there; the boot clock once."""
    library = faketime()
    assert library is not None, missing()
    for lap in laps(extent, until, 1):
        with scene(place, result, f"clocks, lap {lap}") as at:
            _jump(at, library, extent.random.getrandbits(32), JUMPS[:: 1 if lap % 2 == 0 else -1])
    with scene(place, result, "boot clock") as at:
        service = at.serve(prefix=("unshare", "-T", "--boottime", str(9 * YEAR), "--monotonic", str(9 * YEAR)))
        with load(at.traffic, 1, MAILBOXES):
            time.sleep(0.5)
        crash(at, service)
        service = at.serve()  # from nine years back to now
        at.judge()
        at.judged_stop()


def _jump(at: Scene, library: Path, seed: int, jumps: tuple[int, ...]) -> None:
    clock = at.home.path.with_suffix(".clock")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",  # files keep the times that they got, as they do when a clock is set
    }

    def now(jump: int) -> None:
        new = clock.with_suffix(".new")
        new.write_text(f"{jump:+d}")
        new.rename(clock)

    now(0)
    try:
        service = at.serve(environment)
        for jump in jumps:
            _goes_on_through(at, service, lambda jump=jump: now(jump))  # type: ignore[misc]
            with load(at.traffic, seed, MAILBOXES):
                time.sleep(0.3)
                now(0)
                time.sleep(0.3)
                now(jump)
            year = time.gmtime(time.time() + jump).tm_year
            assert f"\n{year}-" in service.log.read_text(), "the clock did not jump"
            _leave_a_draft(at, service)
            crash(at, service)
            at.judge()
            service = at.serve(environment)  # its sweep finds that everything is years old, or years too young
            with load(at.traffic, seed + 1, MAILBOXES, senders=4, fetchers=1):
                eventually(lambda: not left_behind(at.home), patience(10))
                _sweep_all_the_time(at, jump)
        now(0)
        at.judged_stop()
    finally:
        for left in Path("/dev/shm").glob("*faketime_s*"):
            pid = left.name.rpartition("_")[2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(FileNotFoundError):
                    left.unlink()


def _leave_a_draft(at: Scene, service: Service) -> None:
    """Leave a large message behind that was never finished, in a file."""
    client = connect(service, "smtp")
    octets = _begun(client, token(), SIZES[-1], MAILBOXES[0])
    client.send(octets[: len(octets) // 2])
    eventually(lambda: unfinished(at.home), patience(5))
    with at.book.trouble():
        client.socket.settimeout(1)
    at.traffic.service._clients.append(client)  # type: ignore[arg-type]  # closed with the service


def _sweep_all_the_time(at: Scene, jump: int) -> None:
    """Sweep again and again while messages come in that look as if they were years old: they may be refused for now."""
    before = at.traffic.told.get(f"send {REFUSED}", 0)
    with at.book.trouble():
        database = Sqlite(at.home)
        try:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                sweep(database, Blobs(at.home.mail), time.time() + jump)
                at.result.states += 1
        finally:
            database.close()
        time.sleep(0.3)  # who was refused has heard it
    refused = at.traffic.told.get(f"send {REFUSED}", 0) - before
    at.result.notes.append(f"{at.where}: {refused} messages were refused for now while sweeps took them for old")


def left_behind(home: Home) -> list[Path]:
    """Return the files of messages that a crash has left."""
    return [path for path in unfinished(home) if time.time() - _written(path) > 1]


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _begun(client: Client, name: str, size: int, *recipients: str) -> bytes:
    """Hand in a message up to DATA; return what has to be sent."""
    client.offer("smtp", *recipients)
    return stuffed(message(name, size)) + b".\r\n"


def _goes_on_through(at: Scene, service: Service, jump: Callable[[], None]) -> None:
    """Let the clock jump in the middle of sessions and messages: none of them ends."""
    first = MAILBOXES[0]
    assert at.traffic.send(token(), SIZES[-1], first) == DONE
    before = at.book.before(first)
    coming = [(token(), size) for size in SIZES]
    with contextlib.ExitStack() as open_ones:
        session = open_ones.enter_context(log_on(service, first))
        seen = listing(session, {})
        at.result.violated(at.where, at.book.wrong_listing(first, before, seen))
        senders = [open_ones.enter_context(connect(service, "smtp")) for _ in coming]
        octets = [_begun(client, *each, first) for client, each in zip(senders, coming, strict=True)]
        for client, data in zip(senders, octets, strict=True):
            client.send(data[: len(data) // 2])
        assert session.ask(b"DELE 1").startswith(b"+OK")
        jump()
        time.sleep(0.5)
        try:
            for (name, size), client, data in zip(coming, senders, octets, strict=True):
                at.book.sending(name, message(name, size), first)
                client.send(data[len(data) // 2 :])
                reply = client.line()
                assert reply.startswith(b"250 "), reply
                at.book.acknowledged(name, first)
            at.book.deleting(first, [seen[0][0]])
            reply = session.ask(b"QUIT")
            assert reply.startswith(b"+OK"), reply
            at.book.deleted(first, [seen[0][0]])
        except (AssertionError, GoneError) as error:
            at.result.violated(at.where, [f"the jump ended what was under way: {error!r}"])
    at.result.states += 1


# --- (c) pauses ---


def processes_pause(place: Path, extent: Extent, result: Result, until: float) -> None:
    """Stop a worker, then the master, for longer than timeouts; let them go on."""
    for lap in laps(extent, until, 2):
        long = 13.0 if extent.full else 2.2
        strict = lap % 2 == 0
        # With short timeouts it is open what a session hears that wakes up too late; nothing may be lost all the same.
        short = {} if strict else {"autologout": "2", "smtptimeout": "2", "stalltime": "1", "datatime": "2"}
        with scene(place, result, f"pauses, lap {lap}", **short) as at:
            _pause(at, long, extent.random.getrandbits(32), strict=strict)


def _pause(at: Scene, long: float, seed: int, *, strict: bool) -> None:
    service = at.serve()
    victim = service.workers()[0]
    for mailbox in MAILBOXES:
        for _ in range(2):
            assert at.traffic.send(token(), SIZES[0], mailbox) == DONE
    with contextlib.ExitStack() as clients:
        sessions = {}
        for mailbox in MAILBOXES[:4]:  # in the worker that will pause
            while True:
                client = clients.enter_context(log_on(service, mailbox))
                if holder_of(service, client) == victim:
                    break
                client.ask(b"QUIT")
            sessions[mailbox] = client, listing(client, {})[0][0]
            assert client.ask(b"DELE 1").startswith(b"+OK")
        with at.book.trouble():
            at.traffic.within = long + 20
            with load(at.traffic, seed, MAILBOXES[4:]):
                time.sleep(0.3)
                os.kill(victim, signal.SIGSTOP)
                try:
                    locked = _meanwhile(at, sessions, long)
                finally:
                    os.kill(victim, signal.SIGCONT)
                    woke = time.monotonic()
                if not locked:
                    at.traffic.turn("a.example", locked=True)
                _afterwards(at, sessions, woke, strict=strict and locked)
            at.traffic.within = 20
    at.traffic.turn("a.example", locked=False)
    for _ in range(4):
        assert at.traffic.send(token(), SIZES[0], *MAILBOXES) == DONE
    _pause_within_a_commit(at, service, long if long > 10 else long / 2)
    _pause_the_master(at, service, long / 2)
    at.judged_stop()


def _meanwhile(at: Scene, sessions: dict[str, tuple[Client, str]], long: float) -> bool:
    """Send QUIT to a session before its lock and after it, and to one that no lock concerns; hold another.

    Tell whether there could be a lock: a worker that pauses within a commit keeps all others from changing anything.
    """
    quitting, locked, _, free = sessions
    for mailbox in (quitting, free):
        client, name = sessions[mailbox]
        at.book.deleting(mailbox, [name])
        client.send(b"QUIT\r\n")
    time.sleep(0.1)
    try:
        at.traffic.turn("a.example", locked=True)
    except Refusal as refusal:
        if refusal.code != "database-busy":
            raise
        at.book.lock("a.example", False)
        at.result.notes.append(f"{at.where}: the worker paused within a commit")
        could = False
    else:
        could = True
    client, name = sessions[locked]
    at.book.deleting(locked, [name])
    client.send(b"QUIT\r\n")
    with contextlib.suppress(NotDoneError, GoneError):
        log_on(at.traffic.service, free, within=2).close()
        at.result.violated(at.where, ["a maildrop was opened twice"])
    time.sleep(long)
    return could


def _afterwards(at: Scene, sessions: dict[str, tuple[Client, str]], woke: float, *, strict: bool) -> None:
    """See what each session hears: the locked ones that they are locked, and nothing of them is deleted."""
    quitting, locked, holding, free = sessions
    for mailbox in (quitting, locked, holding, free):
        client, name = sessions[mailbox]
        good = b"+OK" if mailbox == free else LOCKED_REPLY
        client.socket.settimeout(20)
        try:
            reply = client.line()
        except GoneError:
            reply = b""
        took = time.monotonic() - woke
        if strict and not reply.startswith(good):
            at.result.violated(at.where, [f"{mailbox}: {reply!r} instead of {good!r} after the pause"])
        if took > patience(1.5):
            at.result.violated(at.where, [f"{mailbox}: the session went on for {took:.1f} s after the pause"])
        if reply.startswith(b"+OK"):
            at.book.deleted(mailbox, [name])
        elif mailbox != holding:
            at.book.kept(mailbox, [name])
        at.result.states += 1


def _pause_within_a_commit(at: Scene, service: Service, long: float) -> None:
    """Hold the database as a process does that pauses within a commit: who only reads is served, and then all are."""
    database = Sqlite(at.home)
    try:
        with at.book.trouble(), load(at.traffic, 2, MAILBOXES[:4]), database.write():
            until = time.monotonic() + long
            while time.monotonic() < until:
                began = time.monotonic()
                with log_on(service, MAILBOXES[5]) as client:
                    listing(client, {})
                at.result.states += 1
                if time.monotonic() - began > patience(1):
                    at.result.violated(at.where, ["a reader waited for a commit of others"])
                time.sleep(0.2)
    finally:
        database.close()
    for mailbox in MAILBOXES:
        assert at.traffic.send(token(), SIZES[-1], mailbox) == DONE


def _pause_the_master(at: Scene, service: Service, long: float) -> None:
    """Nobody misses a master that pauses; when it goes on, it replaces the worker that died meanwhile."""
    os.kill(service.process.pid, signal.SIGSTOP)
    victim = service.workers()[0]
    try:
        with load(at.traffic, 1, MAILBOXES):
            time.sleep(long / 2)
            with at.book.trouble():
                os.kill(victim, signal.SIGKILL)
                time.sleep(0.3)
            time.sleep(long / 2)
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
    replaced(service, victim)


# --- (d) deaths ---


def processes_die(place: Path, extent: Extent, result: Result, until: float) -> None:
    """Kill a worker again and again while mail comes in and goes out; then the master alone."""
    for lap in laps(extent, until, 1):
        with scene(place, result, f"deaths, lap {lap}", draintime="3") as at:
            service = at.serve()
            with load(at.traffic, extent.random.getrandbits(32), MAILBOXES):
                for _ in range(6 if extent.full else 2):
                    time.sleep(1.2)  # one that lives shorter is replaced only after a pause
                    at.traffic.kill(extent.random.choice(service.workers()))
                    result.points += 1
            at.judge()
            _kill_the_master(at, service)
            at.judged_stop()


def _kill_the_master(at: Scene, service: Service) -> None:
    """The workers end by themselves; another service can begin at once, and what they still finish holds."""
    workers = service.workers()
    with at.book.trouble(), load(at.traffic, 7, MAILBOXES):
        time.sleep(0.3)
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(10)
        at.serve()
        time.sleep(0.5)
    at.result.points += 1
    eventually(lambda: not any(runs(worker) for worker in workers), patience(15))
    service._close()


# --- (e) two services ---


def two_services_start(place: Path, extent: Extent, result: Result, until: float) -> None:
    """Start two services on one home at the same moment: one serves, the other says why not."""
    with scene(place, result, "two services") as at:
        for lap in laps(extent, until, 20 if extent.full else 3):
            new = None
            if lap % 4 == 3:  # on a home that is not there yet
                new = at.home.path.with_name(f"{at.home.path.name}-new-{lap}")
            _start_two(at, new, lap)
        at.judge()


def _start_two(at: Scene, new: Path | None, lap: int) -> None:
    home = new or at.home.path
    flags = [word for name in ("pop3", "smtp", "lmtp") for word in (f"--{name}", "127.0.0.1:0")]
    command = [*COMMAND, "--home", str(home), "--json", "serve", *flags]
    logs = [home.with_name(f"{home.name}.{n}.log") for n in range(2)]
    twins = []
    try:
        for log in logs:
            with log.open("wb") as file:
                twins.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, start_new_session=True))
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(_first_line, twins))
        serving = [n for n in range(2) if said[n].startswith(b'{"ready"')]
        at.result.states += 1
        if len(serving) != 1:
            texts = [log.read_text() for log in logs]
            at.result.violated(f"{at.where}, lap {lap}", [f"{len(serving)} of two services serve: {texts}"])
            return
        winner, loser = serving[0], 1 - serving[0]
        status, text = twins[loser].wait(20), logs[loser].read_text()
        if status != 1 or "service-running" not in text:
            at.result.violated(f"{at.where}, lap {lap}", [f"the other ended with {status} and {text!r}"])
        ports = {name: int(word.rpartition(":")[2]) for name, word in json.loads(said[winner])["ready"].items()}
        _mail_works(at, Home(home), ports, new=new is not None)
        twins[winner].send_signal(signal.SIGTERM)
        status = twins[winner].wait(40)
        if status or "Traceback" in logs[winner].read_text():
            at.result.violated(f"{at.where}, lap {lap}", [f"the one ended with {status}: {logs[winner].read_text()}"])
    finally:
        for twin in twins:
            if twin.poll() is None:
                os.killpg(twin.pid, signal.SIGKILL)
                twin.wait(10)
            assert twin.stdout is not None
            twin.stdout.close()
    at.result.points += 1


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    watch = threading.Timer(40, process.kill)
    watch.start()
    try:
        return process.stdout.readline()
    finally:
        watch.cancel()


def _mail_works(at: Scene, home: Home, ports: dict[str, int], *, new: bool) -> None:
    @dataclass(slots=True)
    class Somebody:
        home: Path
        ports: dict[str, int]

    book = at.book
    mailbox = MAILBOXES[0]
    if new:
        book = Book()
        change(home, "add", target=mailbox.partition("@")[2])
        change(home, "add", target=mailbox, createuser="secret")
    traffic = Traffic(Somebody(home.path, ports), book)  # type: ignore[arg-type]  # all that is used of a service
    for kind in ("smtp", "lmtp"):
        assert traffic.send(token(), SIZES[-1], mailbox, kind=kind) == DONE
    assert traffic.fetch(mailbox, delete=1) == DONE
    assert not traffic.wrong, traffic.wrong
