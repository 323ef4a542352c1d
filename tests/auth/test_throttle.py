"""What guessing gets, and what honest users do not notice (threats.md A1, A2, A4), on a clock of our own."""

import heapq
import os
import random
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.workers import Clock, Worker
from winpop.auth import shared as module
from winpop.auth.shared import NETWORKS, PAIRS, Shared
from winpop.auth.throttle import LOOK, Pace, Throttle, Turn
from winpop.terms.endpoints import IPAddress

HERE, NEAR, ELSEWHERE = ip_address("192.0.2.7"), ip_address("192.0.2.200"), ip_address("198.51.100.7")
PACE = Pace()
VERIFIED = 0.03
"""Seconds that a verification takes."""
Doing = Iterator[float]
"""What somebody does: it gives the seconds until it goes on."""


class Simulated:
    """Workers with one clock, and those who come to them."""

    def __init__(self, shared: Shared) -> None:
        self.clock = Clock()
        self.throttle = Throttle(shared, self.clock)
        self.looked: list[tuple[float, str]] = []
        """When a wrong password was looked at, and for whom."""
        self.refused = 0
        self._agenda: list[tuple[float, int, Doing]] = []
        self._count = 0

    def begin(self, doing: Doing, after: float = 0.0) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.clock.now + after, self._count, doing))

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            at, number, doing = heapq.heappop(self._agenda)
            self.clock.now = at
            pause = next(doing, None)
            if pause is not None:
                heapq.heappush(self._agenda, (at + pause, number, doing))
        self.clock.now = end

    def since(self, moment: float) -> int:
        """Return how many guesses were looked at since then."""
        return sum(at >= moment for at, _ in self.looked)

    def owed(self, name: str, address: IPAddress = HERE) -> float:
        """Return the debt of a name and a network, in seconds."""
        pairs = self.throttle.pairs
        return pairs.get(pairs.digest(name.encode(), address.packed[:3])).until - self.clock.now

    def network_owes(self, address: IPAddress = HERE) -> float:
        networks = self.throttle.networks
        return networks.get(networks.digest(address.packed[:3])).until - self.clock.now

    def turn(self, name: str, address: IPAddress = HERE, pace: Pace = PACE, *, exempt: bool = False) -> Turn:
        """Reserve a turn that has to be there."""
        turn = self.throttle.before(name, address, pace, exempt=exempt)
        assert turn is not None
        return turn

    def guess(  # noqa: PLR0913 - who guesses what, from where, and how impolitely
        self,
        name: str,
        password: bytes | None,
        address: IPAddress = HERE,
        pace: Pace = PACE,
        *,
        patient: bool = True,
        exempt: bool = False,
    ) -> Doing:
        """Try a wrong password; without patience, go as soon as it has been looked at."""
        turn = self.throttle.before(name, address, pace, exempt=exempt)
        if turn is None:
            self.refused += 1
            yield 2.0
            return
        while (left := turn.left()) > 0:
            yield min(left, 1.0)
        self.looked.append((self.clock.now, name))
        yield VERIFIED
        answered = turn.failed(password)
        if patient:
            yield answered

    def guesser(
        self, names: list[str], address: IPAddress = HERE, pace: Pace = PACE, *, patient: bool = True, start: int = 0
    ) -> Doing:
        """Try one password after the other for these names in turn, for ever."""
        number = start
        while True:
            yield from self.guess(
                names[number % len(names)], b"%d-%d" % (start, number), address, pace, patient=patient
            )
            number += 1

    def owner(self, name: str, waits: list[float], address: IPAddress = HERE, *, exempt: bool = False) -> Doing:
        """Log on with the right password; refused for now, try again in a second."""
        began = self.clock.now
        while (turn := self.throttle.before(name, address, PACE, exempt=exempt)) is None:
            yield 1.0
        while (left := turn.left()) > 0:
            yield min(left, LOOK)
        waits.append(self.clock.now - began)
        yield VERIFIED
        turn.succeeded()


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
def there(shared: Shared) -> Simulated:
    return Simulated(shared)


# --- one failure after the other ---


def delays(there: Simulated, passwords: Sequence[bytes | None], pace: Pace = PACE) -> list[float]:
    """Return after how many seconds these are answered, one after the other."""
    seconds = []
    for password in passwords:
        turn = there.turn("alice", pace=pace)
        assert turn.left() == 0
        seconds.append(turn.failed(password))
        there.clock.now += seconds[-1]
    return seconds


def test_the_delay_doubles_up_to_the_longest(there: Simulated) -> None:
    found = delays(there, [b"%d" % number for number in range(8)])
    assert found == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30], rel=0.15)  # it decays a little meanwhile
    assert found == sorted(found)


def test_a_failure_without_a_password_counts_like_a_new_one(there: Simulated) -> None:
    assert delays(there, [None] * 4) == pytest.approx([1, 2, 4, 8], rel=0.1)


def test_the_same_wrong_passwords_again_do_not_raise_the_delay(there: Simulated) -> None:
    first = delays(there, [b"old"])
    assert delays(there, [b"old"] * 200) == pytest.approx(first * 200)
    fresh = delays(there, [b"%d" % number for number in range(7)])
    again = delays(there, [b"old"] + [b"%d" % number for number in range(7)] * 3)
    assert max(again) <= max(fresh)  # eight are recognised, in any order


def test_the_ninth_last_wrong_password_is_a_guess_again(there: Simulated) -> None:
    pace = Pace(first=0.001, most=1000, rate=1000)  # next to no time goes by
    delays(there, [b"%d" % number for number in range(9)], pace)
    delays(there, [b"1", b"8"], pace)
    assert there.owed("alice") == pytest.approx(9 * 300, abs=5)
    delays(there, [b"0"], pace)
    assert there.owed("alice") == pytest.approx(10 * 300, abs=5)


def test_a_wrong_password_of_one_is_a_guess_for_another(there: Simulated) -> None:
    for name in ("alice", "bob", "carol", "alice"):
        there.turn(name).failed(b"old")
    assert there.network_owes() == pytest.approx(3 * 75, abs=1)


def test_the_answer_comes_at_the_same_time_however_long_it_took(there: Simulated) -> None:
    for number, took in enumerate((0.0, 0.03, 0.9)):
        began = there.clock.now
        turn = there.turn(f"user{number}")
        assert turn.left() == 0
        there.clock.now += took
        assert there.clock.now + turn.failed(b"x") == pytest.approx(began + 1)
    turn = there.turn("late")
    there.clock.now += 5
    assert turn.failed(b"x") == 0


def test_a_penalty_halves_in_five_minutes_and_is_forgotten_in_an_hour(there: Simulated) -> None:
    delays(there, [b"%d" % number for number in range(6)])
    there.clock.now += 300 * 3
    assert delays(there, [b"a"])[0] == pytest.approx(30 * 2 / 8, rel=0.1)  # three halves, and one guess more
    delays(there, [b"x%d" % number for number in range(12)], Pace(most=300))
    there.clock.now += 3600
    assert delays(there, [b"x11"]) == [1]
    assert delays(there, [b"x10"])[0] == pytest.approx(2, rel=0.01)  # the passwords, too


def test_a_right_password_clears_the_names_penalty_and_lets_the_networks_fall(there: Simulated) -> None:
    delays(there, [b"%d" % number for number in range(6)])
    owed = there.network_owes()
    there.turn("alice").succeeded()
    assert there.owed("alice") < 0
    assert there.network_owes() == pytest.approx(owed - 75)
    assert delays(there, [b"x"])[0] < 3  # what is left is the network's


def test_a_right_password_brings_forward_who_waits_for_the_same_name(there: Simulated) -> None:
    delays(there, [b"1", b"2", b"3"])
    first, second = there.turn("alice"), there.turn("alice")
    assert first.left() == 0
    assert second.left() > 4
    first.succeeded()
    assert second.left() == 0


def test_a_guess_that_was_under_way_when_the_owner_came_in_counts_all_the_same(there: Simulated) -> None:
    guess, owner = there.turn("alice"), there.turn("alice")
    owner.succeeded()
    assert guess.failed(b"1") == pytest.approx(1)
    assert there.turn("alice").failed(b"2") == pytest.approx(2, rel=0.01)


def test_case_makes_no_other_name_and_any_name_can_be_throttled(there: Simulated) -> None:
    assert there.turn("Alice")._pair == there.turn("aLICE")._pair
    for name in ("", "\udcff", "ß", "x" * 5000):
        there.turn(name).failed(b"")


# --- turns ---


def test_a_turn_that_is_given_back_leaves_nothing_behind(there: Simulated) -> None:
    delays(there, [b"1", b"2", b"3"])
    owed = there.owed("alice")
    for _ in range(100):
        there.turn("alice").released()
    assert there.owed("alice") == pytest.approx(owed)
    assert there.turn("alice").left() == 0


def test_who_is_refused_because_the_network_is_full_leaves_nothing_behind(there: Simulated) -> None:
    while there.throttle.before(f"user{random.random()}", HERE, PACE):
        pass
    assert there.throttle.before("alice", HERE, PACE) is None
    assert there.owed("alice") <= 0
    assert there.turn("alice", ELSEWHERE).left() == 0


def test_a_mailbox_of_several_devices_lets_two_in_together(there: Simulated) -> None:
    phone, laptop = there.turn("alice"), there.turn("alice")
    assert phone.left() == laptop.left() == 0
    assert there.turn("alice").left() > 0


def test_too_long_a_queue_is_refused_at_once(there: Simulated) -> None:
    turns = 0
    while there.throttle.before("alice", HERE, PACE):
        turns += 1
    assert 4 <= turns <= 8
    assert there.throttle.before("bob", HERE, PACE) is not None  # who is not guessed at is not concerned


@pytest.mark.parametrize(
    ("pace", "expected"),
    [
        (Pace(first=0), [0, 0, 0, 0]),
        (Pace(most=0), [1, 1, 1, 1]),
        (Pace(first=3, most=1), [3, 3, 3, 3]),
        (Pace(first=2, most=5), [2, 4, 5, 5]),
    ],
)
def test_each_delay_can_be_switched_off(there: Simulated, pace: Pace, expected: list[float]) -> None:
    assert delays(there, [b"1", b"2", b"3", b"4"], pace) == pytest.approx(expected, rel=0.1)


def test_without_any_delay_and_rate_nobody_ever_waits(there: Simulated) -> None:
    for _ in range(1000):
        turn = there.turn("alice", pace=Pace(0, 0, 0))
        assert turn.left() == turn.failed(b"x") == 0


def test_without_growing_attempts_side_by_side_still_take_their_turns(there: Simulated) -> None:
    for _ in range(40):
        there.begin(there.guesser(["alice"], pace=Pace(most=0), patient=False))
    there.run(60)
    assert len(there.looked) <= 63


# --- what guessing gets ---


def test_one_after_the_other_gets_a_guess_in_thirty_seconds(there: Simulated) -> None:
    there.begin(there.guesser(["alice"]))
    there.run(3600)
    assert len(there.looked) <= 130  # 0.036 a second


@pytest.mark.parametrize("patient", [True, False])
def test_forty_connections_get_no_more_against_one_name_than_one(there: Simulated, patient: bool) -> None:  # noqa: FBT001 - a parameter of a test
    for number in range(40):
        there.begin(there.guesser(["alice"], patient=patient, start=1000 * number))
    there.run(1800)
    assert len(there.looked) <= 80
    assert there.since(1000 + 300) <= 0.04 * 1500


def test_forty_connections_against_many_names_get_the_networks_rate(there: Simulated) -> None:
    for number in range(40):
        names = [f"user{number}.{index}" for index in range(5000)]
        there.begin(there.guesser(names, patient=False, start=number))
    there.run(120)
    assert 5 * 119 <= len(there.looked) <= 5 * 120 + 5


def test_one_connection_against_many_names_is_slowed_down_by_the_network(there: Simulated) -> None:
    there.begin(there.guesser([f"user{index}" for index in range(10_000)]))
    there.run(3600)
    assert there.since(1000 + 600) <= 0.2 * 3000


@pytest.mark.parametrize(("prefix", "networks"), [("2001:db8::", 1), ("2001:db8:0:{}::", 4)])
def test_all_addresses_of_a_64_are_one_network(there: Simulated, prefix: str, networks: int) -> None:
    for number in range(40):
        address = ip_address(prefix.format(number % networks) + f"{number:x}")
        there.begin(there.guesser([f"user{number}.{index}" for index in range(999)], address, patient=False))
    there.run(60)
    assert len(there.looked) <= networks * (5 * 60 + 5)
    assert len(there.looked) >= networks * 5 * 59


def test_all_addresses_of_a_24_are_one_network(there: Simulated) -> None:
    assert there.turn("alice", HERE)._network == there.turn("alice", NEAR)._network
    assert there.turn("alice", HERE)._network != there.turn("alice", ELSEWHERE)._network


def test_only_the_rule_for_the_name_holds_for_an_exempt_address(there: Simulated) -> None:
    for number in range(500):
        turn = there.turn(f"user{number}", exempt=True)
        assert turn.left() == 0
        assert turn.failed(b"x") == 1
    for number in range(40):
        there.begin(there.guess("alice", b"%d" % number, exempt=True, patient=False))
    there.run(300)
    assert sum(name == "alice" for _, name in there.looked) <= 8
    assert there.throttle.networks.get(there.turn("alice")._network).until <= there.clock.now + 1


@given(
    moves=st.lists(
        st.tuples(st.floats(0, 3), st.integers(0, 5), st.integers(0, 3), st.sampled_from(["failed", "released"])),
        max_size=60,
    )
)
def test_no_order_of_attempts_gets_more_than_the_rate(
    one_for_all: Shared, moves: list[tuple[float, int, int, str]]
) -> None:
    there = Simulated(one_for_all)
    there.clock.now = CLOCKS[0] = CLOCKS[0] + 1e5  # all is forgotten
    began, waiting, looked = there.clock.now, list[Turn](), 0
    for pause, name, chosen, how in moves:
        there.clock.now += pause
        turn = there.throttle.before(f"user{name}", HERE, PACE)
        if turn is not None:
            waiting.append(turn)
        if waiting:
            turn = waiting[chosen % len(waiting)]
            if turn.left() == 0:
                waiting.remove(turn)
                looked += 1
                turn.failed(b"%d" % looked)
            elif how == "released":
                waiting.remove(turn)
                turn.released()
        assert looked <= 5 + 5 * (there.clock.now - began + 0.001)


CLOCKS = [1e6]
"""Where the clock of the last example stood."""


@pytest.fixture(scope="module")
def one_for_all() -> Iterator[Shared]:
    """Shared memory for all examples of a law."""
    made = Shared.make()
    opened = Shared(made)
    yield opened
    opened.close()
    os.close(made)


# --- what honest users notice ---


def test_the_owner_from_elsewhere_is_not_delayed_by_guesses(there: Simulated) -> None:
    waits: list[float] = []
    for number in range(60):
        address = ip_address(f"203.{number}.113.9")
        there.begin(there.guesser(["alice"], address, patient=False, start=1000 * number))
    for minute in range(30):
        there.begin(there.owner("alice", waits, ELSEWHERE), 20.0 * minute)
    there.run(600)
    assert len(there.looked) > 1000
    assert waits == [0.0] * 30


def test_who_shares_the_network_with_a_guesser_of_another_name_waits_no_second(there: Simulated) -> None:
    waits: list[float] = []
    for number in range(40):
        there.begin(there.guesser(["bob"], patient=False, start=1000 * number))
    for minute in range(30):
        there.begin(there.owner("alice", waits), 20.0 * minute + 7)
    there.run(600)
    assert len(waits) == 30
    assert max(waits) <= 1


def test_who_shares_the_network_with_a_guesser_of_all_names_waits_for_the_queue_of_it(there: Simulated) -> None:
    waits: list[float] = []
    for number in range(40):
        names = [f"user{number}.{index}" for index in range(5000)]
        there.begin(there.guesser(names, patient=False))
    for minute in range(10):
        there.begin(there.owner("alice", waits), 60.0 * minute + 7)
    there.run(600)
    assert len(waits) == 10
    assert max(waits) <= 40 / 5 + 2 * LOOK  # each of the forty is before it once


def test_a_school_behind_one_address_does_not_notice_its_mis_set_client(there: Simulated) -> None:
    chance = random.Random(3)
    waits: list[float] = []

    def mis_set() -> Doing:
        while True:
            yield from there.guess("teacher", b"the old one")
            yield 20.0

    def mistypes() -> Doing:
        yield from there.guess(f"pupil{chance.randrange(500)}", b"%d" % chance.randrange(10**6))

    there.begin(mis_set())
    for pupil in range(500):
        begin = chance.uniform(0, 300)
        for round_ in range(6):
            there.begin(there.owner(f"pupil{pupil}", waits), begin + 300 * round_)
    for _ in range(60):
        there.begin(mistypes(), chance.uniform(0, 1800))
    teacher: list[float] = []
    for minute in range(30):
        there.begin(there.owner("teacher", teacher), 60.0 * minute + 30.5)
    there.run(1810)
    assert len(waits) == 3000
    assert max(waits) < 4
    assert sum(wait > 0 for wait in waits) < 30
    assert len(teacher) == 30
    assert max(teacher) <= 2
    assert there.refused == 0
    turn = there.turn("somebody")
    assert turn.left() == 0
    assert turn.failed(b"mistyped") < 4  # the network owes little


def test_all_of_a_school_may_come_at_once_when_the_service_starts(there: Simulated) -> None:
    waits: list[float] = []
    for pupil in range(150):
        there.begin(there.owner(f"pupil{pupil}", waits))
    there.run(60)
    assert len(waits) == 150
    assert max(waits) < 5  # not 30: each right password lets the next one pass


# --- bounds ---


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """Simulated with tables of a hundredth of their size, so that a flood is soon one."""
    tables = {name: (buckets // 100, value) for name, (buckets, value) in module._TABLES.items()}
    monkeypatch.setattr(module, "_TABLES", tables)
    places, size = module._places()
    monkeypatch.setattr(module, "_PLACES", places)
    monkeypatch.setattr(module, "_SIZE", size)
    made = Shared.make()
    opened = Shared(made)
    yield Simulated(opened)
    opened.close()
    os.close(made)


@pytest.mark.parametrize("exempt", [False, True])
def test_a_flood_of_names_removes_no_penalty(small: Simulated, exempt: bool) -> None:  # noqa: FBT001 - see above
    pace = Pace(rate=0)  # the flood shall not be held back by it
    delays(small, [b"%d" % number for number in range(6)], pace)
    owed = small.owed("alice"), small.network_owes()
    for number in range(10_000):  # ten times as many as there is room for
        small.turn(f"user{number}", pace=pace, exempt=exempt).failed(b"x")
    assert small.owed("alice") == owed[0]
    assert small.network_owes() >= owed[1]
    assert sum(small.owed(f"user{number}") > 0 for number in range(10_000)) <= 1000


def test_a_flood_of_networks_does_not_remove_the_penalty_of_one_that_guesses(small: Simulated) -> None:
    for number in range(60):
        small.turn(f"user{number}", pace=Pace(rate=0)).failed(b"x")
    owed = small.network_owes()
    for number in range(3000):
        address = ip_address((0x20010DB8 << 96) + (number << 64))
        small.turn("alice", address).failed(b"x")
    assert small.network_owes() == owed > 0


def test_what_is_kept_of_a_wrong_password_confirms_none(descriptor: int, there: Simulated) -> None:
    there.turn("alice").failed(b"almost the right one")
    octets = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    assert b"almost" not in octets
    assert b"alice" not in octets
    pairs = there.throttle.pairs
    value = pairs.get(pairs.digest(b"alice", HERE.packed[:3])).value
    assert value[8:12] != bytes(4)
    assert value[12:] == bytes(28)  # four octets, which one of 2^32 other passwords has, too


# --- several workers ---

GUESSES = """
throttle = Throttle(shared, lambda: 1000.0)
say('ready')
wait()
for n in range(400):
    turn = throttle.before(f'user{n % 7}', ipaddress.ip_address('192.0.2.7'), Pace(1, 2, 1000))
    if turn is None: continue
    if n % 2: turn.released()
say('done')
"""


def test_workers_count_together(descriptor: int, shared: Shared) -> None:
    workers = [Worker(descriptor, GUESSES) for _ in range(3)]
    try:
        assert [worker.said() for worker in workers] == ["ready"] * 3
        for worker in workers:
            worker.go()
        assert [worker.said() for worker in workers] == ["done"] * 3
    finally:
        for worker in workers:
            worker.__exit__()
    throttle = Throttle(shared, lambda: 1000.0)
    refused = [throttle.before(f"user{number}", HERE, Pace(1, 2, 1000)) for number in range(7)]
    assert refused == [None] * 7  # each name's queue is full, and none is fuller than it may be
    assert shared.table(PAIRS).get(shared.table(PAIRS).digest(b"user1", HERE.packed[:3])).until <= 1000 + 600


def test_a_penalty_made_in_one_worker_holds_in_another_and_after_it_was_killed(descriptor: int) -> None:
    program = """
turn = Throttle(shared).before('alice', ipaddress.ip_address('192.0.2.7'), Pace(30, 300, 5))
say(turn.left(), turn.failed(b'x') > 25)
wait()
"""
    ask = """
t = Throttle(shared)
one, two = (t.before('alice', ipaddress.ip_address('192.0.2.7'), Pace(30, 300, 5)) for _ in '12')
say(one is not None, two is None, t.before('alice', ipaddress.ip_address('198.51.100.7'), Pace()).left())
"""
    with Worker(descriptor, program) as worker:
        assert worker.said() == "0.0 True"
    with Worker(descriptor, ask) as worker:
        assert worker.said() == "True True 0.0"


def test_tickets_of_several_workers_are_one_row(descriptor: int, shared: Shared) -> None:
    program = """
throttle = Throttle(shared, lambda: 1000.0)
taken = [throttle.before(f'user{n}', ipaddress.ip_address('192.0.2.7'), Pace(0, 0, 100)) for n in range(500)]
say(*(int(turn._ticket) for turn in taken))
"""
    workers = [Worker(descriptor, program) for _ in range(3)]
    try:
        tickets = [int(number) for worker in workers for number in worker.said().split()]
    finally:
        for worker in workers:
            worker.__exit__()
    assert sorted(tickets) == list(range(1500))
    table = shared.table(NETWORKS)
    assert table.get(table.digest(HERE.packed[:3])).until > 1000
