"""Administration of a large server: locking, unlocking, listing, starting, with a million mailboxes and messages.

There is no peer to compare with, so the goals are absolute. Everything is measured on one home that is made for it,
rows in bulk, and removed afterwards. The tool is run as its users run it: the installed console script, with bytecode,
which a first run leaves in a directory of its own (what the environment says about Python does not hold). Wall time is
what a user waits for; CPU time is what stays the same when others use the machine too.

    python benchmark/administration.py [--quick]

Invariant: everything is bounded in time and number, and nothing is left running.
"""

import contextlib
import hashlib
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from winpop.admin.authority import Actor
from winpop.admin.invoke import invoke
from winpop.admin.operations import OPERATIONS
from winpop.admin.outcomes import Outcome
from winpop.admin.place import Place
from winpop.db.home import Home

MANY, QUICK = 1_000_000, 20_000
DOMAIN = "example.com"
PAGE = 1000
"""Mailboxes in a page."""
SESSIONS = 200
WORKERS = 2
_AT_ONCE = 50_000
_PASSWORD = b"secret"
_WAIT = 30.0
"""Seconds after which what was waited for has failed."""
_LOOK = 0.2
"""Seconds between two looks of a worker; locks come at all moments between them."""
_CLIENTS = 16
"""Logons at the same time, so that every worker gets some."""

Row = dict[str, Any]


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - the one choice that there is
    """Return rows of what, figure (the median), unit, goal (None: there is none), spread and command."""
    many = QUICK if quick else MANY
    with tempfile.TemporaryDirectory(prefix="winpop-benchmark-") as directory:
        tool = _Tool(Path(directory))
        tool.home.make()
        _fill(tool, many)
        rows = [*_operations(tool), *_starts(tool), *_with_the_service(tool), *_listings(tool, many)]
    size = f"{many:,}"
    command = "python benchmark/administration.py" + (" --quick" if quick else "")
    return [row | {"what": row["what"].format(many=size), "command": command} for row in rows]


def _row(what: str, values: Sequence[float], unit: str, goal: float | None = None) -> Row:
    digits = 3 if unit == "s" else 1
    figure, least, most = (round(value, digits) for value in (statistics.median(values), min(values), max(values)))
    return {"what": what, "figure": figure, "unit": unit, "goal": goal, "spread": [least, most]}


# --- the home ---


def _fill(tool: "_Tool", many: int) -> None:
    """Make a domain with `many` mailboxes, each with a password and a message."""
    tool.run("add", DOMAIN)
    password = _password_hash()
    prefix = b"Return-Path: <sender@elsewhere.example>\r\n"
    body = b"Subject: one of many\r\n\r\n" + b"0123456789" * 20 + b"\r\n"
    checksum = hashlib.sha256(body + prefix).digest()
    now = int(time.time())
    with contextlib.closing(Place(tool.home)) as place:
        database = place.database()
        domain = database.number("SELECT id FROM domain WHERE name = ?", DOMAIN)
        for numbers in _by(_AT_ONCE, range(1, many + 1)):
            with database.write() as transaction:
                transaction.many(
                    "INSERT INTO mailbox (id, domain_id, name) VALUES (?, ?, ?)",
                    ((number, domain, _name(number)) for number in numbers),
                )
                transaction.many(
                    "INSERT INTO password (mailbox_id, hash, scram_sha_1, scram_sha_256) VALUES (?, ?, ?, ?)",
                    ((number, *password) for number in numbers),
                )
                transaction.many(
                    "INSERT INTO body (id, size, plain, content, checksum) VALUES (?, ?, 1, ?, ?)",
                    ((number, len(body), body, checksum) for number in numbers),
                )
                transaction.many(
                    "INSERT INTO message (mailbox_id, body_id, unique_id, size, prefix, received) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    ((number, number, f"{number:022d}", len(prefix + body), prefix, now) for number in numbers),
                )


def _password_hash() -> tuple[str, str, str]:
    """Return what is kept of the password: the cheapest hash that there may be, since hashing is not measured here."""
    from argon2 import PasswordHasher

    from winpop.auth import passwords

    return (PasswordHasher(1, 8, 1).hash(_PASSWORD), *passwords.scram_texts(_PASSWORD))


def _name(number: int) -> str:
    return f"user{number:07d}"


def _by(size: int, numbers: range) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


# --- the tool, as an operation and as a process ---


class _Tool:
    """The tool on one home."""

    def __init__(self, directory: Path) -> None:
        self.home = Home(directory / "home")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._environment["PYTHONPYCACHEPREFIX"] = str(directory / "bytecode")
        script = Path(sys.executable).with_name("winpop")
        self.command = [str(script)] if script.exists() else [sys.executable, "-m", "winpop"]

    def start(self, *arguments: str, output: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start it."""
        return subprocess.Popen(
            [*self.command, "--home", str(self.home.path), *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[float, float, float]:
        """Run it; return seconds of wall time and of CPU time, and MiB of memory. It must succeed."""
        began = time.perf_counter()
        process = self.start(*arguments)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"winpop {' '.join(arguments)} has failed")
        return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _invoked(place: Place, word: str, **given: str) -> Outcome:
    return invoke(place, Actor("benchmark", of_the_system=True), OPERATIONS[word], given)


def _timed(place: Place, word: str, **given: str) -> tuple[float, float, Outcome]:
    """Do an operation; return milliseconds of wall time and of CPU time, and what came of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = _invoked(place, word, **given)
    return (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000, outcome


def _operations(tool: _Tool, times: int = 50) -> Iterator[Row]:
    """Measure locking and unlocking alone, each time durably."""
    taken: dict[str, list[tuple[float, float, Outcome]]] = {"lock": [], "unlock": []}
    with contextlib.closing(Place(tool.home)) as place:
        for _ in range(times):
            for word, those in taken.items():
                those.append(_timed(place, word, target=DOMAIN))
    for word, those in taken.items():
        yield from _rows(f"{word} a domain of {{many}} mailboxes", [each[:2] for each in those], 50)


def _processes(tool: _Tool, what: str, arguments: Sequence[Sequence[str]], goal: float | None, times: int) -> list[Row]:
    """Measure processes that are run in turn."""
    tool.run(*arguments[0])  # leaves the bytecode
    taken = [tool.run(*some) for _ in range(times) for some in arguments]
    return _rows(what, [(wall * 1000, cpu * 1000) for wall, cpu, _ in taken], goal)


def _rows(what: str, taken: Sequence[tuple[float, float]], goal: float | None) -> list[Row]:
    return [
        _row(what, [wall for wall, _ in taken], "ms", goal),
        _row(f"{what}, CPU", [cpu for _, cpu in taken], "ms"),
    ]


def _listings(tool: _Tool, many: int) -> Iterator[Row]:
    """Measure pages, wherever they are, and what has no pages."""
    places = {"first": "", "middle": _name(many // 2), "last": _name(many - PAGE)}
    with contextlib.closing(Place(tool.home)) as place:
        for which, after in places.items():
            taken = [_timed(place, "list", domain=DOMAIN, after=after, limit=str(PAGE))[:2] for _ in range(20)]
            yield from _rows(f"list {{many}} mailboxes, the {which} page of {PAGE}", taken, 50)
        walked: list[tuple[float, float]] = []
        going_on: str | None = ""
        shown = 0
        while going_on is not None:
            wall, cpu, page = _timed(place, "list", domain=DOMAIN, after=going_on, limit=str(PAGE))
            walked.append((wall, cpu))
            going_on, shown = page.data["next_after"], shown + len(page.data["mailboxes"])
        if shown != many:
            raise RuntimeError(f"the pages have {shown} mailboxes, not {many}")
        yield from _rows(f"list {{many}} mailboxes, every page of {PAGE} one after the other", walked, 50)
    page_of = [("--json", "list", DOMAIN, "/limit", str(PAGE), "/after", after) for after in places.values()]
    yield from _processes(tool, f"'winpop list' of a page of {PAGE} as a process", page_of, None, 5)
    yield from _processes(tool, "'winpop list' of the domains as a process", [("list",)], None, 5)
    wall, _, memory = tool.run("list", DOMAIN)
    yield _row("'winpop list' of all {many} mailboxes as a process", [wall], "s")
    yield _row("'winpop list' of all {many} mailboxes as a process, memory", [memory], "MiB")


# --- the service ---


class _Service:
    """`winpop serve` with workers."""

    def __init__(self, tool: _Tool) -> None:
        began = time.perf_counter()
        self._process = tool.start(
            *("--json", "serve", "--pop3", "127.0.0.1:0", "--smtp", "127.0.0.1:0", "--workers", str(WORKERS)),
            output=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.started = time.perf_counter() - began
        """Seconds from the start of the process to the line that says that it is ready."""
        if not line.startswith(b'{"ready"'):
            self.stop()
            raise RuntimeError(f"the service does not start: {line!r}")
        self.port = int(json.loads(line)["ready"]["pop3"].rpartition(":")[2])

    def workers(self) -> list[int]:
        """Return the process numbers of the workers."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def cpu(self) -> float:
        """Return the seconds of CPU time that master and workers have taken."""
        ticks = 0
        for number in (self._process.pid, *self.workers()):
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it, and whatever is left of it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_WAIT)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _starts(tool: _Tool, times: int = 5) -> Iterator[Row]:
    """Measure the start of a service: its database in memory, and not in memory."""
    _Service(tool).stop()  # leaves the bytecode
    for where in ("in memory", "to be read from the disk"):
        taken = []
        for _ in range(times):
            if where != "in memory":
                _forget(tool.home.database)
            with _Service(tool) as service:
                taken.append((service.started, service.cpu()))
        what = f"service start with {{many}} messages, {WORKERS} workers, the database {where}"
        yield _row(what, [wall for wall, _ in taken], "s", 2)
        yield _row(f"{what}, CPU of all processes", [cpu for _, cpu in taken], "s")


def _forget(path: Path) -> None:
    """Let the system forget what it has in memory of a file, as after a start of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _with_the_service(tool: _Tool, times: int = 10) -> Iterator[Row]:
    """Measure the tool beside a running service, and the end of a locked domain's sessions."""
    tool.run("set", "sessionsperaddress", "0")
    tool.run("unlock", DOMAIN)
    with _Service(tool) as service:
        for word in ("lock", "unlock"):
            other = "unlock" if word == "lock" else "lock"
            tool.run(other, DOMAIN)
            what = f"'winpop {word}' of a domain of {{many}} mailboxes as a process"
            taken = []
            for _ in range(20):
                wall, cpu, _ = tool.run(word, DOMAIN)
                taken.append((wall * 1000, cpu * 1000))
                tool.run(other, DOMAIN)
            yield from _rows(what, taken, 150)
        tool.run("unlock", DOMAIN)
        ended, spread = [], [0] * WORKERS
        for number in range(times):
            with _sessions(service) as sessions:
                time.sleep(_LOOK * number / times)
                spread = [_sockets(worker) for worker in service.workers()]
                tool.run("lock", DOMAIN)
                ended.append(_all_ended(sessions) * 1000)
            tool.run("unlock", DOMAIN)
        shares = " and ".join(str(number) for number in spread)
        yield _row(
            f"the last of {SESSIONS} sessions in {WORKERS} workers ({shares} sockets) ended after 'winpop lock'",
            ended,
            "ms",
            1000,
        )


@contextlib.contextmanager
def _sessions(service: _Service) -> Iterator[list[socket.socket]]:
    """Open sessions, each of a mailbox of its own."""
    opened: list[socket.socket] = []
    try:
        with ThreadPoolExecutor(_CLIENTS) as clients:
            opened += clients.map(lambda number: _log_on(service.port, _name(number + 1)), range(SESSIONS))
        yield opened
    finally:
        for session in opened:
            session.close()


def _log_on(port: int, name: str) -> socket.socket:
    session = socket.create_connection(("127.0.0.1", port), _WAIT)
    try:
        _take_ok(session)
        for command in (f"USER {name}@{DOMAIN}", f"PASS {_PASSWORD.decode()}"):
            session.sendall(command.encode() + b"\r\n")
            _take_ok(session)
    except BaseException:
        session.close()
        raise
    return session


def _take_ok(session: socket.socket) -> None:
    answer = session.recv(1024)
    if not answer.startswith(b"+OK"):
        raise RuntimeError(f"a session is refused: {answer!r}")


def _sockets(process: int) -> int:
    """Return how many sockets a process has."""
    return sum(str(link.readlink()).startswith("socket:") for link in Path(f"/proc/{process}/fd").iterdir())


def _all_ended(sessions: Sequence[socket.socket]) -> float:
    """Return the seconds from now on until the server has ended the last of these sessions."""
    began = time.perf_counter()
    open_still = set(sessions)
    with selectors.DefaultSelector() as selector:
        for each in sessions:
            selector.register(each, selectors.EVENT_READ)
        while open_still:
            if time.perf_counter() - began > _WAIT:
                raise RuntimeError(f"{len(open_still)} sessions do not end")
            for key, _ in selector.select(1.0):
                session = key.fileobj
                assert isinstance(session, socket.socket)
                if not _says_more(session):
                    selector.unregister(session)
                    open_still.discard(session)
    return time.perf_counter() - began


def _says_more(session: socket.socket) -> bool:
    try:
        return session.recv(1024) != b""
    except ConnectionResetError:
        return False


def main() -> int:
    """Measure and show the table."""
    for row in measure("--quick" in sys.argv[1:]):
        least, most = row["spread"]
        goal = "" if row["goal"] is None else f"(goal {row['goal']:g})"
        print(f"{row['figure']:>9} {row['unit']:<3}  {least} to {most}  {row['what']} {goal}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
