"""Tables that workers share: found by all, bounded, and never half of anything, whoever dies (threats.md A1, A7)."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.workers import Worker
from winpop.auth import shared as module
from winpop.auth.shared import NETWORKS, PAIRS, REMEMBERED, Shared, Table
from winpop.terms.refusals import Kind, Refusal

ONE, OTHER = b"\x01" * 40, b"\x02" * 40


@pytest.fixture
def descriptor() -> Iterator[int]:
    """Shared memory as the first process of a service makes it."""
    made = Shared.make()
    yield made
    os.close(made)


@pytest.fixture
def shared(descriptor: int) -> Iterator[Shared]:
    opened = Shared(descriptor)
    yield opened
    opened.close()


@pytest.fixture
def pairs(shared: Shared) -> Table:
    return shared.table(PAIRS)


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """One table for all examples of a law."""
    made = Shared.make()
    opened = Shared(made)
    yield opened.table(REMEMBERED)
    opened.close()
    os.close(made)


def put(table: Table, digest: bytes, until: float, value: bytes = ONE) -> None:
    with table.edit(digest) as entry:
        entry.until, entry.value = until, value


def meeting(count: int) -> list[bytes]:
    """Return digests that meet in one bucket."""
    return [bytes(8) + number.to_bytes(8, "big") for number in range(1, count + 1)]


def test_what_one_process_writes_another_finds(descriptor: int, pairs: Table) -> None:
    digest = pairs.digest(b"alice", b"\x7f")
    program = "e = shared.table(PAIRS).get(shared.table(PAIRS).digest(b'alice', b'\\x7f')); say(e.until, e.value[0])"
    put(pairs, digest, 7.5)
    with Worker(descriptor, program) as worker:
        assert worker.said() == "7.5 1"


def test_what_is_not_there_is_all_zero_and_reading_it_makes_nothing(pairs: Table) -> None:
    digest = pairs.digest(b"alice")
    with pairs.edit(digest) as entry:
        assert (entry.until, entry.value) == (0.0, bytes(40))
    assert pairs.get(digest) == entry
    assert pairs._map[pairs._place(digest) :][: pairs._size] == bytes(pairs._size)


def test_until_zero_takes_an_entry_out(pairs: Table) -> None:
    digest = pairs.digest(b"alice")
    put(pairs, digest, 5.0)
    put(pairs, digest, 0.0)
    assert pairs._map[pairs._place(digest) :][: pairs._size] == bytes(pairs._size)


def test_an_exception_leaves_an_entry_as_it_was_and_unlocked(descriptor: int, pairs: Table) -> None:
    digest = pairs.digest(b"alice")
    put(pairs, digest, 5.0)

    def fail() -> None:
        with pairs.edit(digest) as entry:
            entry.until = 9.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert pairs.get(digest).until == 5.0
    program = "t = shared.table(PAIRS)\nwith t.edit(t.digest(b'alice')) as e: e.until = 6.0\nsay('done')"
    with Worker(descriptor, program) as worker:
        assert worker.said() == "done"
    assert pairs.get(digest).until == 6.0


def test_each_start_and_each_table_has_digests_of_its_own(shared: Shared, pairs: Table) -> None:
    again = Shared.make()
    try:
        other = Shared(again)
        digests = {table.digest(b"alice") for table in (pairs, shared.table(NETWORKS), other.table(PAIRS))}
        assert len(digests) == 3
        assert shared.table(PAIRS).digest(b"alice") in digests
        other.close()
    finally:
        os.close(again)


@given(one=st.lists(st.binary(max_size=3), max_size=4), other=st.lists(st.binary(max_size=3), max_size=4))
def test_only_the_same_parts_have_the_same_digest(table: Table, one: list[bytes], other: list[bytes]) -> None:
    assert (table.digest(*one) == table.digest(*other)) == (one == other)


def test_in_a_full_bucket_what_is_worth_nothing_soonest_makes_room(pairs: Table) -> None:
    heavy, *light = meeting(3000)
    put(pairs, heavy, 1000.0)
    for number, digest in enumerate(light):
        put(pairs, digest, 100.0 + number / 10)
        assert pairs.get(digest).until == 100.0 + number / 10  # a newcomer has its place
    assert pairs.get(heavy).until == 1000.0
    assert sum(pairs.get(digest).until > 0 for digest in light) == 7


def test_the_memory_stays_as_large_as_it_was_made(descriptor: int, shared: Shared) -> None:
    size = os.fstat(descriptor).st_size
    assert size < 16 << 20
    assert os.fstat(descriptor).st_blocks * 512 >= size  # written, not only made long
    table = shared.table(REMEMBERED)
    for number in range(20_000):
        put(table, table.digest(number.to_bytes(8, "big")), 1.0, b"")
    assert os.fstat(descriptor).st_size == size


@pytest.mark.parametrize("cut", range(1, 72, 5))
def test_an_entry_of_two_writes_is_none_and_its_place_is_used_again(pairs: Table, cut: int) -> None:
    digest = meeting(1)[0]
    put(pairs, digest, 5.0, ONE)
    place = pairs._place(digest)
    old = pairs._map[place : place + pairs._width]
    put(pairs, digest, 6.0, OTHER)
    new = pairs._map[place : place + pairs._width]
    torn = new[:cut] + old[cut:]
    pairs._map[place : place + pairs._width] = torn
    found = pairs.get(digest)
    assert (found.until, found.value) == ((5.0, ONE) if torn == old else (0.0, bytes(40)))
    put(pairs, digest, 7.0, OTHER)
    assert pairs.get(digest).until == 7.0
    for other in meeting(8)[1:]:
        put(pairs, other, 8.0)
    assert all(pairs.get(known).until for known in meeting(8))


def test_an_entry_with_any_octet_changed_is_none(shared: Shared) -> None:
    table = shared.table(REMEMBERED)
    digest = table.digest(b"alice")
    put(table, digest, 5.0, b"")
    place = table._place(digest)
    for at in range(table._width):
        table._map[place + at] ^= 1
        assert table.get(digest).until == 0.0
        table._map[place + at] ^= 1
    assert table.get(digest).until == 5.0


def test_an_entry_is_no_entry_of_another_table_or_digest(pairs: Table) -> None:
    one, other = meeting(2)
    put(pairs, one, 5.0)
    place = pairs._place(one)
    octets = pairs._map[place : place + pairs._width]
    pairs._map[place : place + pairs._width] = other + octets[16:]
    assert pairs.get(other).until == 0.0


def test_a_digest_that_stands_inside_of_another_entry_is_not_found_there(pairs: Table) -> None:
    one, other = meeting(2)
    put(pairs, one, 5.0, other + bytes(24))
    assert pairs.get(other).until == 0.0
    put(pairs, other, 6.0)
    assert (pairs.get(one).until, pairs.get(other).until) == (5.0, 6.0)


FLIPS = """
t = shared.table(PAIRS)
d = t.digest(b'one entry')
say('ready')
while True:
    for octet in b'\\x01\\x02':
        with t.edit(d) as e: e.until, e.value = float(octet), bytes([octet]) * 40
"""


def test_a_reader_sees_one_write_or_another_while_two_processes_write(descriptor: int, pairs: Table) -> None:
    digest = pairs.digest(b"one entry")
    put(pairs, digest, 1.0)
    with Worker(descriptor, FLIPS) as one, Worker(descriptor, FLIPS) as other:
        assert (one.said(), other.said()) == ("ready", "ready")
        seen: set[tuple[float, bytes]] = set()
        began = time.monotonic()
        while time.monotonic() < began + (1 if len(seen) > 1 else 30):
            entry = pairs.get(digest)
            seen.add((entry.until, entry.value))
        assert seen == {(1.0, ONE), (2.0, OTHER)}  # never nothing, too: a penalty is not overlooked


COUNTS = """
t = shared.table(NETWORKS)
say('ready')
wait()
for n in range(6000):
    with t.edit(t.digest(bytes([n % 3]))) as e: e.until += 1
say('done')
"""


def test_no_update_of_several_processes_is_lost(descriptor: int, shared: Shared) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(descriptor, COUNTS)) for _ in range(3)]
        assert [worker.said() for worker in workers] == ["ready"] * 3
        for worker in workers:
            worker.go()
        assert [worker.said() for worker in workers] == ["done"] * 3
    table = shared.table(NETWORKS)
    assert [table.get(table.digest(bytes([key]))).until for key in range(3)] == [6000.0] * 3


HOLDS = """
t = shared.table(PAIRS)
with t.edit(t.digest(b'alice')) as e:
    e.until = 77.0
    say('holds')
    wait()
say('done')
wait()
"""


def test_a_process_that_holds_a_lock_is_waited_for(
    descriptor: int, pairs: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 60.0)
    with Worker(descriptor, HOLDS) as worker:
        assert worker.said() == "holds"
        monkeypatch.setattr(time, "sleep", lambda _: worker.go())  # only once we wait does it go on
        with pairs.edit(pairs.digest(b"alice")) as entry:
            assert entry.until == 77.0


def test_a_process_that_dies_with_a_lock_holds_nobody_up(
    descriptor: int, pairs: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 60.0)
    with Worker(descriptor, HOLDS) as worker:
        assert worker.said() == "holds"
        worker.signal(signal.SIGKILL)
        worker.process.wait()
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("the lock is not free"))
        put(pairs, pairs.digest(b"alice"), 5.0)
    assert pairs.get(pairs.digest(b"alice")).until == 5.0


def test_a_process_that_is_stopped_with_a_lock_holds_others_up_for_a_moment_only(
    descriptor: int, pairs: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    with Worker(descriptor, HOLDS) as worker:
        assert worker.said() == "holds"
        worker.signal(signal.SIGSTOP)
        put(pairs, pairs.digest(b"alice"), 5.0)
        assert pairs.get(pairs.digest(b"alice")).until == 5.0
        worker.signal(signal.SIGCONT)
        worker.go()
        assert worker.said() == "done"
        put(pairs, pairs.digest(b"alice"), 6.0)
    assert pairs.get(pairs.digest(b"alice")).until == 6.0


def test_a_process_that_is_killed_while_it_writes_leaves_whole_entries_or_none(descriptor: int, pairs: Table) -> None:
    digest = pairs.digest(b"one entry")
    chance = random.Random(7)
    for _ in range(8):
        with Worker(descriptor, FLIPS) as worker:
            assert worker.said() == "ready"
            time.sleep(chance.random() / 20)  # when it is killed is left to chance
            worker.signal(signal.SIGKILL)
            worker.process.wait()
        entry = pairs.get(digest)
        assert (entry.until, entry.value) in {(1.0, ONE), (2.0, OTHER), (0.0, bytes(40))}
        put(pairs, digest, 1.0)
        assert pairs.get(digest).until == 1.0


def test_without_memory_the_refusal_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", none)
    with pytest.raises(Refusal) as caught:
        Shared.make()
    assert (caught.value.code, caught.value.kind) == ("no-memory", Kind.OUT_OF_REACH)
    assert "No space left on device" in caught.value.sentence


def test_a_temporary_file_serves_where_there_is_no_memory_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    made = Shared.make()
    try:
        shared = Shared(made)
        table = shared.table(PAIRS)
        put(table, table.digest(b"alice"), 5.0)
        assert table.get(table.digest(b"alice")).until == 5.0
        shared.close()
    finally:
        os.close(made)
