"""RFC 1939's maildrop lock: one session at a time, whatever becomes of it and of the worker that has it."""

import os
import signal
from collections.abc import Iterator

import pytest

from running import Service
from services.wire import ALICE, HEADER, Wire, eventually, holder_of, logs_on, no_defect, paused, place, pop3, refusal
from winpop.db.home import Home

IN_USE = b"-ERR [IN-USE]"


@pytest.fixture(autouse=True)
def _undisturbed(service: Service) -> Iterator[None]:
    with no_defect(service):
        yield


def test_a_second_session_is_refused_in_the_same_and_in_the_other_worker(service: Service) -> None:
    one, other = service.workers()
    with paused(one):
        first = pop3(service, ALICE)
        assert refusal(service).startswith(IN_USE)
    with first, paused(other):
        assert refusal(service).startswith(IN_USE)
    eventually(lambda: logs_on(service), within=1)


def test_quit_frees_it_before_it_is_answered(service: Service) -> None:
    for _ in range(200):
        with pop3(service, ALICE) as wire:  # a refusal here would be [IN-USE]
            assert wire.ask(b"QUIT") == b"+OK Bye"


def test_quit_with_deletions_frees_it_before_it_is_answered(home: Home, service: Service) -> None:
    place(home, ALICE, HEADER, 20)
    for left in range(20, 0, -1):
        with pop3(service, ALICE) as wire:
            assert wire.ask(b"STAT").split()[1] == b"%d" % left
            wire.ask(b"DELE 1")
            assert wire.ask(b"QUIT") == b"+OK Bye"


@pytest.mark.parametrize("leave", [Wire.vanish, Wire.close, Wire.no_more])
def test_a_client_that_goes_without_quit_frees_it_and_deletes_nothing(
    leave: object, home: Home, service: Service
) -> None:
    place(home, ALICE, HEADER)
    wire = pop3(service, ALICE)
    wire.ask(b"DELE 1")
    assert callable(leave)
    leave(wire)
    eventually(lambda: logs_on(service), within=1)
    with pop3(service, ALICE) as again:
        assert again.ask(b"STAT").split()[1] == b"1"
    wire.close()


def test_a_worker_that_is_killed_frees_it_and_is_replaced(service: Service) -> None:
    before = service.workers()
    with pop3(service, ALICE) as wire:
        victim = holder_of(service, wire)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        assert wire.rest() == b""
        eventually(lambda: logs_on(service), within=2)
    now = eventually(lambda: len(service.workers()) == 2 and service.workers(), within=2)
    assert isinstance(now, list)
    assert victim not in now
    assert len(set(now) & set(before)) == 1
