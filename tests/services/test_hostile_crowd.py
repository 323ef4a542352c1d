"""A hostile crowd: honest clients are served beside it, and each of its connections costs little (docs/performance.md).

It is `benchmark/crowd.py` in small, with its clients. How long something takes is judged by how busy the machine is;
memory is not.
"""

import contextlib
import smtplib
import time
from collections.abc import Iterator
from unittest import mock

import argon2
import pytest

import conftest
from benchmark.hostile import PASSWORD, Crowd
from conftest import fill
from durability.service import patience
from running import Service
from services.wire import ALICE, BOB, HEADER, Wire, memory, no_defect, place, settle
from winpop.db.home import Home
from winpop.directory.mailboxes import Kept

KIB, MIB = 1024, 1024 * 1024
GUESTS = [f"guest{number}@example.com" for number in range(40)]
CROWD = {
    "silent": 20,
    "dripping": 20,
    "pipelining on": 10,
    "half a hello": 10,
    "hello alone": 10,
    "long hello": 10,
    "garbage": 10,
    "overlong": 10,
    "asking on": 2,
    "coming and going": 4,
    "guessing": 40,
}
HONEST = "127.200.0.2"
"""Where nobody guesses from, and nobody is trusted."""


def make_guests(home: Home) -> None:
    """Make the mailboxes of the crowd; their password is checked quickly."""
    quick = Kept(argon2.PasswordHasher(1, 8, 1).hash(PASSWORD))
    with mock.patch.dict(conftest.KEPT, {PASSWORD.encode(): quick}):
        fill(home, dict.fromkeys(GUESTS, PASSWORD.encode()))


@pytest.fixture
def service(home: Home) -> Iterator[Service]:
    make_guests(home)
    settle(home, logoncache="0", draintime="1")  # each logon is a first one
    place(home, ALICE, HEADER + b"How are you?\r\n")
    with Service(home.path) as running, no_defect(running):
        yield running


def poll(service: Service, source: str, *, tls: bool) -> None:
    """Connect, log on, STAT, RETR, QUIT."""
    with Wire(service.ports["pop3s" if tls else "pop3"], source) as wire:
        if tls:
            wire.start_tls()
        assert wire.line().startswith(b"+OK")
        for command in (b"USER " + ALICE.encode(), b"PASS secret", b"STAT"):
            assert wire.ask(command).startswith(b"+OK"), command
        assert wire.ask(b"RETR 1").startswith(b"+OK")
        assert b"How are you?" in wire.multiline()
        assert wire.ask(b"QUIT") == b"+OK Bye"


def test_honest_clients_are_served_beside_a_hostile_crowd(service: Service) -> None:
    took: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        took[what] = max(took.get(what, 0.0), time.monotonic() - began)

    with Crowd(service.ports, CROWD, within=patience(30)) as crowd:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            with timed("poll"):
                poll(service, "127.0.0.1", tls=False)
            with timed("poll over TLS, from elsewhere"):
                poll(service, HONEST, tls=True)
            with timed("message"):
                service.send(BOB, HEADER)
            time.sleep(0.1)
        bound = patience(2)
    assert max(took.values()) < bound, took
    # The crowd was what it should be.
    assert crowd.became["silent"].standing == 20
    assert crowd.became["guessing"].there == 40
    assert crowd.became["coming and going"].connections > 50
    assert crowd.became["overlong"].ended > 10


def test_who_guesses_does_not_hold_up_who_does_not(service: Service) -> None:
    with Crowd(service.ports, {"guessing": 100}, within=patience(30)):
        time.sleep(2.5)  # the first of them have failed
        began = time.monotonic()
        poll(service, HONEST, tls=True)
        took, bound = time.monotonic() - began, patience(0.8)
    assert took < bound


# --- memory ---


@pytest.mark.parametrize("kind", ["pipelining on", "pipelining over TLS", "half a hello", "hello alone", "long hello"])
def test_a_connection_before_its_logon_costs_at_most_64_kib(kind: str, home: Home) -> None:
    assert taken_by_each(home, kind, 60) < 64 * KIB


@pytest.mark.parametrize("kind", ["sending", "sending morsels", "never reading over TLS"])
def test_a_connection_that_sends_or_fetches_costs_at_most_256_kib(kind: str, home: Home) -> None:
    make_guests(home)
    assert taken_by_each(home, kind, len(GUESTS)) < 256 * KIB


def taken_by_each(home: Home, kind: str, count: int) -> float:
    """Return the octets that each connection of a kind takes, in a service that has served everything before."""
    with Service(home.path, "--workers", "1") as running, no_defect(running):
        if kind.startswith("never"):
            with smtplib.SMTP("127.0.0.1", running.ports["smtp"], timeout=30) as client:
                client.sendmail("sender@elsewhere.example", GUESTS, HEADER + (b"x" * 76 + b"\r\n") * (5 * MIB // 78))
        warm = "fetching slowly over TLS" if kind.startswith("never") else "silent over TLS"
        with Crowd(running.ports, {warm: 8}, source="127.0.0.1"):
            running.log_on(ALICE).quit()
            running.send(BOB, HEADER)
            running.send(BOB, HEADER + (b"x" * 76 + b"\r\n") * 4000)
        (worker,) = running.workers()
        before = memory(worker)
        with Crowd(running.ports, {kind: count}, source="127.0.0.1", within=patience(30)):
            most = memory(worker)
            if kind.startswith("pipelining"):  # they go on sending
                for _ in range(5):
                    time.sleep(0.2)
                    most = max(most, memory(worker))
            return (most - before) / count
