"""The master: binds nothing itself, parses nothing from the network; it keeps the workers alive.

Invariants: while it runs there are as many workers as were asked for, or one is being started; a worker that died is
replaced (its leases and sockets the kernel has freed, its census row is zeroed); when the settings of listeners or
the number of workers change, new workers serve before the old ones drain. A master that dies takes its workers with
it: they see the end of their orders.
"""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import settings as settings_table
from winpop.directory.settings import Settings
from winpop.services import listeners as listening
from winpop.services.census import ROWS, Census
from winpop.services.connection import where
from winpop.services.housekeeping import keep_house
from winpop.services.world import LogonParts
from winpop.telemetry.log import Log
from winpop.terms.endpoints import Endpoint
from winpop.terms.refusals import Kind, Refusal, out_of_reach

if TYPE_CHECKING:
    from winpop.db.contract import Database

_LOOK = 0.3
_SOON = 1.0
"""Seconds: a worker that lived no longer is replaced after a pause, which grows to `_LONGEST_PAUSE`."""
_LONGEST_PAUSE = 10.0
_DAY = 86400.0
_GRACE = 5.0
"""Seconds that a worker has, beyond its drain time, before it is killed."""


@dataclass(slots=True, eq=False)
class _Worker:
    process: asyncio.subprocess.Process
    row: int
    began: float = field(default_factory=time.monotonic)
    drained: bool = False


@dataclass(slots=True)
class Service:
    """What the service runs with: flags of this run, sockets, the census' descriptor.

    `workers` is None where the setting says how many there are.
    """

    home: Home
    overrides: dict[str, str]
    listeners: dict[str, socket.socket]
    endpoints: dict[str, Endpoint]
    census: int
    workers: int | None
    parts: LogonParts


class Master:
    """Keeps the workers."""

    def __init__(self, service: Service, log: Log) -> None:
        self.service = service
        self.log = log
        self._database: Database = Sqlite(service.home)
        self._settings = settings_table.load(self._database, service.overrides)
        self._version = self._database.version()
        self._census = Census(service.census, 0)
        self._workers: set[_Worker] = set()
        self._rows: set[int] = set()
        """The rows of the census that belong to a worker, or to one that is being started."""
        self._filling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._pause = 0.0
        self._trouble: str | None = None

    async def run(self, ready: Callable[[int], None]) -> int:
        """Start the workers, say so, keep them until SIGTERM or SIGINT, drain them. Raises `Refusal`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            await self._start_all(self._count())
            if not self._stopping.is_set():
                ready(len(self._workers))
            self._begin(keep_house(self.service.home, lambda: self._settings, self.log))
            self._begin(self._look())
            await self._stopping.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            for listener in self.service.listeners.values():
                listener.close()  # nobody waits in vain for a service that stops
            await self._drain(set(self._workers))
            self._database.close()
            self._census.close()
        return 0

    def _count(self) -> int:
        return self.service.workers or self._settings.threadcount

    def _stop(self) -> None:
        if self._stopping.is_set():
            for worker in self._workers:  # the second time: let nothing finish
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()
        self._stopping.set()

    def _begin(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- workers ---

    async def _start_all(self, count: int) -> None:
        """Start so many workers together. Raises `Refusal`, when each has started or failed."""
        outcomes = await asyncio.gather(*(self._start() for _ in range(count)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _start(self) -> _Worker:
        """Start one worker and wait until it accepts. Raises `Refusal` with what it says when it cannot."""
        row = next(row for row in range(1, ROWS) if row not in self._rows)
        self._rows.add(row)
        try:
            worker = await self._started(row)
        except BaseException:
            self._give_back(row)
            raise
        self._begin(self._keep(worker))
        return worker

    def _give_back(self, row: int) -> None:
        self._census.clear(row)
        self._rows.discard(row)

    async def _started(self, row: int) -> _Worker:
        descriptors = {name: listener.fileno() for name, listener in self.service.listeners.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no module out of the directory in which somebody happened to start the service
            "-m",
            "winpop.services.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(*descriptors.values(), self.service.census, *self.service.parts.descriptors),
            start_new_session=False,
        )
        worker = _Worker(process, row)
        self._workers.add(worker)
        orders = {
            "home": str(self.service.home.path),
            "overrides": self.service.overrides,
            "census": self.service.census,
            "row": row,
            "shared": self.service.parts.shared,
            "accounts": self.service.parts.accounts,
            "listeners": descriptors,
        }
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        said = await process.stdout.readline()
        answer = json.loads(said) if said else {}
        if "ready" not in answer:
            await process.wait()
            self._workers.discard(worker)
            if "code" in answer:
                raise Refusal(answer["code"], answer["sentence"], Kind(answer["kind"]))
            raise out_of_reach("worker-died", "A worker process ended before it could serve; its log says why.")
        return worker

    async def _keep(self, worker: _Worker) -> None:
        """Wait for a worker's end; replace it unless it was to end."""
        status = await worker.process.wait()
        self._workers.discard(worker)
        self._give_back(worker.row)
        if worker.drained or self._stopping.is_set():
            return
        self.log.critical("worker died", process=worker.process.pid, status=status)
        lived = time.monotonic() - worker.began
        async with self._filling:  # whoever is first replaces all that died together
            failed = lived < _SOON
            while (missing := self._count() - len(self._serving())) > 0 and not self._stopping.is_set():
                self._pause = min(max(self._pause * 2, 0.5), _LONGEST_PAUSE) if failed else 0.0
                await asyncio.sleep(self._pause)
                try:
                    await self._start_all(missing)
                except (Refusal, OSError, ValueError) as error:
                    self.log.critical("worker", error=error)
                    failed = True

    def _serving(self) -> list[_Worker]:
        return [worker for worker in self._workers if not worker.drained]

    async def _drain(self, workers: set[_Worker]) -> None:
        for worker in workers:
            worker.drained = True
            if worker.process.stdin is not None:
                worker.process.stdin.close()
        try:
            async with asyncio.timeout(self._settings.draintime + _GRACE):
                await asyncio.gather(*(worker.process.wait() for worker in workers))
        except TimeoutError:
            for worker in workers:
                if worker.process.returncode is None:
                    self.log.critical("worker killed", process=worker.process.pid)
                    worker.process.kill()
                    await worker.process.wait()

    # --- changes ---

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            try:
                version = self._database.version()
                if version == self._version:
                    continue
                self._version = version
                await self._take(settings_table.load(self._database, self.service.overrides))
                self._trouble = None
            except (Refusal, OSError) as error:
                self._say("service", str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next change has to be seen
                self._say("defect", f"{type(error).__name__} {where(error)}")

    def _say(self, event: str, trouble: str) -> None:
        """Log what hinders, once: it is tried again with every commit."""
        if trouble != self._trouble:
            self.log.critical(event, error=trouble)
        self._trouble = trouble

    async def _take(self, settings: Settings) -> None:
        """Take changed settings: other listeners or another number of workers mean new workers."""
        before, self._settings = self._settings, settings
        self.log.level = settings.logging
        endpoints = listening.wanted(settings)
        service = self.service
        same = endpoints == service.endpoints and settings.socketbacklog == before.socketbacklog
        if same and (service.workers or settings.threadcount == before.threadcount):
            return
        kept = {name: service.listeners[name] for name, e in endpoints.items() if service.endpoints.get(name) == e}
        going = [listener for name, listener in service.listeners.items() if name not in kept]
        new: dict[str, socket.socket] = {}
        async with self._filling:
            old, old_listeners, old_endpoints = set(self._serving()), service.listeners, service.endpoints
            try:
                new = listening.bind(
                    {name: e for name, e in endpoints.items() if name not in kept}, settings.socketbacklog, going
                )
                service.listeners, service.endpoints = kept | new, endpoints
                await self._start_all(self._count())
            except BaseException:
                # All stays as it was; with the next change that is seen it is tried again.
                service.listeners, service.endpoints, self._settings = old_listeners, old_endpoints, before
                for listener in new.values():
                    listener.close()
                self._begin(self._drain(set(self._serving()) - old))
                raise
            for worker in old:
                worker.drained = True
        for listener in going:
            listener.close()
        names = {name: listening.name_of(listener) for name, listener in service.listeners.items()}
        self.log.info("listening", **names, workers=len(self._serving()))
        self._begin(self._drain(old))
