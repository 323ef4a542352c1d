"""The bench: the servers, their mailboxes and the measuring of one row.

Invariants: the servers take turns, winpop, opponent, winpop, opponent, after a warm-up of each, so that whatever else
happens on the machine meets both; a run with an error in it gives no figure; when the bench is closed nothing of it
runs, and its directory is gone.
"""

import contextlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmark import dovecot, generator, population, scenarios, subject
from benchmark.dovecot import Dovecot
from benchmark.generator import Answer, RunError, Traffic
from benchmark.population import INBOX, LOGON, WARM, Kind
from benchmark.postfix import Postfix
from benchmark.scenarios import HELD_BY_THEM, HELD_BY_US, Scenario
from benchmark.server import Server
from benchmark.subject import Winpop

Row = dict[str, Any]
"""A row of the document that becomes docs/performance.json."""
_PER = {"1,000 sessions": "sessions", "1,000 messages": "messages", "GB": "octets"}
_CHUNK = 250
_REST = 2.5
"""Seconds that mailboxes lie untouched before they are read: a Maildir that is younger than that is looked through and
synchronised again at each logon, which would be counted against the opponent."""
_Kept = TypeVar("_Kept", bound=Server)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: pairs of runs, seconds of each."""

    pairs: int
    seconds: float
    quick: bool = False


@dataclass(slots=True)
class Samples:
    """What the runs of one server gave: processor seconds per unit, per second, p99 in milliseconds."""

    cpu: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    generator: list[float] = field(default_factory=list)
    """The generator's part of the machine, 0 to 1."""
    resumed: list[float] = field(default_factory=list)
    """The part of the TLS handshakes that was resumed."""

    def add(self, scenario: Scenario, answer: Answer, cpu: float, waited: float) -> None:
        """Take a run; `waited` are the seconds until all was delivered that had been accepted."""
        done = {"sessions": answer.sessions, "messages": answer.messages, "octets": answer.octets}[_PER[scenario.per]]
        if not done:
            raise RunError("the run was too short: nothing was done in it")
        elapsed = answer.elapsed + waited
        units = done / (1e9 if scenario.per == "GB" else 1e3)
        times = answer.message if scenario.of_messages else answer.session
        self.cpu.append(round(cpu / units, 5))
        self.rate.append(round((done / 1e6 if scenario.per == "GB" else done) / elapsed, 2))
        self.p99.append(times.p99)
        self.generator.append(round(answer.cpu / ((os.cpu_count() or 1) * answer.elapsed), 4))
        if "--tls" in scenario.flags:
            self.resumed.append(round(answer.resumed / max(answer.sessions, 1), 4))

    def document(self) -> dict[str, list[float]]:
        """Return them for the document."""
        found = {"cpu": self.cpu, "rate": self.rate, "p99": self.p99, "generator": self.generator}
        return found | ({"resumed": self.resumed} if self.resumed else {})


@dataclass(slots=True)
class Fresh:
    """The users of a server who have not logged on yet."""

    next: int = WARM

    def flags(self) -> tuple[str, ...]:
        """Return the generator's flags: the first of them, and how many sessions there may be with those left."""
        most = (LOGON.mailboxes - self.next) * scenarios.FRESH_EVERY - 1
        return ("--fresh-first", str(self.next), "--sessions", str(most))

    def took(self, sessions: int) -> None:
        """Take note that there were so many sessions."""
        self.next += sessions // scenarios.FRESH_EVERY + 1


@dataclass(frozen=True, slots=True)
class Side:
    """A server in a row, with the users that it has for it."""

    server: Server
    users: Path
    fresh: Fresh | None = None
    note: str = ""


class Bench:
    """Servers in a temporary directory; each is started when a row needs it."""

    def __init__(self, workers: int, place: Path | None = None) -> None:
        """Make the directory; `place` is where, on a disk, not in memory."""
        self.workers = workers
        self.root = Path(tempfile.mkdtemp(prefix="winpop-benchmark-", dir=place or "/var/tmp"))  # noqa: S108 - a disk
        self.root.chmod(0o711)  # the opponent's processes have users of their own
        self._servers = contextlib.ExitStack()
        self.certificate = population.make_certificate(self.root)
        self._winpop: Winpop | None = None
        self._dovecots: dict[str, Dovecot] = {}
        self._postfix: Postfix | None = None
        self._filled: set[tuple[str, str]] = set()
        self._known: set[Path] = set()
        self._fresh: dict[str, Fresh] = {}
        self._store: str | None = None
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.rest()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def rest(self) -> None:
        """End all servers; no more rows can be measured."""
        self._servers.close()

    # -- the servers

    def winpop(self) -> Winpop:
        """Return winpop, with all kinds of mailboxes."""
        if self._winpop is None:
            home = self.root / "home"
            subject.make_home(home, self.certificate)
            self._winpop = self._keep(Winpop(home, self.workers))
        return self._winpop

    def dovecot(self, name: str = "main") -> Dovecot:
        """Return the Dovecot for a purpose: main, logons, filling."""
        if name not in self._dovecots:
            made = Dovecot(self.root, self.certificate, name, with_worker=name == "logons", durable=name != "filling")
            self._dovecots[name] = self._keep(made)
        return self._dovecots[name]

    def postfix(self) -> Postfix:
        """Return Postfix in front of the main Dovecot."""
        if self._postfix is None:
            self._postfix = self._keep(Postfix(self.root, self.dovecot()))
        return self._postfix

    def _keep(self, server: _Kept) -> _Kept:
        self._servers.callback(server.close)
        return server

    def configurations(self) -> dict[str, str]:
        """Return how the servers that have run are configured."""
        servers: list[Winpop | Dovecot | Postfix | None] = [self._winpop, self._dovecots.get("main"), self._postfix]
        return {server.name: self._neutral(server.configuration) for server in servers if server is not None}

    def _neutral(self, text: str) -> str:
        return text.replace(str(self.root), "DIR")

    # -- the mailboxes

    def users(self, kind: Kind, domain: str = population.DOMAIN) -> Path:
        """Return the generator's file of a kind's users in a domain."""
        path = self.root / f"users-{kind.name}-{domain}"
        return path if path.exists() else population.write_users(path, kind.addresses(domain))

    def fill(self, kind: Kind, *, again: bool = False) -> None:
        """Deliver a kind's messages to both servers, once or again."""
        if not kind.messages:
            return
        for name, server in (("winpop", self.winpop()), ("dovecot", self.dovecot("filling"))):
            if again or (name, kind.name) not in self._filled:
                self._filled.add((name, kind.name))
                fill(server, kind, self.users(kind))
        os.sync()  # what is still to be written is no part of the next run

    # -- the rows

    def measure(self, scenario: Scenario, extent: Extent) -> Row:
        """Measure a row; what fails is in the row (`failed`), in a sentence."""
        row: Row = {
            "name": scenario.name,
            "work": scenario.work,
            "per": scenario.per,
            "connections": scenario.connections,
            "goals": {
                name: goal for name in ("cpu", "rate", "p99", "memory") if (goal := getattr(scenario, f"goal_{name}"))
            },
            "failed": None,
        }
        try:
            row |= self._memory(scenario, extent) if scenario.goal_memory else self._traffic(scenario, extent)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other rows are to be measured
            row["failed"] = self._neutral(failure(error))
        return row

    def _traffic(self, scenario: Scenario, extent: Extent) -> Row:
        self.fill(scenario.kind)
        ours, theirs = self._ours(scenario), self._theirs(scenario, extent)
        self._acquaint((ours, theirs), scenario)
        for side in (ours, theirs):
            run(side, scenario, extent.seconds)
        samples = Samples(), Samples()
        for _ in range(extent.pairs):
            if scenario.refilled:
                self.fill(scenario.kind, again=True)
                time.sleep(_REST)
            for side, taken in zip((ours, theirs), samples, strict=True):
                run(side, scenario, extent.seconds, taken)
        return {
            "opponent": theirs.server.name + theirs.note,
            "winpop": samples[0].document(),
            "other": samples[1].document(),
        }

    def _acquaint(self, sides: tuple[Side, Side], scenario: Scenario) -> None:
        """Log each user on, so that the servers' caches know all of them but those who are to be fresh."""
        if scenario.of_messages or sides[1].users in self._known:
            return
        self._known.add(sides[1].users)
        for _ in range(2):
            for side in sides:
                acquaint(side.server, side.users, WARM if side.fresh else scenario.kind.mailboxes)
            time.sleep(_REST)

    def _ours(self, scenario: Scenario) -> Side:
        return Side(self.winpop(), self.users(scenario.kind), self._fresh_of("winpop", scenario))

    def _theirs(self, scenario: Scenario, extent: Extent) -> Side:
        if scenario.opponent == "dovecot":
            return Side(self.dovecot(), self.users(scenario.kind))
        if scenario.opponent == "dovecot's schemes":
            users = self.users(LOGON, dovecot.domain(scenario.scheme))
            return Side(self.dovecot("logons"), users, self._fresh_of(scenario.scheme, scenario))
        if scenario.opponent == "postfix":
            store = self._store = self._store or self._best_store(scenarios.find("lmtp-16"), extent)
        else:
            store = self._best_store(scenario, extent)
        server: Server = self.postfix() if scenario.opponent == "postfix" else self.dovecot()
        return Side(server, self.users(INBOX, dovecot.domain(store)), note=f", {store}")

    def _best_store(self, scenario: Scenario, extent: Extent) -> str:
        """Return the opponent's store that takes most messages a second in this row."""
        rates: dict[str, float] = {}
        for store in dovecot.STORES:
            side = Side(self.dovecot(), self.users(INBOX, dovecot.domain(store)))
            tried = Samples()
            for _ in range(2):  # the first run makes the mailboxes
                run(side, scenario, extent.seconds, tried)
            rates[store] = tried.rate[-1]
        return max(rates, key=lambda store: rates[store])

    def _fresh_of(self, name: str, scenario: Scenario) -> Fresh | None:
        return self._fresh.setdefault(name, Fresh()) if scenario.kind is LOGON else None

    def _memory(self, scenario: Scenario, extent: Extent) -> Row:
        ours: list[float] = []
        theirs: list[float] = []
        home = self.root / "home-held"
        if not home.exists():
            subject.begin_home(home, self.certificate)
            subject.add(home, scenario.kind.addresses(), population.cheap_hash())
        for _ in range(min(extent.pairs, 3)):
            self._held += 1
            with contextlib.closing(Winpop(home, self.workers, f"held-{self._held}")) as winpop:
                ours.append(self._held_open(winpop, scenario, HELD_BY_US))
            held = Dovecot(self.root, self.certificate, f"held-{self._held}")
            with contextlib.closing(held) as opponent:
                theirs.append(self._held_open(opponent, scenario, HELD_BY_THEM))
                name = opponent.name
        return {"opponent": name, "winpop": {"memory": ours}, "other": {"memory": theirs}}

    def _held_open(self, server: Server, scenario: Scenario, sessions: int) -> float:
        """Return the KiB of memory that an open session takes: with so many less without, by their number."""
        users, port = self.users(scenario.kind), server.ports[scenario.port]
        acquaint(server, users, sessions, scenario.port)
        server.cpu()  # comes back at rest
        without = server.memory()
        holding = Traffic(port, scenario.script, sessions, users, flags=(*scenario.flags, "--hold", "120"))
        process = generator.begin(holding)
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"held":
                generator.finish(process)
                raise RunError("the sessions did not come together")
            server.cpu()
            held = server.memory()
        finally:
            process.terminate()  # which ends the holding, not the sessions
        answer = generator.finish(process)
        if answer.sessions != sessions:
            raise RunError(f"only {answer.sessions} of {sessions} sessions were held")
        return round((held - without) / sessions / 1024, 2)


def failure(error: Exception) -> str:
    """Return the sentence of a failure that ends a row and no other."""
    return str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"


def run(side: Side, scenario: Scenario, seconds: float, into: Samples | None = None) -> Answer:
    """Run the generator once against a server; what it gives goes `into` the samples. Raises `RunError`."""
    sessions = scenario.kind.mailboxes if scenario.refilled else None
    flags = scenario.flags + (side.fresh.flags() if side.fresh else ())
    traffic = Traffic(
        side.server.ports[scenario.port],
        scenario.script,
        scenario.connections,
        side.users,
        sessions=sessions,
        seconds=None if sessions else seconds,
        flags=flags,
    )
    before = side.server.cpu()
    answer = generator.run(traffic)
    if side.fresh:
        side.fresh.took(answer.sessions)
    ended = time.monotonic()
    side.server.deliver_all()
    waited = time.monotonic() - ended
    cpu = side.server.cpu() - before
    if into is not None:
        into.add(scenario, answer, cpu, waited)
    return answer


def acquaint(server: Server, users: Path, count: int, port: str = "pop3") -> None:
    """Log the first so many users on, each once."""
    flags = ("--tls",) if port == "pop3s" else ()
    generator.run(Traffic(server.ports[port], scenarios.POLL, 8, users, sessions=count, flags=flags))


def fill(server: Server, kind: Kind, users: Path) -> None:
    """Deliver a kind's messages by LMTP."""
    chunk = min(kind.messages, _CHUNK)
    sessions = kind.mailboxes * kind.messages // chunk
    script = scenarios.delivering("LHLO", chunk, str(kind.octets), to_each=False)
    generator.run(Traffic(server.ports["lmtp"], script, min(8, sessions), users, sessions=sessions, flags=("--share",)))
