"""How many sessions there may be, from one address and in all, and what strangers may not do."""

import contextlib
import json
import os
import poplib
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from running import COMMAND, Service, winpop
from services.wire import (
    ALICE,
    STRANGER,
    RefusedError,
    Wire,
    change,
    eventually,
    holder_of,
    no_defect,
    paused,
    pop3,
    settle,
    smtp,
)
from winpop.db.home import Home

TOO_MANY = b"-ERR [SYS/TEMP] Too many connections, try again later"


@pytest.fixture
def service(home: Home) -> Iterator[Service]:
    settle(home, sessionsperaddress="10")
    with Service(home.path) as running, no_defect(running):
        yield running


def opened(service: Service, limit: int = 100) -> list[Wire]:
    """Open sessions as a stranger until one is refused."""
    wires: list[Wire] = []
    while len(wires) < limit:
        try:
            wires.append(pop3(service, source=STRANGER))
        except RefusedError:
            break
    return wires


def test_a_stranger_has_so_many_sessions_in_all_workers_together(service: Service) -> None:
    with ExitStack() as held:
        one, other = service.workers()
        with paused(one):
            wires = [held.enter_context(wire) for wire in opened(service, 6)]
        with paused(other):
            wires += [held.enter_context(wire) for wire in opened(service)]
        assert [holder_of(service, wire) for wire in wires] == [other] * 6 + [one] * 4
        with Wire(service.ports["pop3"], STRANGER) as wire:
            assert wire.line() == TOO_MANY
            assert wire.line() == b""
        with Wire(service.ports["smtp"], STRANGER) as wire:  # they are counted together
            assert wire.line().startswith(b"421 ")
            assert wire.line() == b""
        pop3(service, source="127.0.0.3").close()  # another stranger is not concerned
        for _ in range(20):
            held.enter_context(pop3(service))  # nor is who is trusted


@pytest.mark.parametrize("leave", [Wire.close, Wire.vanish])
def test_places_are_free_again_when_sessions_end(leave: object, service: Service) -> None:
    assert callable(leave)
    for _ in range(3):
        wires = eventually(lambda: all_ten(service))
        for wire in wires:
            leave(wire)
    for wire in eventually(lambda: all_ten(service)):
        wire.close()


def all_ten(service: Service) -> list[Wire]:
    """Take all ten places; none where not all are free."""
    wires = opened(service)
    if len(wires) == 10:
        return wires
    for wire in wires:
        wire.ask(b"QUIT")
        wire.close()
    return []


def test_places_are_free_again_when_their_worker_is_killed(service: Service) -> None:
    with ExitStack() as held:
        victim, other = service.workers()
        with paused(victim):
            wires = [held.enter_context(wire) for wire in opened(service, 6)]
        with paused(other):
            wires += [held.enter_context(wire) for wire in opened(service)]
        os.kill(victim, signal.SIGKILL)
        for wire in wires[6:]:
            assert wire.line() == b""
        eventually(lambda: len(service.workers()) == 2 and victim not in service.workers())
        again = [held.enter_context(wire) for wire in opened(service)]
        assert len(again) == 4


def test_a_changed_limit_holds_for_the_next_session(service: Service) -> None:
    change(service.home, "set", name="sessionsperaddress", values="12")

    def twelve() -> bool:
        wires = opened(service)
        for wire in wires:
            wire.ask(b"QUIT")
            wire.close()
        return len(wires) == 12

    eventually(twelve)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_at_socketmax_further_clients_wait_and_are_served_when_others_have_ended(home: Home, workers: str) -> None:
    settle(home, socketmax="8", socketmin="1", socketthreshold="3")
    with Service(home.path, "--workers", workers) as running, no_defect(running), ExitStack() as held:
        served = [held.enter_context(pop3(running)) for _ in range(8)]
        waiting = [held.enter_context(Wire(running.ports["pop3"], within=0.6)) for _ in range(4)]
        for wire in waiting[:2]:
            with pytest.raises(TimeoutError):
                wire.socket.recv(1)
        for wire in served[:2]:
            assert wire.ask(b"QUIT") == b"+OK Bye"
        with pytest.raises(TimeoutError):
            waiting[0].socket.recv(1)
        assert served[2].ask(b"QUIT") == b"+OK Bye"  # the third of the threshold
        greeted = eventually(lambda: greetings(waiting) if len(greetings(waiting)) == 3 else [])
        assert set(greeted) == {b"+OK POP3 server ready\r\n"}
        for wire in served[3:]:
            assert wire.ask(b"QUIT") == b"+OK Bye"
        eventually(lambda: len(greetings(waiting)) == 4)


def greetings(waiting: list[Wire]) -> list[bytes]:
    """Return what those who wait can read so far, without reading it."""
    said = []
    for wire in waiting:
        wire.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            said.append(wire.socket.recv(100, socket.MSG_PEEK))
    return said


def test_what_a_waiting_client_said_is_answered_when_its_turn_comes(home: Home) -> None:
    settle(home, socketmax="3", socketmin="1", socketthreshold="1")
    with Service(home.path) as running, no_defect(running):
        others = [pop3(running) for _ in range(3)]
        with Wire(running.ports["pop3"]) as wire:
            wire.send(b"USER alice@example.com\r\nPASS secret\r\nQUIT\r\n")
            wire.no_more()
            for other in others:
                other.close()
            assert [line[:3] for line in wire.rest().splitlines()] == [b"+OK"] * 4


def test_a_strangers_password_in_clear_is_not_even_asked_for(service: Service) -> None:
    with pop3(service, source=STRANGER) as wire:
        assert wire.ask(b"CAPA").startswith(b"+OK")
        assert b"USER" not in wire.multiline().split(b"\r\n")
        assert wire.ask(b"USER " + ALICE.encode()).startswith(b"-ERR [AUTH] ")
        assert wire.ask(b"PASS secret").startswith(b"-ERR [AUTH] ")
    with pop3(service) as wire:
        wire.ask(b"CAPA")
        assert b"USER" in wire.multiline().split()


def test_a_stranger_may_bring_mail(service: Service) -> None:
    with smtp(service, source=STRANGER) as wire:
        assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
        assert wire.ask(b"RCPT TO:<alice@example.com>").startswith(b"250 ")
        assert wire.ask(b"RCPT TO:<alice@elsewhere.example>").startswith(b"550 ")


def test_the_loopback_address_of_ipv6_is_trusted_and_others_are_not(home: Home) -> None:
    command = [*COMMAND, "--home", str(home.path), "--json", "serve", "--smtp", "off", "--pop3", "[::1]:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        port = int(json.loads(service.stdout.readline())["ready"]["pop3"].rpartition(":")[2])
        client = poplib.POP3("::1", port, timeout=10)
        client.user(ALICE)
        assert client.pass_("secret").startswith(b"+OK")
        client.quit()
        service.send_signal(signal.SIGTERM)
        assert service.wait(15) == 0


def test_two_listeners_cannot_have_one_place(home: Home) -> None:
    result = winpop(home.path, "--json", "serve", "--pop3", "127.0.0.1:9110", "--smtp", "127.0.0.1:9110")
    assert result.returncode == 1
    assert json.loads(result.stdout)["error"]["code"] == "address-taken-twice"


def test_idle_smtp_commands_have_a_limit_that_is_a_setting(home: Home) -> None:
    settle(home, idlemax="10")
    with Service(home.path) as running, smtp(running) as client:
        replies = [client.ask(b"NOOP")[:3] for _ in range(10)]  # the eleventh command in all, after HELO
        assert replies == [b"250"] * 9 + [b"421"]
