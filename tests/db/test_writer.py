"""Group commit: one batch, one commit, and nobody pays for another's failure."""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from winpop.db import turns
from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.leases import Leases
from winpop.db.sqlite import Sqlite
from winpop.db.turns import NEXT, WRITING, Turns
from winpop.db.writer import Writer
from winpop.terms.refusals import Refusal, out_of_reach

Work = Callable[[Transaction], Any]


def add(name: str) -> Work:
    return lambda transaction: transaction.insert("INSERT INTO domain (name) VALUES (?)", name) and name


def add_then_raise(name: str, error: Exception) -> Work:
    def work(transaction: Transaction) -> None:
        add(name)(transaction)
        raise error

    return work


def meet_a_full_disk(transaction: Transaction) -> None:
    pages = transaction.number("PRAGMA page_count")
    transaction.number(f"PRAGMA max_page_count = {pages}")
    transaction.insert("INSERT INTO setting (name, value) VALUES ('large', ?)", "x" * 1_000_000)


def break_the_commit(transaction: Transaction) -> None:
    transaction.run("PRAGMA defer_foreign_keys = ON")
    transaction.insert("INSERT INTO mailbox (domain_id, name) VALUES (999, 'a')")


class Counting(Sqlite):
    """Counts the commits."""

    commits = 0

    def _commit(self) -> None:
        super()._commit()
        Counting.commits += 1


@contextlib.contextmanager
def held(home: Home, *options: Any) -> Iterator[Writer]:  # noqa: ANN401 - whatever a writer takes
    """Give a writer whose jobs wait, for all that is submitted meanwhile to be one batch; then let it finish."""
    begun, go = threading.Event(), threading.Event()
    writer = Writer(lambda: Counting(home), lambda run: run(), *options)

    def hold(_: Transaction) -> None:
        begun.set()
        go.wait(10)

    writer.submit(hold, lambda _: None)
    assert begun.wait(10)
    yield writer
    Counting.commits = -1  # that of the one that held it
    go.set()
    writer.close()


def together(home: Home, *jobs: Work) -> list[Any]:
    """Give the jobs to a writer as one batch; return their outcomes in the order in which they were told."""
    told: list[Any] = []
    with held(home) as writer:
        for number, work in enumerate(jobs):
            writer.submit(work, lambda outcome, number=number: told.append((number, outcome)))  # type: ignore[misc]
    assert [number for number, _ in told] == list(range(len(jobs)))
    return [outcome for _, outcome in told]


def names(home: Home) -> list[str]:
    database = Sqlite(home)
    found = [str(name) for (name,) in database.all("SELECT name FROM domain ORDER BY id")][2:]  # after those of `home`
    database.close()
    return found


def test_jobs_that_wait_together_share_one_commit_and_are_told_in_order(home: Home) -> None:
    wanted = [f"{number}.example" for number in range(100)]
    assert together(home, *map(add, wanted)) == wanted
    assert Counting.commits == 1
    assert names(home) == wanted


@pytest.mark.parametrize("error", [Refusal("no", "No."), ZeroDivisionError("a defect")])
def test_a_job_that_fails_is_undone_alone(home: Home, error: Exception) -> None:
    jobs = (add("a.example"), add_then_raise("b.example", error), add("c.example"))
    assert together(home, *jobs) == ["a.example", error, "c.example"]
    assert names(home) == ["a.example", "c.example"]
    assert Counting.commits == 1


def test_a_job_in_which_the_engine_fails_is_not_paid_for_by_the_others(home: Home) -> None:
    first, second, third = together(home, add("a.example"), meet_a_full_disk, add("c.example"))
    assert isinstance(second, Refusal)
    assert (first, second.code, third) == ("a.example", "disk-full", "c.example")
    assert names(home) == ["a.example", "c.example"]


def test_when_the_commit_fails_nobody_is_promised_anything(home: Home) -> None:
    outcomes = together(home, add("a.example"), break_the_commit)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert names(home) == []


def test_a_database_that_is_out_of_reach_refuses_a_batch_and_is_tried_again_for_the_next(home: Home) -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    away = [out_of_reach("database-unreachable", "Away.")] * 2  # when it starts, and at the first job

    def open_database() -> Sqlite:
        if away:
            raise away.pop()
        return Sqlite(home)

    writer = Writer(open_database, lambda run: run())
    writer.submit(add("a.example"), told.put)
    assert isinstance(told.get(timeout=10), Refusal)
    writer.submit(add("b.example"), told.put)
    writer.close()
    assert [told.get(timeout=10)] == names(home) == ["b.example"]


def test_an_outcome_is_told_after_its_commit(home: Home) -> None:
    seen: list[list[str]] = []
    writer = Writer(lambda: Sqlite(home), lambda run: run())
    for name in ("a.example", "b.example"):
        writer.submit(add(name), lambda _: seen.append(names(home)))
    writer.close()
    assert seen[0][0] == "a.example"
    assert seen[1] == ["a.example", "b.example"]


def test_close_finishes_what_was_submitted_in_however_many_batches(home: Home) -> None:
    told: list[Any] = []
    writer = Writer(lambda: Sqlite(home), lambda run: run())
    wanted = [f"{number}.example" for number in range(600)]
    for name in wanted:
        writer.submit(add(name), told.append)
    writer.close()
    assert told == wanted == names(home)


def test_one_who_fails_to_listen_keeps_nobody_else_from_hearing(home: Home) -> None:
    told: list[Any] = []
    complaints: list[Exception] = []
    begun, go = threading.Event(), threading.Event()

    def as_an_event_loop_does(run: Callable[[], None]) -> None:
        try:
            run()
        except ZeroDivisionError as error:
            complaints.append(error)

    def hold(_: Transaction) -> bool:
        begun.set()
        return go.wait(10)

    def deaf(_: object) -> None:
        raise ZeroDivisionError

    writer = Writer(lambda: Sqlite(home), as_an_event_loop_does)
    writer.submit(hold, told.append)
    assert begun.wait(10)
    writer.submit(add("a.example"), deaf)
    writer.submit(add("b.example"), told.append)
    go.set()
    writer.close()
    assert told == [True, "b.example"]
    assert len(complaints) == 1


def test_what_was_submitted_is_done_even_when_nobody_can_be_told_any_more(home: Home) -> None:
    def closed_loop(_: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    writer = Writer(lambda: Sqlite(home), closed_loop)
    for name in ("a.example", "b.example"):
        writer.submit(add(name), lambda _: None)
    writer.close()
    assert names(home) == ["a.example", "b.example"]


# --- jobs of one kind ---


def add_all(transaction: Transaction, wanted: list[str]) -> list[str]:
    transaction.many("INSERT INTO domain (name) VALUES (?)", [(name,) for name in wanted])
    return wanted


def test_jobs_of_one_kind_that_follow_each_other_are_done_by_one_call(home: Home) -> None:
    asked: list[list[str]] = []
    told: list[Any] = []

    def kept(transaction: Transaction, wanted: list[str]) -> list[str]:
        asked.append(wanted)
        return add_all(transaction, wanted)

    with held(home) as writer:
        for name in ("a.example", "b.example"):
            writer.submit_with(kept, name, told.append)
        writer.submit(add("c.example"), told.append)
        writer.submit_with(kept, "d.example", told.append)
    assert asked == [["a.example", "b.example"], ["d.example"]]
    assert told == names(home) == ["a.example", "b.example", "c.example", "d.example"]
    assert Counting.commits == 1


def test_where_one_call_for_many_fails_each_is_done_alone(home: Home) -> None:
    told: list[Any] = []
    with held(home) as writer:
        for name in ("a.example", "b.example", "a.example", "c.example"):
            writer.submit_with(add_all, name, told.append)
    assert [outcome for outcome in told if isinstance(outcome, str)] == ["a.example", "b.example", "c.example"]
    assert isinstance(told[2], Exception)
    assert names(home) == ["a.example", "b.example", "c.example"]
    assert Counting.commits == 1


def test_a_call_that_does_not_answer_for_each_keeps_nothing(home: Home) -> None:
    told: list[Any] = []
    with held(home) as writer:
        for name in ("a.example", "b.example"):
            writer.submit_with(lambda transaction, wanted: add_all(transaction, wanted)[:0], name, told.append)
    assert [type(outcome) for outcome in told] == [ValueError, ValueError]
    assert names(home) == []


# --- what is gathered, and whose turn it is ---


def test_what_is_submitted_before_soon_is_handed_over_at_once(home: Home) -> None:
    soon: list[Callable[[], None]] = []
    told: list[Any] = []
    writer = Writer(lambda: Counting(home), lambda run: run(), soon.append)
    Counting.commits = 0
    for name in ("a.example", "b.example"):
        writer.submit(add(name), told.append)
    [hand_over] = soon
    assert told == []
    hand_over()
    writer.submit(add("c.example"), told.append)
    assert len(soon) == 2
    writer.close()  # does what was gathered, too
    assert told == names(home) == ["a.example", "b.example", "c.example"]
    assert Counting.commits <= 2


def test_a_writer_waits_for_its_turn_and_takes_along_what_comes_meanwhile(home: Home) -> None:
    told: list[Any] = []
    other = Leases(home.leases)
    assert other.take(WRITING)
    Counting.commits = 0
    writer = Writer(lambda: Counting(home), lambda run: run(), None, Turns(Leases(home.leases)))
    writer.submit(add("a.example"), told.append)
    until = time.monotonic() + 10
    while other.take(NEXT):  # nobody is the next yet
        other.free(NEXT)
        assert time.monotonic() < until
    writer.submit(add("b.example"), told.append)
    assert told == []
    other.free(WRITING)
    writer.close()
    assert told == names(home) == ["a.example", "b.example"]
    assert Counting.commits == 1
    assert other.take(WRITING)
    assert other.take(NEXT)
    other.close()


def test_whoever_had_a_turn_does_not_pass_the_one_that_waits(home: Home) -> None:
    other = Leases(home.leases)
    came: list[str] = []

    def have_a_turn() -> None:
        if Turns(other)._wait_for(WRITING, time.monotonic() + 10):
            came.append("the other")
            other.free(NEXT)
            other.free(WRITING)

    with held(home, None, Turns(Leases(home.leases))) as writer:
        assert not other.take(WRITING)
        assert other.take(NEXT)
        writer.submit(lambda _: came.append("again"), lambda _: None)
        waiting = threading.Thread(target=have_a_turn)
        waiting.start()
    waiting.join(10)
    assert came == ["the other", "again"]
    other.close()


def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_PATIENCE", 0.05)


def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps can do that to a process."""

    def broken(_: float) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=time.monotonic, sleep=broken))


@pytest.mark.parametrize("trouble", [no_patience, no_sleep])
def test_a_turn_that_does_not_come_stops_nobody(
    home: Home, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    trouble(monkeypatch)
    told: list[Any] = []
    other = Leases(home.leases)
    assert other.take(WRITING)
    writer = Writer(lambda: Sqlite(home), lambda run: run(), None, Turns(Leases(home.leases)))
    for name in ("a.example", "b.example"):
        writer.submit(add(name), told.append)
    writer.close()
    assert told == names(home) == ["a.example", "b.example"]
    assert not other.take(WRITING)  # still the other's
    assert other.take(NEXT)
    other.close()
