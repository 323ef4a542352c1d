"""Group commit: many small changes share one transaction and so one synchronisation of the disk.

While one commit waits for the disk the next batch gathers by itself; there is no artificial delay. Invariant:
a job's outcome is told only after the commit it was part of; a job that fails is undone alone and the others
of its batch are not touched.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from winpop.db.contract import ENGINE_CODES, Database, Transaction
from winpop.terms.refusals import Refusal

T = TypeVar("T")
_LARGEST_BATCH = 256


@dataclass(slots=True)
class _Job:
    work: Callable[[Transaction], Any]
    then: Callable[[Any], None]
    outcome: Any = None


class Writer:
    """A thread with a database connection of its own, to which changes are handed."""

    def __init__(self, open_database: Callable[[], Database], notify: Callable[[Callable[[], None]], object]) -> None:
        """Start. `notify` runs a function in the thread where outcomes are wanted (`call_soon_threadsafe`)."""
        self._open = open_database
        self._notify = notify
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transaction], T], then: Callable[[T | Exception], None]) -> None:
        """Run `work` in a transaction; after its commit call `then` with the result, or with what went wrong."""
        self._queue.put(_Job(work, then))

    def close(self) -> None:
        """Do what was submitted, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        database: Database | None = None
        with contextlib.suppress(Refusal):  # the first job tries again
            database = self._open()  # now: later there may be no descriptor left for it
        going = True
        while going:
            batch: list[_Job] = []
            job = self._queue.get()
            while job is not None:
                batch.append(job)
                if len(batch) == _LARGEST_BATCH or self._queue.empty():
                    break
                job = self._queue.get()
            going = job is not None
            if batch:
                try:
                    database = database or self._open()
                    self._commit(database, batch)
                except Exception as error:  # noqa: BLE001 - whatever it is, the waiting sessions must hear of it
                    for job in batch:
                        job.outcome = error
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits to be told
                    self._notify(lambda batch=batch: _tell(batch))  # type: ignore[misc]
        if database is not None:
            database.close()

    def _commit(self, database: Database, batch: list[_Job]) -> None:
        """Do the jobs of a batch in one transaction, or singly where the engine failed in one of them."""
        try:
            with database.write() as transaction:
                for job in batch:
                    try:
                        with transaction.part():
                            job.outcome = job.work(transaction)
                    except Refusal as refusal:
                        if refusal.code in ENGINE_CODES:
                            raise _EngineFailedError from refusal
                        job.outcome = refusal
                    except Exception as defect:  # noqa: BLE001 - its session hears of it; the others are not to blame
                        job.outcome = defect
        except _EngineFailedError as error:
            if len(batch) == 1:
                batch[0].outcome = error.__cause__
                return
            for job in batch:
                self._commit(database, [job])
        except Refusal as refusal:
            # The commit itself failed: it is not tried again (see `sqlite`), and none of the batch is promised.
            for job in batch:
                job.outcome = refusal


class _EngineFailedError(Exception):
    """A job met a failing engine: the transaction is lost, the other jobs are not to blame."""


def _tell(batch: list[_Job]) -> None:
    """Tell each its outcome, in order; where one fails to listen, the others hear theirs all the same."""
    with contextlib.ExitStack() as stack:
        for job in reversed(batch):
            stack.callback(job.then, job.outcome)
