"""A mailbox's next logon has to wait, in all workers, and no longer than it is told (RFC 2449 §6.5)."""

import os
from collections.abc import Iterator

import pytest

from auth.workers import Clock, Worker
from winpop.auth.logindelay import LoginDelay
from winpop.auth.shared import Shared


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = Shared.make()
    yield made
    os.close(made)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def delays(descriptor: int, clock: Clock) -> Iterator[LoginDelay]:
    shared = Shared(descriptor)
    yield LoginDelay(shared, clock)
    shared.close()


def test_the_first_logon_does_not_wait_not_even_just_after_the_machine_started(
    delays: LoginDelay, clock: Clock
) -> None:
    clock.now = 0.5
    assert delays.left(1, 86400) == 0


def test_the_next_logon_waits_until_the_delay_is_over(delays: LoginDelay, clock: Clock) -> None:
    delays.logged_on(1)
    clock.now += 20
    assert delays.left(1, 60) == 40
    assert delays.left(1, 0) == 0
    assert delays.left(1, 86400) == 86380  # a delay that was set meanwhile counts from the same logon
    assert delays.left(2, 60) == 0
    clock.now += 40
    assert delays.left(1, 60) == 0


def test_asking_moves_nothing(delays: LoginDelay, clock: Clock) -> None:
    delays.logged_on(1)
    for _ in range(5):
        clock.now += 10
        delays.left(1, 60)
    assert delays.left(1, 60) == 10


def test_the_longest_delay_holds_to_its_end(delays: LoginDelay, clock: Clock) -> None:
    delays.logged_on(1)
    clock.now += 86399
    assert delays.left(1, 86400) == 1


def test_another_worker_knows_of_it(descriptor: int) -> None:
    with Worker(descriptor, "LoginDelay(shared).logged_on(7); say('done')") as worker:
        assert worker.said() == "done"
    with Worker(descriptor, "d = LoginDelay(shared); say(0 < d.left(7, 600) <= 600, d.left(8, 600))") as worker:
        assert worker.said() == "True 0.0"
