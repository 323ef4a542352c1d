"""Group commit: one batch, one commit, and nobody pays for another's failure."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
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
    """Counts the transactions that were begun."""

    begun = 0

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        Counting.begun += 1
        with super().write() as transaction:
            yield transaction


def together(home: Home, *jobs: Work) -> list[Any]:
    """Give the jobs to a writer as one batch; return their outcomes in the order in which they were told."""
    told: list[Any] = []
    begun, go = threading.Event(), threading.Event()
    writer = Writer(lambda: Counting(home), lambda run: run())

    def hold(_: Transaction) -> None:
        begun.set()
        go.wait(10)

    writer.submit(hold, lambda _: None)
    assert begun.wait(10)
    Counting.begun = 0
    for number, work in enumerate(jobs):
        writer.submit(work, lambda outcome, number=number: told.append((number, outcome)))  # type: ignore[misc]
    go.set()
    writer.close()
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
    assert Counting.begun == 1
    assert names(home) == wanted


@pytest.mark.parametrize("error", [Refusal("no", "No."), ZeroDivisionError("a defect")])
def test_a_job_that_fails_is_undone_alone(home: Home, error: Exception) -> None:
    jobs = (add("a.example"), add_then_raise("b.example", error), add("c.example"))
    assert together(home, *jobs) == ["a.example", error, "c.example"]
    assert names(home) == ["a.example", "c.example"]
    assert Counting.begun == 1


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
