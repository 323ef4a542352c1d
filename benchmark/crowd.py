"""Load: ten thousand sessions at one time, a hostile crowd beside honest clients, and the memory of each connection.

    python -m benchmark.crowd [--quick] [sessions] [tls] [crowd] [memory]

Memory is that of the whole service, master and workers: what is theirs alone (`machine.Box`), so neither the kernel's
buffers of sockets nor the files that it keeps in memory. What a connection takes is the most that the service had while
all were there, less what it had before them, by their number; each kind of connection meets a service that has just
started and was warmed up, since memory that one kind has left behind is used by the next. Invariants: everything is
bounded in time and number; whatever happens, no server, no client and no file is left.

One file although it is long: each figure is a few lines, and all share one way to serve, to wait and to measure.
"""

import contextlib
import resource
import signal
import smtplib
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from benchmark import generator, population, subject
from benchmark.generator import RunError, Traffic
from benchmark.hostile import ANY_CERTIFICATE, Crowd
from benchmark.population import DOMAIN, KIB, MIB, PASSWORD
from benchmark.subject import Winpop
from winpop.admin.place import Place
from winpop.auth import passwords
from winpop.db.home import Home

Row = dict[str, Any]
PARTS = ("sessions", "tls", "crowd", "memory")
WORKERS = 2
SESSIONS, OVER_TLS = 10_000, 2_000
_SOURCES = 5
"""Addresses from which the sessions come, a load generator for each."""
_LOGONS = 1500
"""A second, which are all first ones, each with its hash, though the cheapest there may be."""
_LOADED = {"socketmax": "12000", "logonqueue": "2000", "trusted": "127.0.0.0/8"}
"""What an administrator of such a load would set: room for more than the sessions and many logons at one moment, and
the networks of their own users, who bring their passwords in clear, hundreds of them from one address."""
_AT_FIRST = {"socketmax": "10000", "logonqueue": "200", "trusted": "127.0.0.1/32,::1/128"}
"""The same settings as they are in a new installation."""
_GUESTS = 2_100
"""As many as the hostile clients together, who are counted over all kinds, and some."""
_HONEST, _FRESH, _WARM = 2, 120, 32
"""Honest clients who come all the time, and those who come once; of these the last ones only warm the service up."""
_MANY = 10_000
"""Messages in a mailbox that is listed."""
_STRANGER = "127.200.0.2"
"""An honest client's address in another network, that nobody trusts and nobody guesses from."""
_WITHIN = 20.0
"""Seconds after which an honest client goes away."""
_PAUSE = 0.2
_GOAL = 1000.0
"""Milliseconds within which an honest client is to be served."""
_BEFORE, _WITH_MAIL = 64.0, 256.0
"""KiB that a connection may take before its logon, and while it sends or fetches."""

CROWD = {
    "silent": 300,
    "silent over TLS": 100,
    "dripping": 300,
    "never reading over TLS": 300,
    "pipelining on": 100,
    "asking on": 20,
    "half a hello": 150,
    "hello alone": 150,
    "guessing": 300,
    "garbage": 100,
    "overlong": 100,
    "sending slowly": 100,
    "coming and going": 20,
}
"""The hostile crowd, kind by kind; those who come and go do so 50 times a second each, at most."""

BEFORE_LOGON = {
    "silent": "that says nothing",
    "silent over TLS": "that says nothing after a TLS handshake",
    "garbage": "that has sent 60 KiB of garbage",
    "pipelining": "that has sent 60 KiB of commands, and reads no answer",
    "pipelining on": "that sends commands as long as they are taken, and reads no answer",
    "pipelining over TLS": "that sends commands over TLS as long as they are taken, and reads no answer",
    "half a hello": "that has sent half a ClientHello",
    "hello alone": "that has sent a ClientHello (half of them after STLS), and reads no answer",
    "long hello": "that has sent 120 KiB of a ClientHello of 128 KiB",
}
WITH_MAIL = {
    "sending slowly": "that sends a message of 4 MiB, 80 KiB a second",
    "sending": "that sends a message of 4 MiB as quickly as it is taken",
    "sending morsels": "that has sent a message of 120 KiB, 16 octets at a time, but for its end",
    "fetching slowly": "that fetches a message of 20 MiB, 80 KiB a second",
    "fetching slowly over TLS": "that fetches a message of 20 MiB over TLS, 80 KiB a second",
    "never reading": "that asks for 20 MiB a thousand times, and reads nothing",
    "never reading over TLS": "that asks for 20 MiB a thousand times over TLS, and reads nothing",
}


def measure(quick: bool, parts: Sequence[str] = PARTS) -> list[Row]:  # noqa: FBT001 - the one choice that there is
    """Return rows of what, figure, unit, goal (None: there is none), spread and command.

    Smaller is better, but for the number of sessions. Raises `RunError`, `OSError`.
    """
    share = 10 if quick else 1
    _allow_descriptors(SESSIONS // share + 2000)
    with tempfile.TemporaryDirectory(prefix="winpop-benchmark-", dir="/var/tmp") as directory:
        place = _Place.make(Path(directory), share)
        measures = {"sessions": _sessions, "tls": _over_tls, "crowd": _beside_the_crowd, "memory": _memory}
        rows = [row for part in parts for row in measures[part](place)]
    command = "python -m benchmark.crowd" + (" --quick" if quick else "")
    return [row | {"command": command} for row in rows]


def _row(what: str, values: Sequence[float], unit: str, goal: float | None = None, *, greatest: bool = False) -> Row:
    """Return a row: the median of the values, or the greatest."""
    figure = max(values) if greatest else statistics.median(values)
    spread = [round(min(values), 2), round(max(values), 2)]
    return {"what": what, "figure": round(figure, 2), "unit": unit, "goal": goal, "spread": spread}


def _allow_descriptors(wanted: int) -> None:
    """Let this process, and so those that it starts, have so many descriptors. Raises `RunError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (ValueError, OSError) as error:
            raise RunError(f"{wanted} descriptors are needed, and {hard} allowed; see 'ulimit -n'") from error


# --- the home, and the service in it ---


@dataclass(slots=True)
class _Place:
    """A directory with homes that are there already, and how small a share of everything is measured."""

    root: Path
    share: int
    home: Path
    many: int
    """Mailboxes with many messages."""
    _services: int = 0

    @classmethod
    def make(cls, root: Path, share: int) -> Self:
        """Make a home with mailboxes in bulk: to add them one by one would hash each one's password."""
        place = cls(root, share, root / "home", 20 if share == 1 else 4)
        subject.run(place.home, "add", DOMAIN)
        certificate = population.make_certificate(root)
        subject.run(place.home, "certificate", str(certificate.chain), str(certificate.key))
        cheap, slow = population.cheap_hash(), population.slow_hash()
        counts = {"held": SESSIONS // share, "guest": _GUESTS, "many": place.many, "inbox": 1}
        with contextlib.closing(Place(Home(place.home))) as tool:
            for name, count in counts.items():
                _add(tool, name, count, cheap)
            _add(tool, "honest", _HONEST, slow)
            _add(tool, "fresh", _FRESH, slow)
            _fill(tool, place.many, _MANY // share)
        with place.serve() as service:
            everybody = [f"honest{number}@{DOMAIN}" for number in range(_HONEST)]
            everybody += [f"fresh{number}@{DOMAIN}" for number in range(_FRESH)]
            _hand_in(service.ports["smtp"], everybody, 2 * KIB)
            guests = [f"guest{number}@{DOMAIN}" for number in range(_GUESTS)]
            for start in range(0, len(guests), 1000):
                _hand_in(service.ports["smtp"], guests[start : start + 1000], 20 * MIB)
        return place

    @contextlib.contextmanager
    def serve(self, **settings: str) -> Iterator[Winpop]:
        """Run the service with these settings, and end it; what is not named is as it is at first."""
        for name, default in _AT_FIRST.items():
            subject.run(self.home, "set", name, settings.get(name, default))
        self._services += 1
        with contextlib.closing(Winpop(self.home, WORKERS, f"crowd-{self._services}")) as service:
            yield service

    def users(self, name: str, numbers: range) -> Path:
        """Write the generator's file of these users."""
        return population.write_users(
            self.root / f"users-{name}-{numbers.start}", [f"{name}{number}@{DOMAIN}" for number in numbers]
        )


def _add(tool: Place, name: str, count: int, password_hash: str) -> None:
    """Make mailboxes that share one password and its hash."""
    database = tool.database()
    domain = database.number("SELECT id FROM domain WHERE name = ?", DOMAIN)
    kept = (password_hash, *passwords.scram_texts(PASSWORD.encode()))
    with database.write() as transaction:
        first = database.number("SELECT coalesce(max(id), 0) + 1 FROM mailbox")
        names = [(first + number, domain, f"{name}{number}") for number in range(count)]
        transaction.many("INSERT INTO mailbox (id, domain_id, name) VALUES (?, ?, ?)", names)
        transaction.many(
            "INSERT INTO password (mailbox_id, hash, scram_sha_1, scram_sha_256) VALUES (?, ?, ?, ?)",
            [(first + number, *kept) for number in range(count)],
        )


def _fill(tool: Place, mailboxes: int, messages: int) -> None:
    """Put many messages into some mailboxes, all with one body."""
    database = tool.database()
    body = b"Subject: one of many\r\n\r\n" + b"x" * 200 + b"\r\n"
    with database.write() as transaction:
        transaction.run("INSERT INTO body (id, size, plain, content) VALUES (1, ?, 1, ?)", len(body), body)
        for number in range(mailboxes):
            mailbox = database.number("SELECT id FROM mailbox WHERE name = ?", f"many{number}")
            transaction.many(
                "INSERT INTO message (mailbox_id, body_id, unique_id, size, prefix, received) "
                "VALUES (?, 1, ?, ?, ?, ?)",
                [(mailbox, f"{number:06d}{index:016d}", len(body), b"", 0) for index in range(messages)],
            )


def _hand_in(port: int, recipients: list[str], octets: int) -> None:
    """Deliver one message to all."""
    text = b"Subject: a message\r\n\r\n" + (b"x" * 76 + b"\r\n") * (octets // 78)
    with smtplib.SMTP("127.0.0.1", port, local_hostname="benchmark.invalid", timeout=60) as client:
        refused = client.sendmail("", recipients, text)
    if refused:
        raise RunError(f"{len(refused)} of {len(recipients)} recipients were refused")


# --- honest clients ---


def _connect(port: int, source: str, *, tls: bool) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), _WITHIN, (source, 0))
    if not tls:
        return plain
    try:
        return ANY_CERTIFICATE.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _poll(ports: Mapping[str, int], user: str, source: str = "127.0.0.1", *, tls: bool = False) -> None:
    """Connect, log on, STAT, RETR a small message, QUIT. Raises `OSError`."""
    with _connect(ports["pop3s" if tls else "pop3"], source, tls=tls) as session, session.makefile("rb") as replies:
        for command in ("", f"USER {user}@{DOMAIN}", f"PASS {PASSWORD}", "STAT", "RETR 1", "QUIT"):
            if command:
                session.sendall(command.encode() + b"\r\n")
            line = replies.readline()
            if not line.startswith(b"+OK"):
                raise ConnectionError(f"{command.partition(' ')[0] or 'greeting'}: {line!r}")
            if command.startswith("RETR"):
                while replies.readline() not in {b".\r\n", b""}:
                    pass


def _send(port: int, make: type[smtplib.SMTP]) -> None:
    """Send a small message. Raises `OSError`."""
    with make("127.0.0.1", port, local_hostname="honest.example", timeout=_WITHIN) as client:
        client.sendmail("sender@elsewhere.example", f"inbox0@{DOMAIN}", b"Subject: hello\r\n\r\nHow are you?\r\n" * 50)


@dataclass(slots=True)
class _Honest:
    """A client that comes again and again, and how long it took each time (milliseconds), or why it was not served."""

    name: str
    come: Callable[[int], None]
    every: float = _PAUSE
    took: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def live(self, until: float) -> None:
        """Come until then."""
        number = 0
        while (began := time.monotonic()) < until:
            try:
                self.come(number)
            except (OSError, smtplib.SMTPException) as error:
                self.refused.append(str(error) or type(error).__name__)
            self.took.append((time.monotonic() - began) * 1000)
            number += 1
            time.sleep(max(0.0, began + self.every - time.monotonic()))


def _honest(ports: Mapping[str, int]) -> list[_Honest]:
    return [
        _Honest("a poll (with RETR)", lambda _: _poll(ports, "honest0")),
        _Honest("a poll over TLS from another network", lambda _: _poll(ports, "honest1", _STRANGER, tls=True)),
        _Honest(
            "a first poll over TLS from another network, its password hashed",
            lambda number: _poll(ports, f"fresh{number}", _STRANGER, tls=True),
            every=0.4,
        ),
        _Honest("a message by SMTP", lambda _: _send(ports["smtp"], smtplib.SMTP)),
        _Honest("a message by LMTP", lambda _: _send(ports["lmtp"], smtplib.LMTP)),
    ]


def _live(clients: Sequence[_Honest], seconds: float) -> None:
    """Let honest clients come for so long, side by side."""
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(len(clients)) as threads:
        for _ in threads.map(lambda client: client.live(until), clients):
            pass


# --- memory ---


class _Watch:
    """The most memory that a service has had within `with`, and how much it had before."""

    def __init__(self, service: Winpop) -> None:
        service.cpu()  # comes back at rest
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.before = self.most = service.memory()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, self._service.memory())

    def each(self, count: int) -> float:
        """Return the KiB that each of so many took."""
        return (self.most - self.before) / count / KIB


def _warm(service: Winpop) -> None:
    """Do everything once in each worker, so that what a worker makes once is there already."""
    ports = service.ports
    with ThreadPoolExecutor(8) as threads:
        waits = [threads.submit(_poll, ports, f"guest{_GUESTS - 1 - number}") for number in range(16)]
        waits += [threads.submit(_poll, ports, f"guest{_GUESTS - 17 - number}", tls=True) for number in range(16)]
        waits += [threads.submit(_poll, ports, f"fresh{_FRESH - 1 - number}") for number in range(_WARM)]
        waits += [threads.submit(_send, ports["smtp"], smtplib.SMTP) for _ in range(16)]
        for wait in waits:
            wait.result()


# --- the parts ---


def _sessions(place: _Place) -> Iterator[Row]:
    """Measure many sessions at one time, and a newcomer beside them."""
    count = SESSIONS // place.share
    settings = ", ".join(f"{name} {value}" for name, value in _LOADED.items())
    with place.serve(**_LOADED) as service:
        newcomer = _Honest("newcomer", lambda _: _poll(service.ports, "honest0"), every=0.05)
        _warm(service)
        newcomer.come(0)
        with _Watch(service) as watch, _held(place, service, count, _SOURCES) as answered:
            service.cpu()
            newcomer.live(time.monotonic() + (1 if place.share > 1 else 5))
    _all_served([newcomer])
    at_once = f"beside {count:,} idle sessions"
    yield _row(
        f"sessions open and logged on at the same time, all answered afterwards (winpop set {settings})",
        [sum(answered)],
        "sessions",
        count,
    )
    yield _row(f"memory of a session, {at_once[7:]} of {count:,} mailboxes", [watch.each(count)], "KiB", _BEFORE)
    yield _row(f"a newcomer's poll (with RETR) {at_once}, median", newcomer.took, "ms")
    yield _row(f"a newcomer's poll (with RETR) {at_once}, the longest", newcomer.took, "ms", _GOAL, greatest=True)


def _over_tls(place: _Place) -> Iterator[Row]:
    """Measure many sessions over TLS at one time."""
    count = OVER_TLS // place.share
    with place.serve(**_LOADED) as service:
        _warm(service)
        with _Watch(service) as watch, _held(place, service, count, 1, "--tls") as answered:
            service.cpu()
    yield _row("sessions over TLS open at the same time, all answered afterwards", [sum(answered)], "sessions", count)
    yield _row(f"memory of a session over TLS, {count:,} idle sessions", [watch.each(count)], "KiB", _BEFORE)


@contextlib.contextmanager
def _held(place: _Place, service: Winpop, count: int, sources: int, *flags: str) -> Iterator[list[int]]:
    """Hold sessions within `with`; at its end each gives a command and QUIT. Gives how many were answered."""
    script = "reply\nsend USER %u\nreply\nsend PASS %p\nreply\nhold\nsend NOOP\nreply\nsend QUIT\nreply\n"
    port = service.ports["pop3s" if "--tls" in flags else "pop3"]
    each = count // sources
    answered: list[int] = []
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(sources):
            users = place.users("held", range(number * each, (number + 1) * each))
            source = ("--source", f"127.0.0.{number + 2}", "--rate", str(_LOGONS // sources), "--hold", "120")
            traffic = Traffic(port, script, each, users, sessions=each, flags=(*flags, *source))
            process = generator.begin(traffic)
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"held":
                generator.finish(process)
                raise RunError("the sessions did not come together")
        yield answered
        for process in started:
            process.terminate()  # which ends the holding, not the sessions
        answered += [generator.finish(process).sessions for process in started]


def _all_served(clients: Sequence[_Honest]) -> None:
    for client in clients:
        if client.refused:
            raise RunError(f"{client.name}: {len(client.refused)} of {len(client.took)} refused: {client.refused[0]}")


def _beside_the_crowd(place: _Place) -> Iterator[Row]:
    """Measure honest clients beside the hostile crowd, and what the crowd takes."""
    kinds = {name: max(1, count // place.share) for name, count in CROWD.items()}
    size = sum(kinds.values())
    with place.serve() as service:
        _warm(service)
        beside = _honest(service.ports)
        for client in beside[:2]:
            client.come(0)  # its password is remembered from now on
        service.cpu()
        with _Watch(service) as watch, Crowd(service.ports, kinds) as crowd:
            _live(beside, 3 if place.share > 1 else 15)
        time.sleep(1)
        service.cpu()
        after = service.memory()
    named = ", ".join(f"{count} {name}" for name, count in kinds.items())
    for client in beside:
        what = f"{client.name}, beside a hostile crowd of {size:,} ({len(client.took)} times; the longest)"
        yield _row(what, client.took, "ms", _GOAL, greatest=True)
    refused = sum(len(client.refused) for client in beside)
    yield _row(f"honest clients refused beside that crowd ({named})", [refused], "clients", 0)
    yield _row("memory of the service before that crowd", [watch.before / MIB], "MiB")
    yield _row("memory of the service beside that crowd, the most", [watch.most / MIB], "MiB")
    yield _row("memory of the service after that crowd", [after / MIB], "MiB")
    yield _row("memory of a hostile connection, on average", [watch.each(size)], "KiB", _WITH_MAIL)
    for name, tally in crowd.became.items():
        print(f"crowd: {name}: {tally}", file=sys.stderr)
    for client in beside:
        print(
            f"crowd: {client.name}: median {statistics.median(client.took):.1f} ms; {client.refused[:3]}",
            file=sys.stderr,
        )


def _memory(place: _Place) -> Iterator[Row]:
    """Measure the memory of a connection of each kind."""
    for kinds, count, goal in ((BEFORE_LOGON, 1000, _BEFORE), (WITH_MAIL, 200, _WITH_MAIL)):
        for kind, what in kinds.items():
            each = _each(place, kind, count // place.share)
            yield _row(f"memory of a connection {what} ({count // place.share} at once)", [each], "KiB", goal)
    opened, listing = (_each(place, kind, place.many, "many%d@" + DOMAIN) for kind in ("opened", "listing"))
    messages = f"{_MANY // place.share:,} messages"
    yield _row(f"memory of an open maildrop of {messages} ({place.many} at once)", [opened], "KiB")
    yield _row(
        "the same, listed a hundred times to a client that reads nothing, beyond that",
        [listing - opened],
        "KiB",
        _WITH_MAIL,
    )


def _each(place: _Place, kind: str, count: int, users: str = "guest%d@" + DOMAIN) -> float:
    """Return the KiB that each of so many connections of a kind takes."""
    with place.serve() as service:
        _warm(service)
        with _Watch(service) as watch, Crowd(service.ports, {kind: count}, source="127.0.0.1", users=users) as crowd:
            time.sleep(1 if place.share == 1 else 0.5)
    print(f"crowd: {kind}: {crowd.became}", file=sys.stderr)
    return watch.each(count)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def main(words: Sequence[str]) -> int:
    """Measure and show the table."""
    signal.signal(signal.SIGTERM, _leave)
    parts = [word for word in words if word in PARTS]
    for row in measure("--quick" in words, parts or PARTS):
        least, most = row["spread"]
        goal = "" if row["goal"] is None else f"(goal {row['goal']:g})"
        print(f"{row['figure']:>9} {row['unit']:<8}  {least} to {most}  {row['what']} {goal}".rstrip(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
