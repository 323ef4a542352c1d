"""The clock of connections: nobody is looked at early, nobody late, and with nobody left nothing runs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from winpop.services.clock import TICK, Clock

EPSILON = 1e-6


@dataclass
class Timer:
    """One timer of the loop below."""

    when: float
    what: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Loop:
    """An event loop with nothing but a time of our own and timers, each fired `late` seconds after its time."""

    now: float = 0.0
    late: float = 0.0
    timers: list[Timer] = field(default_factory=list)
    raised: list[Exception] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, what: Callable[[], object]) -> Timer:
        timer = Timer(when, what)
        self.timers.append(timer)
        return timer

    def call_later(self, delay: float, what: Callable[[], object]) -> Timer:
        return self.call_at(self.now + delay, what)

    def running(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def run_until(self, end: float) -> None:
        while (due := self.running()) and (first := min(due, key=lambda timer: timer.when)).when + self.late <= end:
            self.timers.remove(first)
            self.now = max(self.now, first.when + self.late)
            try:
                first.what()
            except Exception as error:  # noqa: BLE001 - a loop says so and goes on
                self.raised.append(error)
        self.now = max(self.now, end)

    def clock(self) -> Clock:
        return Clock(cast("asyncio.AbstractEventLoop", self))


class One:
    """Somebody who is watched; `then` happens when they are looked at."""

    def __init__(self, loop: Loop, then: Callable[["One"], object] = lambda _: None) -> None:
        self.due = 0
        self.looks: list[float] = []
        self._loop, self._then = loop, then

    def look_at_clock(self, now: float) -> None:
        assert now == self._loop.now
        assert self.due == 0
        self.looks.append(now)
        self._then(self)


MOMENTS = st.floats(0, 8)


@given(st.floats(0, 1000), st.lists(st.tuples(MOMENTS, st.floats(-1, 8)), min_size=1, max_size=8), st.floats(0, 0.6))
def test_nobody_is_looked_at_early_nor_later_than_a_tick_and_what_the_loop_is_late(
    start: float, asked: list[tuple[float, float]], late: float
) -> None:
    loop = Loop(start, late)
    clock = loop.clock()
    watched = []
    for at, after in sorted(asked):
        loop.run_until(start + at)
        one = One(loop)
        watched.append((one, loop.now, loop.now + after))
        clock.watch(one, loop.now + after)
    loop.run_until(start + 30)
    for one, began, due in watched:
        assert len(one.looks) == 1
        assert due <= one.looks[0] <= max(due, began) + TICK + 2 * late + EPSILON
        assert one.due == 0


@given(st.floats(0, 1000), st.floats(0, 5), st.floats(0, 5))
def test_to_watch_again_replaces_what_was_asked_before(start: float, first: float, second: float) -> None:
    loop = Loop(start)
    clock, one = loop.clock(), One(loop)
    clock.watch(one, start + first)
    clock.watch(one, start + second)
    loop.run_until(start + 20)
    assert [look >= start + second for look in one.looks] == [True]


def test_who_is_forgotten_is_not_looked_at_and_to_forget_twice_is_harmless() -> None:
    loop = Loop()
    clock, one, other = loop.clock(), One(loop), One(loop)
    clock.forget(one)
    clock.watch(one, 1)
    clock.watch(other, 1)
    clock.forget(one)
    clock.forget(one)
    loop.run_until(10)
    assert (one.looks, len(other.looks)) == ([], 1)
    clock.watch(one, 11)
    loop.run_until(20)
    assert len(one.looks) == 1


def test_with_nobody_left_no_timer_runs_and_the_next_one_starts_it_again() -> None:
    loop = Loop(100)
    clock = loop.clock()
    assert loop.running() == []
    for begin in (100, 110):
        looked_at, forgotten = One(loop), One(loop)
        clock.watch(looked_at, begin + 1)
        clock.watch(forgotten, begin + 3)
        assert len(loop.running()) == 1
        clock.forget(forgotten)
        loop.run_until(begin + 9)
        assert (loop.running(), len(looked_at.looks)) == ([], 1)
        loop.run_until(begin + 10)


def test_who_asks_again_while_being_looked_at_waits_for_a_tick() -> None:
    loop = Loop()
    clock = loop.clock()
    one = One(loop, lambda one: clock.watch(one, 0) if len(one.looks) < 4 else None)
    clock.watch(one, 0)
    loop.run_until(10)
    pauses = [after - before for before, after in zip(one.looks, one.looks[1:], strict=False)]
    assert len(one.looks) == 4
    assert all(EPSILON < pause <= TICK + EPSILON for pause in pauses)


def test_who_is_forgotten_by_another_in_the_same_tick_is_not_looked_at() -> None:
    loop = Loop()
    clock = loop.clock()
    everybody: list[One] = []

    def forget_all(_: One) -> None:
        for each in everybody:
            clock.forget(each)

    everybody += [One(loop, forget_all) for _ in range(5)]
    for each in everybody:
        clock.watch(each, 1)
    loop.run_until(10)
    assert sum(len(each.looks) for each in everybody) <= len(everybody)
    assert loop.running() == []
    looked_at = [each for each in everybody if each.looks]
    assert len(looked_at) == 1


def test_one_that_raises_does_not_end_the_clock_for_the_others() -> None:
    loop = Loop()
    clock = loop.clock()

    def fail(_: One) -> None:
        raise RuntimeError

    everybody = [One(loop, fail if number % 3 == 0 else lambda _: None) for number in range(9)]
    for each in everybody:
        clock.watch(each, 1)
    late = One(loop)
    clock.watch(late, 5)
    loop.run_until(20)
    assert [len(each.looks) for each in everybody] == [1] * 9
    assert len(late.looks) == 1
    assert len(loop.raised) == 3
    assert loop.running() == []


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_on_a_real_loop_nobody_is_early(factory: Any) -> None:  # noqa: ANN401 - either kind of loop
    async def looks() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        clock = Clock(loop)
        found: list[tuple[float, float]] = []

        class Somebody:
            due = 0

            def __init__(self, until: float) -> None:
                self.until = until

            def look_at_clock(self, now: float) -> None:
                found.append((self.until, now))

        for number in range(20):
            until = loop.time() + number / 20
            clock.watch(Somebody(until), until)
        await asyncio.sleep(2)
        return found

    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(looks())
    assert len(found) == 20
    assert all(now >= until for until, now in found)
