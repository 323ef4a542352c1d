"""Start, changes while it runs, stop, and every kind of sudden death."""

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import COMMAND, Service, winpop
from services.wire import (
    ALICE,
    BOB,
    HEADER,
    RefusedError,
    Wire,
    begin_message,
    change,
    count,
    eventually,
    holder_of,
    logs_on,
    no_defect,
    place,
    pop3,
    refusal,
    settle,
    smtp,
    sockets,
    unfinished,
)
from winpop.db.home import Home

LARGE = HEADER + (b"x" * 1022 + b"\r\n") * 5 * 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Settled(Service):
    """The service with its listeners as they are stored, so that they can be changed while it runs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._clients = []
        self.log = home.parent / f"{home.name}.log"
        self._log = self.log.open("ab")
        self.process = subprocess.Popen(
            [*COMMAND, "--home", str(home), "--json", "serve"],
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())["ready"]
        self.ports = {name: int(where.rpartition(":")[2]) for name, where in ready.items()}


@pytest.fixture
def settled(home: Home) -> Iterator[Settled]:
    settle(home, pop3=f"127.0.0.1:{free_port()}", smtp=f"127.0.0.1:{free_port()}", draintime="2")
    with Settled(home.path) as running, no_defect(running):
        yield running


# --- start ---


@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_when_it_says_that_it_is_ready_every_listener_answers(home: Home, workers: str) -> None:
    with Service(home.path, "--workers", workers) as running, no_defect(running):
        assert len(running.workers()) == int(workers)
        for name, greeting in (("pop3", b"+OK"), ("smtp", b"220"), ("lmtp", b"220")):
            with Wire(running.ports[name], within=1) as wire:
                assert wire.line().startswith(greeting)
        running.send(ALICE, HEADER)
        assert count(running) == 1
        assert running.stop() == 0


def test_a_second_service_on_the_home_is_refused_on_other_ports_and_on_the_same(settled: Settled) -> None:
    for flags in (["--pop3", "127.0.0.1:0", "--smtp", "off"], []):
        result = winpop(settled.home, "serve", *flags)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith("winpop: A service runs on")
    assert logs_on(settled, ALICE)


def test_a_port_of_another_program_is_named_in_a_sentence(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place_of_it = f"127.0.0.1:{other.getsockname()[1]}"
        result = winpop(home.path, "serve", "--smtp", "off", "--pop3", place_of_it)
    assert result.returncode == 4
    assert f"Another program listens on {place_of_it}" in result.stderr.splitlines()[-1]


# --- stop ---


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_its_processes_lets_what_runs_finish(home: Home, workers: str, number: int) -> None:
    """Systemd signals every process of a unit, and a terminal every process of a job."""
    with Service(home.path, "--workers", workers) as running, no_defect(running):
        running.send(ALICE, LARGE)
        with pop3(running) as idle, pop3(running, ALICE, buffer=4096) as fetching, smtp(running) as sending:
            fetching.send(b"RETR 1\r\n")
            assert fetching.line().startswith(b"+OK")
            begin_message(sending, BOB)
            sending.send(HEADER)
            os.killpg(running.process.pid, number)
            assert idle.rest() == b"-ERR [SYS/TEMP] The service is stopping, try again later\r\n"
            eventually(lambda: not accepts(running.ports["pop3"]), within=1)
            assert fetching.multiline().endswith(LARGE)
            fetching.send(b"DELE 1\r\nQUIT\r\n")
            assert fetching.rest().endswith(b"+OK Bye\r\n")
            assert sending.ask(b".").startswith(b"250 ")
            assert sending.rest().startswith(b"421 ")
        assert running.process.wait(3) == 0
    with Service(home.path) as running:
        assert count(running, ALICE) == 0
        assert count(running, BOB) == 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_after_draintime_who_is_still_there_is_told(home: Home, workers: str) -> None:
    settle(home, draintime="1")
    place(home, ALICE, HEADER)
    with Service(home.path, "--workers", workers) as running, no_defect(running):
        with pop3(running, ALICE) as session, smtp(running) as sending:
            session.ask(b"DELE 1")
            begin_message(sending)
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert session.rest() == b"-ERR [SYS/TEMP] The service is stopping, try again later\r\n"
            assert sending.rest().startswith(b"421 ")
        assert running.process.wait(3) == 0
        assert 0.9 < time.monotonic() - began < 2
    with Service(home.path) as running:
        assert count(running) == 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_second_signal_lets_nothing_finish(home: Home, workers: str) -> None:
    settle(home, draintime="60")
    with Service(home.path, "--workers", workers) as running, pop3(running, ALICE) as session:
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(running.ports["pop3"]))
        assert session.ask(b"NOOP") == b"+OK"
        running.process.send_signal(signal.SIGTERM)
        assert session.rest() == b""
        assert running.process.wait(3) == 0


# --- sudden death ---


class Load(threading.Thread):
    """Hands in messages, one after the other, and remembers which were acknowledged."""

    def __init__(self, service: Service, name: str) -> None:
        super().__init__()
        self.service = service
        self.known_as = name
        self.acknowledged: list[bytes] = []
        self.enough = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.enough.is_set():
            try:
                with smtp(self.service) as wire:
                    while not self.enough.is_set():
                        number += 1
                        mark = f"{self.known_as}-{number}".encode()
                        body = b"" if number % 5 else b"x" * 100_000 + b"\r\n"
                        begin_message(wire)
                        if not wire.ask(b"Subject: " + mark + b"\r\n\r\n" + body + b".").startswith(b"250 "):
                            break
                        self.acknowledged.append(mark)
            except (OSError, AssertionError, RefusedError):
                time.sleep(0.01)


def subjects(service: Service) -> list[bytes]:
    found = []
    with pop3(service, ALICE) as wire:
        for number in range(int(wire.ask(b"STAT").split()[1])):
            wire.ask(b"RETR %d" % (number + 1))
            found += [
                line.removeprefix(b"Subject: ")
                for line in wire.multiline().split(b"\r\n")
                if line.startswith(b"Subject: ")
            ]
    return found


@pytest.fixture
def loads(service: Service) -> Iterator[list[Load]]:
    made = [Load(service, f"load{number}") for number in range(4)]
    for load in made:
        load.start()
    eventually(lambda: all(len(load.acknowledged) >= 10 for load in made))
    yield made
    for load in made:
        load.enough.set()
        load.join()


def test_a_worker_killed_under_load_is_replaced_and_no_acknowledged_message_is_lost(
    service: Service, loads: list[Load]
) -> None:
    for _ in range(2):
        victim = service.workers()[0]
        so_far = {load: len(load.acknowledged) for load in loads}
        os.kill(victim, signal.SIGKILL)
        eventually(lambda victim=victim: len(service.workers()) == 2 and victim not in service.workers())  # type: ignore[misc]
        eventually(lambda so_far=so_far: all(len(load.acknowledged) > so_far[load] + 3 for load in loads))  # type: ignore[misc]
    for load in loads:
        load.enough.set()
        load.join()
    found = subjects(service)
    assert len(found) == len(set(found))
    assert {mark for load in loads for mark in load.acknowledged} <= set(found)


def test_after_all_processes_were_killed_a_restart_serves_all_acknowledged_mail(
    home: Home, service: Service, loads: list[Load]
) -> None:
    service.kill()
    for load in loads:
        load.enough.set()
        load.join()
    with Service(home.path) as again, no_defect(again):
        found = subjects(again)
        assert len(found) == len(set(found))
        assert {mark for load in loads for mark in load.acknowledged} <= set(found)


def test_workers_end_by_themselves_when_their_master_is_killed(service: Service) -> None:
    workers = service.workers()
    with pop3(service) as idle:
        os.kill(service.process.pid, signal.SIGKILL)
        assert idle.rest().startswith(b"-ERR [SYS/TEMP]")
    eventually(lambda: not any(alive(worker) for worker in workers), within=2)


def test_a_worker_that_starts_ends_without_a_word_when_its_master_is_killed(service: Service) -> None:
    first = service.workers()
    os.kill(first[0], signal.SIGKILL)
    eventually(lambda: set(service.workers()) - set(first))
    (new,) = set(service.workers()) - set(first)
    os.kill(new, signal.SIGSTOP)
    service.process.kill()
    service.process.wait(10)
    os.kill(new, signal.SIGCONT)
    eventually(lambda: not alive(new))
    assert "Traceback" not in service.log.read_text()


def test_a_service_starts_beside_the_draining_workers_of_a_master_that_was_killed(home: Home) -> None:
    settle(home, pop3=f"127.0.0.1:{free_port()}", smtp=f"127.0.0.1:{free_port()}", draintime="30")
    place(home, BOB, HEADER)
    with Settled(home.path) as settled, pop3(settled, ALICE) as old:
        workers = settled.workers()
        os.kill(settled.process.pid, signal.SIGKILL)
        eventually(lambda: not accepts(settled.ports["pop3"]))
        with Settled(settled.home) as again, no_defect(again):
            assert again.ports == settled.ports
            assert refusal(again, ALICE).startswith(b"-ERR [IN-USE]")
            assert old.ask(b"QUIT") == b"+OK Bye"
            assert eventually(lambda: logs_on(again, ALICE), within=1)
            assert count(again, BOB) == 1
            eventually(lambda: not any(alive(worker) for worker in workers))


def test_what_a_killed_worker_left_unfinished_is_no_mail(service: Service) -> None:
    with smtp(service) as wire:
        begin_message(wire)
        wire.send(LARGE)
        eventually(lambda: unfinished(service.home))
        victim = holder_of(service, wire)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        assert wire.rest() == b""
    eventually(lambda: len(service.workers()) == 2)
    assert count(service) == 0


def test_workers_that_die_again_and_again_are_replaced_each_in_a_row_of_its_own(home: Home) -> None:
    settle(home, sessionsperaddress="5")
    with Service(home.path, "--workers", "3") as running, no_defect(running):
        for _ in range(2):
            for victim in running.workers():
                os.kill(victim, signal.SIGKILL)
            eventually(lambda: len(running.workers()) == 3 and accepts(running.ports["pop3"]), within=10)
            eventually(lambda: logs_on(running, ALICE))
        eventually(
            lambda: len(running.workers()) == 3, within=10
        )  # who has died is counted until the master has seen it
        time.sleep(0.5)  # were there too many, they would be there by now
        eventually(lambda: len(running.workers()) == 3, within=10)


# --- changes while it runs ---


def test_another_port_takes_the_place_of_the_old_one_and_open_sessions_go_on(settled: Settled) -> None:
    old, new = settled.ports["pop3"], free_port()
    with pop3(settled, ALICE) as session:
        change(settled.home, "set", name="port", values=str(new))
        eventually(lambda: accepts(new))
        eventually(lambda: not accepts(old))
        assert session.ask(b"NOOP") == b"+OK"
        assert accepts(settled.ports["smtp"])
        settled.ports["pop3"] = new
        assert refusal(settled, ALICE).startswith(b"-ERR [IN-USE]")
        assert logs_on(settled, BOB)
        assert session.ask(b"QUIT") == b"+OK Bye"
    assert logs_on(settled, ALICE)


def test_a_listener_is_switched_off_and_on(settled: Settled) -> None:
    port = settled.ports["smtp"]
    change(settled.home, "set", name="smtp", values="off")
    eventually(lambda: not accepts(port))
    assert logs_on(settled, ALICE)
    change(settled.home, "set", name="smtp", values=f"127.0.0.1:{port}")
    eventually(lambda: accepts(port))
    settled.send(ALICE, HEADER)


def test_the_same_port_on_every_address_takes_over_from_one_address(settled: Settled) -> None:
    port = settled.ports["pop3"]
    assert not accepts(port, "127.0.0.5")
    change(settled.home, "set", name="pop3", values=f"*:{port}")
    eventually(lambda: accepts(port, "127.0.0.5"))
    assert eventually(lambda: logs_on(settled, ALICE))


def test_a_port_that_cannot_be_had_leaves_all_as_it_was_until_it_can(settled: Settled) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        change(settled.home, "set", name="port", values=str(taken))
        eventually(lambda: f"127.0.0.1:{taken}" in settled.log.read_text())
        assert logs_on(settled, ALICE)
        settled.send(ALICE, HEADER)
    settled.send(ALICE, HEADER)
    eventually(lambda: accepts(taken))
    settled.ports["pop3"] = taken
    assert count(settled) == 2


def test_another_number_of_workers_is_taken_at_once(settled: Settled) -> None:
    with pop3(settled, ALICE) as session:
        for number in ("3", "1"):
            change(settled.home, "set", name="threadcount", values=number)
            eventually(lambda number=number: len(serving(settled)) == int(number))  # type: ignore[misc]
            assert logs_on(settled, BOB)
        assert session.ask(b"NOOP") == b"+OK"
    eventually(lambda: len(settled.workers()) == 1)


def serving(service: Service) -> list[int]:
    """Return the workers that listen."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].partition(":")[2], 16) == service.ports["pop3"]:
            inodes.add(f"socket:[{fields[9]}]")
    return [worker for worker in service.workers() if inodes & sockets(worker)]


# --- without uvloop ---


@pytest.fixture
def plain(home: Home, tmp_path: Path) -> Iterator[Service]:
    """The service where there is no uvloop, as on Windows."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "uvloop.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")])
    settle(home, sessionsperaddress="5", draintime="1")
    with Service(home.path, PYTHONPATH=path) as running, no_defect(running):
        yield running


def test_the_standard_event_loop_serves_as_well(plain: Service) -> None:
    loaded = Path(f"/proc/{plain.workers()[0]}/maps").read_text()
    assert "uvloop" not in loaded
    plain.send(ALICE, LARGE)
    with pop3(plain, ALICE, buffer=4096) as wire, pop3(plain, BOB) as other:
        wire.send(b"RETR 1\r\n" + b"NOOP\r\n" * 3000 + b"DELE 1\r\nRETR 1\r\n")
        wire.line()
        assert wire.multiline().endswith(LARGE)
        assert wire.lines(3000) == [b"+OK"] * 3000
        change(plain.home, "lock", target="example.com")
        assert other.rest().startswith(b"-ERR [AUTH]")
        assert b"-ERR [AUTH]" in wire.rest()
        change(plain.home, "unlock", target="example.com")
    with pop3(plain) as wire:
        wire.send(b"USER alice@example.com\r\nPASS secret\r\nRETR 1\r\nQUIT\r\n")
        wire.no_more()
        assert wire.rest().endswith(b"\r\n.\r\n+OK Bye\r\n")
    with smtp(plain) as client:
        begin_message(client)
        client.send(LARGE)
        eventually(lambda: unfinished(plain.home))
        client.vanish()
    eventually(lambda: not unfinished(plain.home))
    victim = plain.workers()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(plain.workers()) == 2 and victim not in plain.workers())
    assert eventually(lambda: logs_on(plain, ALICE))
    assert plain.stop() == 0


def test_the_standard_event_loop_cuts_who_never_reads_and_keeps_its_memory(home: Home, plain: Service) -> None:
    place(home, ALICE, HEADER + b"x" * 60_000, 50)
    with pop3(plain, ALICE, buffer=4096) as wire:
        wire.send(b"".join(b"RETR %d\r\n" % (number + 1) for number in range(50)) * 10)
        assert select.select([wire.socket], [], [], 5)[0]
        change(plain.home, "lock", target=ALICE)
        eventually(lambda: holder_of(plain, wire) is None, within=1)
