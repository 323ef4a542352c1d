"""The benchmark: its generator tells right answers from wrong ones, its table is the one that was asked for, and its
page says what was measured."""

import copy
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark import figures, generator, machine, opponents, page, run, scenarios
from benchmark.bench import Bench, Extent
from benchmark.generator import Answer, RunError, Traffic
from benchmark.population import write_users
from running import Service, done, messages

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = [f"user{number}@example.com" for number in range(6)]

# What was asked for: times less processor, times the rate, times the p99; of memory, times less.
ASKED: dict[str, tuple[float, float]] = {
    "poll-1": (6, 3),
    "poll-32": (10, 5),
    "poll-500": (14, 6),
    "list-100": (12, 5),
    "list-10000": (80, 40),
    "retr-2k": (5, 3),
    "retr-2k-pipelined": (8, 4),
    "retr-20k": (5, 3),
    "retr-1m": (10, 4),
    "retr-20m": (10, 3),
    "dele-20": (6, 4),
    "tls-poll": (3, 1.5),
    "tls-poll-resumed": (3, 1.5),
    "tls-retr-20k": (5, 2.5),
    "tls-retr-1m": (6, 4),
    "lmtp-1": (6, 4),
    "lmtp-16": (10, 6),
    "lmtp-64": (14, 10),
    "smtp-1": (15, 6),
    "smtp-16": (25, 15),
    "smtp-64": (30, 25),
    "logon-sha256-crypt": (20, 10),
    "logon-argon2id": (200, 100),
}
ASKED_MEMORY = {"memory": 200, "memory-tls": 22}


def required() -> None:
    """Skip the test where the generator cannot be made; where all tests have to run, fail."""
    if generator.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(generator.missing())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Return the service with a few mailboxes whose users are in the file `users` beside its home."""
    required()
    home = tmp_path / "home"
    users = write_users(tmp_path / "users", ADDRESSES)
    done(home, "add", "example.com")
    done(home, "add", "--from", str(users))
    with Service(home, "--workers", "0") as running:
        yield running


def driven(service: Service, port: str, script: str, *flags: str, connections: int = 3, sessions: int = 12) -> Answer:
    users = service.home.parent / "users"
    return generator.run(Traffic(service.ports[port], script, connections, users, sessions=sessions, flags=flags), 60)


@contextmanager
def server_that_says(*replies: bytes) -> Iterator[int]:
    """Give the port of a server that says the first reply by itself, then one for each line, and closes at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as lines:
                    for number, reply in enumerate(replies):
                        if number and not lines.readline():
                            break
                        connection.sendall(reply)
                    connection.shutdown(socket.SHUT_WR)
                    lines.read()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def errors_of(port: int, script: str, tmp_path: Path) -> Answer:
    users = write_users(tmp_path / "users", ADDRESSES)
    flags = ("--timeout", "2")
    return generator.finish_with_errors(generator.begin(Traffic(port, script, 1, users, sessions=2, flags=flags)), 60)


def test_polls_are_driven_and_counted(service: Service) -> None:
    for port, flags in (("pop3", ()), ("pop3", ("--starttls-pop3",)), ("pop3s", ("--tls",))):
        answer = driven(service, port, scenarios.POLL, *flags)
        assert (answer.sessions, answer.session.count, answer.errors) == (12, 12, 0)
        assert 0 < answer.session.p50 <= answer.session.p95 <= answer.session.p99 <= answer.session.max


def test_tls_sessions_are_resumed_where_that_is_asked_for(service: Service) -> None:
    assert driven(service, "pop3s", scenarios.POLL, "--tls").resumed == 0
    assert driven(service, "pop3s", scenarios.POLL, "--tls", "--resume").resumed == 9


def test_what_is_delivered_is_what_is_fetched(service: Service) -> None:
    lmtp, smtp = (scenarios.delivering(hello, 4, "3000", to_each=False) for hello in ("LHLO", "EHLO"))
    answer = driven(service, "lmtp", lmtp, connections=2, sessions=6)
    assert (answer.messages, answer.message.count) == (24, 24)
    assert driven(service, "smtp", smtp, sessions=3).messages == 12
    assert driven(service, "lmtp", scenarios.delivering("LHLO", 6, "3000"), "--share", sessions=1).messages == 6

    fetch = "send STAT\ncount\nrepeat 1 count\nsend RETR %n\nend\nrepeat 1 count\nmessage 3000 4000\nend\n"
    fetched = driven(service, "pop3", scenarios.LOG_ON + fetch + scenarios.QUIT, sessions=6)
    assert fetched.messages == 42
    stored = messages(service.log_on(ADDRESSES[0], "correct horse"))
    assert len(stored) == 4 + 4 + 1
    assert {len(body[body.index(b"From: load@example.net") :]) + len(b"\r\n") for body in stored} == {3000}


def test_sessions_are_held_open_until_told_otherwise(service: Service) -> None:
    users = service.home.parent / "users"
    traffic = Traffic(service.ports["pop3"], scenarios.HOLD, 5, users, flags=("--hold", "60"))
    process = generator.begin(traffic)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.terminate()
    assert generator.finish(process, 30).sessions == 5


def test_arrivals_keep_to_their_rate(service: Service) -> None:
    users = service.home.parent / "users"
    flags = ("--rate", "100", "--random")
    answer = generator.run(Traffic(service.ports["pop3"], scenarios.POLL, 5, users, seconds=1, flags=flags), 60)
    assert 50 <= answer.sessions <= 160


@pytest.mark.parametrize(
    ("replies", "script", "said"),
    [
        ((b"-ERR not today\r\n",), "reply\n", "line 1 of the script: the reply is '-ERR not today'"),
        ((b"+OK\r\n", b"-ERR [IN-USE]\r\n"), scenarios.LOG_ON, "line 3 of the script: the reply is '-ERR [IN-USE]'"),
        ((b"220 x\r\n", b"250-a\r\n451 later\r\n"), "reply\nsend EHLO x\nreply\n", "the reply is '451 later'"),
        ((b"+OK\r\n",), "reply\nsend STAT\nreply\n", "the connection was closed"),
        ((b"+OK\r\n", b"+OK\r\n1 200\r\n"), "reply\nsend LIST\nmulti\n", "the connection was closed"),
        ((b"+OK\r\n", b"+OK\r\n1 200\r\n.\r\n"), "reply\nsend LIST\nmulti 100\n", "the reply has 10 octets"),
        ((b"+OK\r\n+OK\r\n",), "reply\nhold\nreply\nreply\n", "the connection was closed"),
        ((b"+OK\r\n", b"+OK no number\r\n"), "reply\nsend STAT\ncount\n", "there is no number in '+OK no number'"),
        ((b"+OK\r\n",), "reply\ntls\nreply\n", "the TLS handshake failed"),
    ],
)
def test_a_wrong_answer_is_an_error(replies: tuple[bytes, ...], script: str, said: str, tmp_path: Path) -> None:
    required()
    with server_that_says(*replies) as port:
        answer = errors_of(port, script, tmp_path)
        assert (answer.sessions, answer.errors) == (0, 2)
        assert said in (answer.first_error or "")
        with pytest.raises(RunError, match="2 errors"):
            generator.run(Traffic(port, script, 1, tmp_path / "users", sessions=2), 60)


def test_an_answer_that_nobody_asked_for_is_an_error(tmp_path: Path) -> None:
    required()
    with server_that_says(b"+OK\r\n+OK and more\r\n") as port:
        answer = errors_of(port, "reply\n", tmp_path)
    assert answer.errors == 2
    assert "after the script: the server sent '+OK and more" in (answer.first_error or "")


def test_no_answer_is_an_error(tmp_path: Path) -> None:
    required()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = errors_of(silent.getsockname()[1], "reply\n", tmp_path)
    assert (answer.sessions, answer.errors) == (0, 2)
    assert "no answer within the time" in (answer.first_error or "")


def test_a_dot_within_a_message_does_not_end_it(tmp_path: Path) -> None:
    required()
    message = b"+OK\r\n..\r\n.x\r\na.\r\n" + b"y" * 300_000 + b"\r\n.\r\n"
    script = "reply\nsend RETR 1\nmessage\nsend QUIT\nreply\n"
    with server_that_says(b"+OK\r\n", message, b"+OK\r\n") as port:
        answer = errors_of(port, script, tmp_path)
    assert (answer.errors, answer.sessions, answer.messages) == (0, 2, 2)
    assert answer.octets == 2 * (len(message) + 10)


def test_the_table_has_the_rows_and_goals_that_were_asked_for() -> None:
    rows = {scenario.name: scenario for scenario in scenarios.SCENARIOS}
    assert set(rows) == {*ASKED, *ASKED_MEMORY}
    for name, goals in ASKED.items():
        assert (rows[name].goal_cpu, rows[name].goal_rate, rows[name].goal_p99) == (*goals, 3), name
    assert {name: rows[name].goal_memory for name in ASKED_MEMORY} == ASKED_MEMORY
    assert [int(name.partition("-")[2]) for name in rows if name.startswith(("poll-", "lmtp-", "smtp-"))] == [
        scenario.connections for name, scenario in rows.items() if name.startswith(("poll-", "lmtp-", "smtp-"))
    ]


def test_a_box_measures_and_ends_what_runs_in_it() -> None:
    endless = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000 & sleep 1000"
    for meter in (None, machine.Tree()):
        box = machine.Box("test", meter)
        box.start(["/bin/sh", "-c", endless])
        until_asleep(box)
        assert 0.02 < box.cpu() < 30
        assert box.memory() > 10_000
        running = box.meter.processes()
        assert len(running) == 3
        box.close()
        assert not [number for number in running if is_running(number)]


def is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def until_asleep(box: machine.Box) -> None:
    for _ in range(600):
        if len(box.meter.processes()) == 3:
            return
        threading.Event().wait(0.05)
    raise AssertionError("it does not come to its sleep")


def test_ratios_exponents_and_figures() -> None:
    row = {"failed": None, "goals": {"cpu": 5, "rate": 3, "p99": 3},
           "winpop": {"cpu": [1.0, 2.0, 1.5], "rate": [40.0, 30.0, 20.0], "p99": [1.0, 1.0, 1.0]},
           "other": {"cpu": [9.0, 10.0, 9.0], "rate": [10.0, 10.0, 10.0], "p99": [2.0, 3.0, 2.0]}}  # fmt: skip
    cpu, rate, p99 = figures.ratios(row)
    assert (cpu.times, cpu.least, cpu.greatest, cpu.met) == (6, 5, 9, True)
    assert (rate.times, rate.least, rate.greatest, rate.met) == (3, 2, 4, True)
    assert (p99.times, p99.met) == (2, False)
    assert figures.slope([(1, 3), (10, 30), (100, 300)]) == pytest.approx(1)
    assert figures.slope([(1, 3), (10, 3)]) == pytest.approx(0)
    shown = [figures.number(value) for value in (0, 0.01234, 1.5, 12.34, 1234.5, 999.9)]
    assert shown == ["0", "0.0123", "1.50", "12.3", "1,234", "1,000"]


DOCUMENT: dict[str, Any] = {
    "taken": "2026-01-02",
    "command": "make benchmark",
    "quick": False,
    "pairs": 2,
    "seconds": 1,
    "minutes": 3,
    "meter": "a scale",
    "machine": {"processor": "P", "cores": 2, "memory_gib": 4, "system": "S", "kernel": "6", "python": "Y",
                "filesystem": "ext4", "fsyncs_per_second": 5000},
    "configurations": {"Dovecot": "protocols = pop3"},
    "rows": [
        {"name": "poll-32", "work": "poll", "per": "1,000 sessions", "connections": 32, "failed": None,
         "goals": {"cpu": 10, "rate": 5}, "opponent": "Dovecot 9",
         "winpop": {"cpu": [0.1, 0.2], "rate": [50.0, 60.0], "p99": [1.0, 1.0], "generator": [0.1, 0.2]},
         "other": {"cpu": [2.0, 2.1], "rate": [20.0, 20.0], "p99": [9.0, 9.0], "generator": [0.1, 0.1]}},
        {"name": "memory", "work": "memory of a session", "per": "1,000 sessions", "connections": 0, "failed": None,
         "goals": {"memory": 200}, "opponent": "Dovecot 9", "winpop": {"memory": [2.0]}, "other": {"memory": [500.0]}},
        {"name": "retr-1m", "work": "RETR of 1 MiB", "per": "GB", "connections": 4, "goals": {"cpu": 10},
         "failed": "the server fell asleep"},
    ],
    "provider": {"failed": None, "servers": [{"name": "winpop", "steps": [
        {"users": 100_000, "kept": True, "why": "", "p95": {"logon": 3.0}, "cores": 0.2},
        {"users": 200_000, "kept": False, "why": "logon 300 ms", "p95": {"logon": 300.0}, "cores": 0.9}]}]},
    "growth": [{"row": "poll-32", "mailboxes": mailboxes, "workers": 2, "failed": None,
                "cpu": [0.1 * mailboxes], "rate": [50.0], "p99": [1.0]} for mailboxes in (1000, 10_000)],
    "administration": [{"what": "unlock", "figure": 20, "unit": "ms", "goal": 50, "spread": [10, 30], "command": "c"}],
    "crowd": "OSError: no crowd",
}  # fmt: skip


def test_the_page_says_what_was_measured_and_what_was_not_met() -> None:
    files = page.render(copy.deepcopy(DOCUMENT))
    text = files["performance.md"]
    assert (
        "| poll | 0.150 (0.100 to 0.200) | 2.05 (2.00 to 2.10) | s for 1,000 sessions | 13.7 (10.5 to 20.0) | 10 met |"
        in text
    )
    assert (
        "| poll | 55.0 (50.0 to 60.0) | 20.0 (20.0 to 20.0) | sessions/s | 2.75 (2.50 to 3.00) | 5 **not met** |"
        in text
    )
    assert "| memory of a session | 2.00 (2.00 to 2.00) | 500 (500 to 500) | 250 (250 to 250) | 200 met |" in text
    assert "- RETR of 1 MiB: the server fell asleep" in text
    assert "Of 3 goals 2 are met and 1 are not; 1 rows failed" in text
    assert "| winpop | 100,000 | 0.200 | 0.200 | at 200,000: logon 300 ms |" in text
    assert "| 32 clients | 1.00 |" in text.replace("poll a mailbox of 10 messages, ", "")
    assert "| unlock | 20.0 ms | 10.0 to 30.0 | 50 ms, met |" in text
    assert "Failed: OSError: no crowd" in text
    assert "protocols = pop3" in text
    assert set(files) == {
        "performance.md",
        *(f"performance/{name}.svg" for name in ("cpu", "rate", "growth", "provider")),
    }
    assert all(text.startswith("<svg") for name, text in files.items() if name.endswith(".svg"))


def test_a_document_without_the_parts_that_were_left_out_makes_a_page_too() -> None:
    document = {key: value for key, value in DOCUMENT.items() if key not in run.PARTS} | {"rows": []}
    assert set(page.render(document)) == {"performance.md"}


def test_the_page_is_current() -> None:
    document = json.loads((ROOT / "docs/performance.json").read_text("utf-8"))
    for name, text in page.render(document).items():
        assert (ROOT / "docs" / name).read_text("utf-8") == text, f"docs/{name}: run python -m benchmark.page"
    assert {row["name"] for row in document["rows"]} == set(run.ROWS)
    assert set(run.PARTS) <= set(document)
    assert not document["quick"]


def test_what_no_opponent_offers_is_within_its_goals_by_the_figures_of_the_page() -> None:
    document = json.loads((ROOT / "docs/performance.json").read_text("utf-8"))
    rows = [row for part in ("administration", "crowd") for row in document[part] if row.get("goal") is not None]
    assert {row["unit"] for row in rows} >= {"ms", "s", "sessions", "KiB"}
    for row in rows:
        least = row["unit"] == "sessions"
        assert row["figure"] >= row["goal"] if least else row["figure"] <= row["goal"], row["what"]


def test_a_row_is_measured_beside_the_opponent_and_nothing_is_left() -> None:
    required()
    if not opponents.find("dovecot") or os.geteuid() != 0:
        sentence = "it needs root, and Dovecot (packages dovecot-core, dovecot-pop3d, dovecot-lmtpd)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    with Bench(1) as bench:
        root = bench.root
        row = bench.measure(scenarios.find("retr-2k"), Extent(1, 0.3, quick=True))
        servers = [process for process in processes() if str(root) in process]
    assert row["failed"] is None
    assert row["winpop"]["cpu"][0] > 0
    assert row["other"]["cpu"][0] > 0
    assert len(servers) >= 3
    assert not [process for process in processes() if str(root) in process]
    assert not root.exists()


def processes() -> list[str]:
    return subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
