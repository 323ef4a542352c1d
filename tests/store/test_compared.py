"""What was compared is not compared again, and for no longer than is set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.workers import Clock
from winpop.store import compared as module
from winpop.store.compared import Compared

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([1, 10, 30, 49, 51, 70, 99, 101, 160])),
        st.tuples(st.just("note"), st.integers(1, 6)),
        st.tuples(st.just("holds"), st.integers(1, 6)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("most", [3, 50_000])
@given(steps=STEPS)
def test_nothing_holds_that_was_not_noted_or_longer_ago_than_is_set(most: int, steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST", most)
        compared = Compared(clock, 100)
        noted: dict[int, float] = {}
        for step, value in steps:
            match step:
                case "wait":
                    clock.now += value
                case "note":
                    compared.note(value)
                    noted[value] = clock.now
                case _:
                    if compared.holds(value):
                        assert clock.now - noted[value] <= 100
            assert len(compared._now) <= most
            assert len(compared._before) <= most


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 6)), max_size=30))
def test_what_was_noted_holds_for_half_of_what_is_set_at_the_least(steps: list[tuple[float, int]]) -> None:
    """As a worker does it: it asks, and notes what it has compared."""
    clock = Clock()
    compared = Compared(clock, 100)
    noted: dict[int, float] = {}
    for pause, message in steps:
        clock.now += pause
        holds = compared.holds(message)
        if message in noted and clock.now - noted[message] < 50:
            assert holds
        if not holds:
            compared.note(message)
            noted[message] = clock.now


def test_a_message_that_is_asked_for_again_and_again_is_compared_each_time_its_time_is_over() -> None:
    clock = Clock()
    compared = Compared(clock, 100)
    compared.note(1)
    clock.now += 99
    compared.holds(2)  # nobody asked before that: it is late for the first turn
    clock.now += 40
    assert not compared.holds(1)


def test_with_0_nothing_is_ever_noted() -> None:
    clock = Clock()
    compared = Compared(clock, 0)
    for _ in range(3):
        compared.note(1)
        assert not compared.holds(1)
        clock.now += 1
    assert not compared._now | compared._before


def test_after_a_long_pause_everything_is_compared_again() -> None:
    clock = Clock()
    compared = Compared(clock, 100)
    compared.note(1)
    clock.now += 1000
    assert not compared.holds(1)
    compared.note(1)
    assert compared.holds(1)
