"""Clients that send too much, too little, nonsense, or never read: a reply or a closed connection, and nothing else."""

import contextlib
import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from running import Service, done
from services.wire import (
    ALICE,
    BOB,
    HEADER,
    Wire,
    begin_message,
    count,
    descriptors,
    eventually,
    logs_on,
    memory,
    no_defect,
    place,
    pop3,
    smtp,
    unfinished,
)
from winpop.db.home import Home

MB = 1024 * 1024
TWENTY_MB = HEADER + (b"x" * 1022 + b"\r\n") * 20 * 1024


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service that has to bear all of this, without a defect."""
    from conftest import fill  # the fixture `home` there is each test's own

    home = Home(tmp_path_factory.mktemp("unfriendly") / "home")
    fill(home, dict.fromkeys([ALICE, BOB], b"secret"))
    with Service(home.path) as running, no_defect(running):
        yield running


@pytest.fixture
def emptied(service: Service) -> Service:
    """The same service with nothing in alice's mailbox."""
    with pop3(service, ALICE) as wire:
        for number in range(int(wire.ask(b"STAT").split()[1])):
            wire.ask(b"DELE %d" % (number + 1))
        assert wire.ask(b"QUIT") == b"+OK Bye"
    return service


def lives(service: Service) -> bool:
    with smtp(service) as wire:
        assert wire.ask(b"QUIT").startswith(b"221 ")
    return logs_on(service, BOB)


def sent_by_another(wire: Wire, data: bytes) -> threading.Thread:
    """Send while the caller reads, as a server that waits for its reader needs it."""

    def send() -> None:
        with contextlib.suppress(OSError):  # it is not wanted any more
            wire.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


# --- much ---


def test_ten_thousand_pipelined_pop3_commands_are_answered_in_order(emptied: Service) -> None:
    place(Home(emptied.home), ALICE, HEADER)
    commands = [(b"NOOP", b"+OK"), (b"LIST 2", b"-ERR No such message"), (b"STAT", b"+OK 1 %d" % len(HEADER))]
    with pop3(emptied, ALICE) as wire:
        sending = sent_by_another(wire, b"".join(command + b"\r\n" for command, _ in commands * 3334))
        assert wire.lines(3 * 3334) == [reply for _, reply in commands * 3334]
        sending.join()
        assert wire.ask(b"QUIT") == b"+OK Bye"


def test_ten_thousand_pipelined_smtp_commands_are_answered_in_order(emptied: Service) -> None:
    message = b"MAIL FROM:<>\r\n" + b"RCPT TO:<alice@example.com>\r\n" * 997 + b"DATA\r\n" + HEADER + b".\r\n"
    with smtp(emptied) as wire:
        sending = sent_by_another(wire, message * 10 + b"QUIT\r\n")
        codes = [line[:3] for line in wire.lines(1000 * 10 + 1)]
        sending.join()
    assert codes == [*([b"250"] * 998 + [b"354", b"250"]) * 10, b"221"]
    assert count(emptied) == 10


def test_a_client_that_asks_for_hundreds_of_megabytes_and_never_reads_costs_little(emptied: Service) -> None:
    emptied.send(ALICE, TWENTY_MB)
    eventually(lambda: logs_on(emptied))
    before = {worker: memory(worker) for worker in emptied.workers()}
    with pop3(emptied, ALICE, buffer=4096) as greedy:
        greedy.send(b"RETR 1\r\n" * 1000)
        for _ in range(20):
            assert lives(emptied)
            # A worker keeps what it needed to check passwords; what was asked for are 20 GB.
            assert all(memory(worker) - before[worker] < 64 * MB for worker in before)
        greedy.vanish()
    assert eventually(lambda: logs_on(emptied), within=1)


def test_a_hundred_clients_that_never_read_cost_little_each(service: Service) -> None:
    before = {worker: memory(worker) for worker in service.workers()}
    wires = [Wire(service.ports["pop3"], buffer=4096) for _ in range(100)]
    for wire in wires:
        flood = b"CAPA\r\n" * 100_000
        wire.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while flood:
                flood = flood[wire.socket.send(flood) :]
    grown = sum(memory(worker) - before[worker] for worker in before)
    assert grown < 100 * 400 * 1024
    assert lives(service)
    for wire in wires:
        wire.vanish()


def test_idle_connections_cost_little_each(service: Service) -> None:
    before = {worker: memory(worker) for worker in service.workers()}
    wires = [pop3(service) for _ in range(200)]
    assert sum(memory(worker) - before[worker] for worker in before) < 200 * 25 * 1024
    for wire in wires:
        wire.close()


def test_a_line_of_a_megabyte_is_refused_and_the_client_let_go(service: Service) -> None:
    # RFC 1122 §4.2.2.13: what it still sends is read, or it would lose the reply
    for port, reply in (("pop3", b"-ERR The line is too long"), ("smtp", b"500 ")):
        with Wire(service.ports[port]) as wire:
            wire.line()
            sending = sent_by_another(wire, b"N" * MB)
            assert wire.line().startswith(reply)
            assert wire.rest() == b""
            sending.join()


def test_a_body_line_of_a_megabyte_is_delivered(emptied: Service) -> None:
    line = b"x" * MB
    with smtp(emptied) as wire:
        begin_message(wire)
        assert wire.ask(line + b"\r\n.").startswith(b"250 ")
    with pop3(emptied, ALICE) as wire:
        wire.ask(b"RETR 1")
        assert wire.multiline().endswith(b"\r\n" + line + b"\r\n")


# --- nonsense ---


@pytest.mark.parametrize(
    "octets",
    [b"NO\nOP\r\n", b"NO\rOP\r\n", b"NOOP\r\r\n", b"NOOP\n", b"\n", b"\r\n\n"],
)
@pytest.mark.parametrize("port", ["pop3", "smtp"])
def test_a_bare_cr_or_lf_ends_the_connection(port: str, octets: bytes, service: Service) -> None:
    with Wire(service.ports[port]) as wire:
        wire.line()
        wire.send(octets)
        said = wire.rest().splitlines()
    assert said[-1].startswith((b"-ERR Lines end with CR LF", b"500 ", b"550 "))


def test_nul_octets_are_no_part_of_a_name_a_password_or_a_message(emptied: Service) -> None:
    with pop3(emptied) as wire:
        assert wire.ask(b"USER alice\0@example.com").startswith(b"-ERR ")
        wire.ask(b"USER alice@example.com")
        assert wire.ask(b"PASS secret\0").startswith(b"-ERR ")
    with smtp(emptied) as client:
        assert client.ask(b"MAIL FROM:<a\0@example.com>").startswith(b"501 ")
        begin_message(client)
        assert client.ask(b"Subject: \0\r\n\r\n.").startswith(b"550 ")
    assert count(emptied) == 0


@pytest.mark.parametrize("port", ["pop3", "smtp", "lmtp"])
def test_a_browser_is_let_go_before_what_it_posts_is_read(port: str, emptied: Service) -> None:
    body = b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n\r\n.\r\n"
    with Wire(emptied.ports[port]) as wire:
        wire.line()
        wire.send(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + body)
        assert len(wire.rest().splitlines()) == 1
    assert count(emptied) == 0


@pytest.mark.parametrize("port", ["pop3", "smtp", "lmtp"])
@pytest.mark.parametrize("seed", range(4))
def test_a_megabyte_of_noise_ends_that_connection_and_no_other(port: str, seed: int, service: Service) -> None:
    noise = random.Random(seed)
    data = noise.randbytes(MB)
    if seed % 2:  # lines, so that it is not over with the first bare LF
        data = b"\r\n".join(line[:200].replace(b"\r", b"").replace(b"\n", b"") for line in data.split(b"\xff"))
    with Wire(service.ports[port]) as wire:
        sending = sent_by_another(wire, data)
        wire.rest()
        sending.join()
    assert lives(service)


# --- gone ---


def test_a_client_that_vanishes_within_a_message_it_fetches_leaves_nothing_open(emptied: Service) -> None:
    emptied.send(ALICE, TWENTY_MB)
    before = sum(descriptors(worker) for worker in emptied.workers())
    for _ in range(5):
        wire = pop3(emptied, ALICE, buffer=4096)
        wire.send(b"DELE 1\r\nRSET\r\nRETR 1\r\n")
        wire.lines(3)
        wire.vanish()
        eventually(lambda: logs_on(emptied), within=1)
    eventually(lambda: sum(descriptors(worker) for worker in emptied.workers()) <= before)
    assert count(emptied) == 1


@pytest.mark.parametrize("size", [0, 1000, 3 * MB])
@pytest.mark.parametrize("leave", [Wire.vanish, Wire.close])
def test_a_client_that_vanishes_before_the_final_dot_delivers_nothing(
    size: int, leave: object, emptied: Service
) -> None:
    with smtp(emptied) as wire:
        begin_message(wire)
        wire.send(HEADER + b"x" * size + b"\r\n")
        if size > MB:
            eventually(lambda: unfinished(emptied.home))
        assert callable(leave)
        leave(wire)
    eventually(lambda: not unfinished(emptied.home))
    assert count(emptied) == 0


def test_a_client_that_vanishes_after_the_final_dot_may_find_its_message_delivered_once(emptied: Service) -> None:
    for size in (10, 200_000):
        with smtp(emptied) as wire:
            begin_message(wire)
            wire.send(HEADER + b"x" * size + b"\r\n.\r\n")
            wire.vanish()
    eventually(lambda: not unfinished(emptied.home))
    assert count(emptied) <= 2


def test_a_client_that_half_closes_gets_every_reply(emptied: Service) -> None:
    emptied.send(ALICE, HEADER + b"." * 300_000)
    with pop3(emptied) as wire:
        wire.send(b"USER alice@example.com\r\nPASS secret\r\nRETR 1\r\nSTAT\r\n")
        wire.no_more()
        said = wire.rest()
    assert said.count(b"\r\n.\r\n") == 1
    assert said.endswith(said.rpartition(b"\r\n.\r\n")[2])
    assert said.rpartition(b"\r\n.\r\n")[2].startswith(b"+OK 1 300")
    with smtp(emptied) as client:
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n" + HEADER + b".\r\n")
        client.no_more()
        assert [line[:3] for line in client.rest().splitlines()] == [b"250", b"250", b"354", b"250"]
    assert count(emptied) == 2


def test_quit_after_a_half_close_deletes_what_was_marked(emptied: Service) -> None:
    place(Home(emptied.home), ALICE, HEADER, 2)
    with pop3(emptied, ALICE) as wire:
        wire.send(b"DELE 1\r\nQUIT\r\n")
        wire.no_more()
        assert wire.rest().endswith(b"+OK Bye\r\n")
    assert count(emptied) == 1


def test_connections_that_come_and_go_leave_nothing_behind(service: Service) -> None:
    assert lives(service)
    before = sum(descriptors(worker) for worker in service.workers())

    def come_and_go(number: int) -> None:
        wire = Wire(service.ports[("pop3", "smtp", "lmtp")[number % 3]])
        (wire.vanish if number % 2 else wire.close)()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(600)))
    eventually(lambda: sum(descriptors(worker) for worker in service.workers()) <= before)
    assert lives(service)


@pytest.mark.parametrize(("sessions", "has"), [(500, 1700), (5000, 4000)])
def test_a_service_has_the_descriptors_that_its_sessions_need(home: Home, sessions: int, has: int) -> None:
    done(home.path, "set", "socketthreshold", "1")
    done(home.path, "set", "socketmax", str(sessions))
    with Service(home.path, "--workers", "1", prefix=("prlimit", "--nofile=1024:4000")) as running:
        for process in (running.process.pid, *running.workers()):
            limits = Path(f"/proc/{process}/limits").read_text()
            assert re.search(rf"^Max open files +{has} +4000 ", limits, re.MULTILINE), limits
        assert ("descriptors" in running.log.read_text()) is (has < sessions)


def test_a_service_without_descriptors_recovers_by_itself(home: Home) -> None:
    with Service(home.path, "--workers", "1", prefix=("prlimit", "--nofile=60")) as running, no_defect(running):
        wires = []
        for _ in range(80):
            with contextlib.suppress(OSError):
                wires.append(Wire(running.ports["smtp"], within=0.5))
        with contextlib.suppress(OSError):  # closed or kept waiting, as the event loop has it
            assert wires[-1].line() == b""
        for wire in wires:
            wire.vanish()
        eventually(lambda: logs_on(running))
        assert running.log.read_text().count("\n") < 300
