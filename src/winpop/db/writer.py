"""Group commit: many small changes share one transaction and so one synchronisation of the disk.

While one commit waits for the disk the next batch gathers by itself; there is no artificial delay. Invariant:
a job's outcome is told only after the commit it was part of; a job that fails is undone alone and the others
of its batch are not touched.

A batch is first done as if nothing could fail; where something does, all of it is undone and each job is done again in
a part of its own. So a job may run more than once, and changes nothing but the database. Jobs of one kind that follow
each other are done by one call (`submit_with`), which can share statements.

What an event loop took from its sockets at once is handed over at once (`soon`), and what comes in while a writer waits
for its turn belongs to its batch: 64 connections were served 12 % quicker by the first.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from queue import SimpleQueue
from typing import Any, TypeVar

from winpop.db.contract import ENGINE_CODES, Database, Transaction
from winpop.db.turns import Turns
from winpop.terms.refusals import Refusal

A = TypeVar("A")
T = TypeVar("T")
_LARGEST_BATCH = 256

Run = Callable[[Callable[[], None]], object]
"""Runs a function in the thread that submits, some time soon."""


@dataclass(slots=True)
class _Job:
    work: Callable[[Transaction, list[Any]], Sequence[Any]]
    argument: Any
    then: Callable[[Any], None]
    outcome: Any = None


class Writer:
    """A thread with a database connection of its own, to which changes are handed."""

    def __init__(
        self, open_database: Callable[[], Database], notify: Run, soon: Run | None = None, turns: Turns | None = None
    ) -> None:
        """Start. `notify` is called in the writer's thread and runs a function in the one where outcomes are wanted.

        That is the thread that submits; in it `soon` runs one when what is going on is done (`call_soon_threadsafe`
        and `call_soon` of an event loop). `turns` are for a home where other processes write too.
        """
        self._open = open_database
        self._notify = notify
        self._soon = soon
        self._turns = turns
        self._gathered: list[_Job] = []
        self._queue: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transaction], T], then: Callable[[T | Exception], None]) -> None:
        """Run `work` in a transaction; after its commit call `then` with the result, or with what went wrong."""
        self._gather(_Job(_each, work, then))

    def submit_with(
        self,
        work: Callable[[Transaction, list[A]], Sequence[T]],
        argument: A,
        then: Callable[[T | Exception], None],
    ) -> None:
        """Run `work` for this argument and those that came with the same `work` beside it; it returns their results.

        Where it fails for many it is asked again for each.
        """
        self._gather(_Job(work, argument, then))

    def close(self) -> None:
        """Do what was submitted, then stop."""
        self._hand_over()
        self._queue.put(None)
        self._thread.join()

    def _gather(self, job: _Job) -> None:
        self._gathered.append(job)
        if self._soon is None:
            self._hand_over()
        elif len(self._gathered) == 1:
            self._soon(self._hand_over)

    def _hand_over(self) -> None:
        if self._gathered:
            jobs, self._gathered = self._gathered, []
            self._queue.put(jobs)

    # --- the writer's thread ---

    def _run(self) -> None:
        database: Database | None = None
        with contextlib.suppress(Refusal):  # the first job tries again
            database = self._open()  # now: later there may be no descriptor left for it
        going = True
        while going:
            waited = self._queue.empty()
            batch = self._queue.get()
            if batch is None:
                break
            try:
                if self._turns is not None:
                    self._turns.take(at_once=waited)
                going = self._complete(batch)
                database = database or self._open()
                self._commit(database, batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the waiting sessions must hear of it
                for job in batch:
                    job.outcome = error
            if self._turns is not None:
                self._turns.give_back()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits to be told
                self._notify(functools.partial(_tell, batch))
        if database is not None:
            database.close()

    def _complete(self, batch: list[_Job]) -> bool:
        """Add to a batch what came meanwhile; tell whether more may come."""
        while len(batch) < _LARGEST_BATCH and not self._queue.empty():
            more = self._queue.get()
            if more is None:
                return False
            batch += more
        return True

    def _commit(self, database: Database, batch: list[_Job]) -> None:
        """Do a batch in one transaction."""
        try:
            with database.write() as transaction:
                _do(transaction, batch)
        except _JobFailedError as failure:
            if len(batch) == 1:
                batch[0].outcome = failure.__cause__
            else:
                self._commit_parts(database, batch)
        except Refusal as refusal:
            # The commit itself failed: it is not tried again (see `sqlite`), and none of the batch is promised.
            for job in batch:
                job.outcome = refusal

    def _commit_parts(self, database: Database, batch: list[_Job]) -> None:
        """Do each job of a batch in a part of one transaction, or singly where the engine failed in one of them."""
        try:
            with database.write() as transaction:
                for job in batch:
                    try:
                        with transaction.part():
                            _do(transaction, [job])
                    except _JobFailedError as failure:
                        job.outcome = failure.__cause__  # its session hears of it; the others are not to blame
                        if isinstance(job.outcome, Refusal) and job.outcome.code in ENGINE_CODES:
                            raise _EngineFailedError from failure
        except _EngineFailedError:
            for job in batch:
                self._commit(database, [job])
        except Refusal as refusal:
            for job in batch:
                job.outcome = refusal


class _JobFailedError(Exception):
    """A job failed, for the reason that is its cause."""


class _EngineFailedError(Exception):
    """A job met a failing engine: the transaction is lost, the other jobs are not to blame."""


def _do(transaction: Transaction, jobs: list[_Job]) -> None:
    """Do jobs, those that follow each other and are of one kind by one call."""
    for work, alike in groupby(jobs, attrgetter("work")):
        group = list(alike)
        try:
            outcomes = work(transaction, [job.argument for job in group])
        except Exception as error:
            raise _JobFailedError from error
        for job, outcome in zip(group, outcomes, strict=True):
            job.outcome = outcome


def _each(transaction: Transaction, works: list[Callable[[Transaction], Any]]) -> list[Any]:
    return [work(transaction) for work in works]


def _tell(batch: list[_Job]) -> None:
    """Tell each its outcome, in order; where one fails to listen, the others hear theirs all the same."""
    failure: Exception | None = None
    for job in batch:
        try:
            job.then(job.outcome)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised once all were told
            failure = error
    if failure is not None:
        raise failure
