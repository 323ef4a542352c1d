"""What a client has time for: a logon, silence, a message, taking what it asked for."""

import select
import time
from collections.abc import Iterator

import pytest

from running import Service
from services.wire import (
    ALICE,
    BOB,
    HEADER,
    Wire,
    begin_message,
    count,
    eventually,
    holder_of,
    logs_on,
    no_defect,
    pop3,
    settle,
    smtp,
)
from winpop.db.home import Home

LARGE = HEADER + (b"x" * 1022 + b"\r\n") * 10 * 1024


@pytest.fixture
def service(home: Home) -> Iterator[Service]:
    settle(home, logontime="1", autologout="2", stalltime="1", smtptimeout="2", datatime="3")
    with Service(home.path) as running, no_defect(running):
        yield running


def dripped(wire: Wire, octet: bytes, within: float) -> float:
    """Send an octet ten times a second until the server closes; return how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        if select.select([wire.socket], [], [], 0.1)[0]:
            return time.monotonic() - began
        wire.send(octet)
    raise AssertionError("the server did not close")


def test_a_logon_that_drips_in_is_cut_at_logontime(service: Service) -> None:
    with pop3(service) as wire:
        assert 0.8 < dripped(wire, b"U", within=3) < 1.5
        assert wire.rest() == b"-ERR The logon took too long\r\n"


def test_commands_before_the_logon_do_not_prolong_logontime(service: Service) -> None:
    began = time.monotonic()
    with pop3(service) as wire:
        while wire.ask(b"CAPA").startswith(b"+OK"):
            wire.multiline()
            assert time.monotonic() - began < 3
            time.sleep(0.05)
    assert time.monotonic() - began > 0.8


def test_a_silent_session_ends_without_a_word_and_deletes_nothing(service: Service) -> None:
    service.send(ALICE, HEADER)
    with pop3(service, ALICE) as wire:
        assert wire.ask(b"DELE 1").startswith(b"+OK")
        began = time.monotonic()
        assert wire.rest() == b""
        assert 1.8 < time.monotonic() - began < 3
    with pop3(service, ALICE) as wire:
        assert wire.ask(b"STAT").startswith(b"+OK 1 ")


def test_a_session_lives_by_commands_and_not_by_octets(service: Service) -> None:
    with pop3(service, ALICE) as alive, pop3(service, BOB) as dripping:
        began = time.monotonic()
        cut = 0.0
        while time.monotonic() - began < 4:
            assert alive.ask(b"NOOP") == b"+OK"
            if not cut:
                dripping.send(b"N")
                cut = time.monotonic() - began if select.select([dripping.socket], [], [], 0)[0] else 0
            time.sleep(0.1)
        assert 1.8 < cut < 3
        assert dripping.rest() == b""


def test_who_takes_nothing_of_what_was_asked_for_is_cut(service: Service) -> None:
    service.send(ALICE, LARGE)
    with pop3(service, ALICE, buffer=4096) as wire:
        assert wire.ask(b"RETR 1").startswith(b"+OK")
        eventually(lambda: holder_of(service, wire) is None, within=8)  # clocks are looked at each five seconds
        assert logs_on(service, ALICE)
        assert not wire.rest().endswith(b"\r\n.\r\n")


def test_who_takes_it_slowly_gets_all_of_it(service: Service) -> None:
    service.send(ALICE, LARGE)
    with pop3(service, ALICE, buffer=128 * 1024) as wire:
        assert wire.ask(b"RETR 1").startswith(b"+OK")
        for _ in range(15):
            assert len(wire.octets(100_000)) == 100_000
            time.sleep(0.2)
        assert wire.multiline().endswith(b"x\r\n")
        assert wire.ask(b"QUIT") == b"+OK Bye"


def test_a_silent_smtp_client_is_told_and_cut(service: Service) -> None:
    began = time.monotonic()
    with smtp(service) as wire:
        assert wire.line().startswith(b"421 ")
        assert wire.line() == b""
    assert 1.8 < time.monotonic() - began < 3


def test_a_message_that_drips_in_is_cut_at_datatime(service: Service) -> None:
    with smtp(service) as wire:
        begin_message(wire)
        assert 2.8 < dripped(wire, b"x", within=5) < 4
        assert wire.rest().startswith(b"421 ")
    assert count(service) == 0


def test_each_message_of_a_connection_has_a_datatime_of_its_own(service: Service) -> None:
    with smtp(service) as wire:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            begin_message(wire)
            wire.send(b"Subject: x\r\n\r\nx\r\n")
            assert wire.ask(b".").startswith(b"250 ")
            time.sleep(0.5)
