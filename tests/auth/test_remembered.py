"""What was right is remembered for exactly those who said it, and no longer than it may (threats.md A7)."""

import os
import time
from collections.abc import Iterator

import pytest

from auth.workers import Clock, Worker
from winpop.auth.remembered import Remembered
from winpop.auth.shared import REMEMBERED, Shared

PARTS = (b"file", b"alice@example.com", b"$argon2id$1", b"secret")


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = Shared.make()
    yield made
    os.close(made)


@pytest.fixture
def shared(descriptor: int) -> Iterator[Shared]:
    opened = Shared(descriptor)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remembered(shared: Shared, clock: Clock) -> Remembered:
    return Remembered(shared, clock)


def test_nothing_is_remembered_that_was_not_right(remembered: Remembered) -> None:
    assert not remembered.holds(*PARTS)
    assert not remembered.holds()


def test_a_right_password_is_remembered_for_so_many_seconds(remembered: Remembered, clock: Clock) -> None:
    remembered.remember(*PARTS, seconds=600)
    clock.now += 599.9
    assert remembered.holds(*PARTS)
    clock.now += 0.1
    assert not remembered.holds(*PARTS)


def test_no_seconds_are_not_at_all(remembered: Remembered) -> None:
    remembered.remember(*PARTS, seconds=0)
    assert not remembered.holds(*PARTS)


@pytest.mark.parametrize(
    "other",
    [
        (b"directory", b"alice@example.com", b"$argon2id$1", b"secret"),
        (b"file", b"bob@example.com", b"$argon2id$1", b"secret"),  # two users with equal passwords
        (b"file", b"alice@example.com", b"$argon2id$2", b"secret"),  # the same password, set anew
        (b"file", b"alice@example.com", b"$argon2id$1", b"secret2"),
        (b"file", b"alice@example.com", b"$argon2id$1", b"Secret"),
        (b"file", b"alice@example.com", b"$argon2id$1", b"secret\0"),
        (b"file", b"alice@example.com", b"$argon2id$1s", b"ecret"),  # the same octets, divided otherwise
        (b"file", b"alice@example.com$argon2id$1", b"secret"),
        (b"file", b"alice@example.com", b"$argon2id$1", b"secret", b""),
        (b"alice@example.com", b"file", b"$argon2id$1", b"secret"),
    ],
)
def test_it_answers_for_nothing_else(remembered: Remembered, other: tuple[bytes, ...]) -> None:
    remembered.remember(*PARTS, seconds=600)
    assert not remembered.holds(*other)
    assert remembered.holds(*PARTS)


def test_nothing_of_it_stands_in_the_memory(descriptor: int, remembered: Remembered) -> None:
    remembered.remember(*PARTS, seconds=600)
    octets = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    for part in PARTS:
        assert part not in octets


def test_another_worker_knows_it_and_another_start_does_not(descriptor: int) -> None:
    ask = f"r = Remembered(shared); say(r.holds(*{PARTS!r}))"
    with Worker(descriptor, f"Remembered(shared).remember(*{PARTS!r}, seconds=60); say('done')") as worker:
        assert worker.said() == "done"
    with Worker(descriptor, ask) as worker:  # the first one has ended meanwhile
        assert worker.said() == "True"
    new = Shared.make()
    try:
        old = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        os.pwrite(new, old[32:], 32)  # all of it, but under another key
        with Worker(new, ask) as worker:
            assert worker.said() == "False"
    finally:
        os.close(new)


def test_a_torn_entry_is_not_remembered(shared: Shared, remembered: Remembered) -> None:
    table = shared.table(REMEMBERED)
    remembered.remember(*PARTS, seconds=600)
    place = table._place(table.digest(*PARTS))
    table._map[place + 16 + 7] ^= 0x10  # an expiry in the far future
    assert not remembered.holds(*PARTS)


ALTERNATES = """
r = Remembered(shared, clock=lambda: 1000.0)
say('ready')
while True:
    r.remember(b'alice', b'old', seconds=1)
    with r._table.edit(r._table.digest(b'alice', b'old')) as e: e.until = 0.0
    for n in range(9): r.remember(b'x%d' % n, seconds=5)
"""


def test_whatever_others_write_a_password_that_nobody_remembered_is_never_held(
    descriptor: int, shared: Shared, clock: Clock
) -> None:
    remembered = Remembered(shared, clock)
    with Worker(descriptor, ALTERNATES) as one, Worker(descriptor, ALTERNATES) as other:
        assert (one.said(), other.said()) == ("ready", "ready")
        answers = set[bool]()
        until = time.monotonic() + 30
        while len(answers) < 2 and time.monotonic() < until:
            answers.add(remembered.holds(b"alice", b"old"))
        assert answers == {True, False}  # it is being written while we look
        assert not any(remembered.holds(b"alice", b"new") for _ in range(30_000))
