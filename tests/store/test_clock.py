"""The clock as far as it is believed: one that jumps makes no mail old."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.db.sqlite import Sqlite
from winpop.store import clock
from winpop.store.clock import DAY, Clock, look

NOW = 2_000_000_000
YEAR = 365 * DAY
STEPS = st.lists(
    st.tuples(
        st.integers(1, 3 * DAY),  # until the next look
        st.booleans(),  # whether the service began anew between the two
        st.sampled_from([0]) | st.integers(2 * DAY, 20 * YEAR) | st.integers(-20 * YEAR, -2 * DAY),  # what somebody set
    ),
    max_size=30,
)


@given(STEPS, st.integers(0, 30), st.integers(1, 60))
def test_no_message_gets_old_before_the_service_has_served_as_long(
    steps: list[tuple[int, bool, int]], comes_in: int, days: int
) -> None:
    seen, now, stamp, served = Clock(NOW), NOW, None, 0
    for n, (passed, anew, jump) in enumerate(steps):
        if n == comes_in:
            stamp, served = now, 0
        now += passed + jump
        seen = seen.at(now, 0 if anew else passed)
        served += passed
        if stamp is not None and stamp < now - days * DAY - seen.uncounted(days):
            assert served > days * DAY - 1


@given(st.lists(st.integers(1, DAY), max_size=60), st.integers(1, 30))
def test_where_nothing_happens_to_it_every_second_counts(steps: list[int], days: int) -> None:
    seen = Clock(NOW)
    for n, passed in enumerate(steps):
        seen = seen.at(seen.seen + passed, passed if n % 3 else 0)
    assert seen == Clock(NOW + sum(steps), sum(steps))
    assert seen.uncounted(days) == 0


def test_a_gap_counts_again_once_the_service_has_served_as_long_as_mail_is_kept() -> None:
    seen = Clock(NOW).at(NOW + 10 * YEAR, 3600)
    assert seen.uncounted(7) == 10 * YEAR - 3600
    for day in range(1, 8):
        seen = seen.at(seen.seen + DAY, DAY)
        assert bool(seen.uncounted(7)) is (day < 7)
    assert seen.uncounted(30) == 10 * YEAR - 3600


def test_so_many_gaps_that_there_is_no_room_for_them_become_fewer_and_none_is_lost() -> None:
    seen = Clock(NOW)
    for _ in range(500):
        seen = seen.at(seen.seen + 3 * DAY, 0)
    assert len(seen.gaps) == 100
    assert seen.uncounted(1) == 500 * 3 * DAY


def test_what_was_seen_is_kept_in_the_database_and_stands_nowhere_as_a_setting(database: Sqlite) -> None:
    assert look(database, NOW + 0.9, 0) == Clock(NOW)
    assert look(database, NOW + 60, 60) == Clock(NOW + 60, 60)
    assert look(database, NOW + 90 * DAY, 0) == Clock(NOW + 90 * DAY, 60, ((60, 90 * DAY - 60),))
    assert look(database, NOW + 90 * DAY + 5, 5).served == 65


@pytest.mark.parametrize("value", ["", "nonsense", "[1]", "[1, 2, 3]", '["a", 2, []]', "[1, 2, [[1]]]", "null"])
def test_what_was_kept_and_cannot_be_read_makes_nothing_old(database: Sqlite, value: str) -> None:
    with database.write() as transaction:
        transaction.run("INSERT INTO setting (name, value) VALUES (?, ?)", clock.NAME, value)
    seen = look(database, NOW, 0)
    assert seen.uncounted(30) >= NOW - DAY
    row = database.one("SELECT value FROM setting WHERE name = ?", clock.NAME)
    assert row is not None
    assert json.loads(str(row[0]))[0] == NOW
