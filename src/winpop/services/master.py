"""The master: binds nothing itself, parses nothing from the network; it keeps the workers alive.

Invariants: while it runs there are as many workers as were asked for, or one is being started; a worker that died is
replaced (its leases and sockets the kernel has freed, its census row is zeroed); when the settings of listeners or
the number of workers change, new workers serve before the old ones drain. A master that dies takes its workers with
it: they see the end of their orders.
"""

import asyncio
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
from winpop.services.world import mail_root
from winpop.store.sweep import Swept, sweep
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
    """What the service runs with: flags of this run, sockets, how many workers (None: as the setting says)."""

    home: Home
    overrides: dict[str, str]
    listeners: dict[str, socket.socket]
    endpoints: dict[str, Endpoint]
    workers: int | None


class Master:
    """Keeps the workers."""

    def __init__(self, service: Service, log: Log) -> None:
        self.service = service
        self.log = log
        self._database: Database = Sqlite(service.home)
        self._settings = settings_table.load(self._database, service.overrides)
        self._version = self._database.version()
        self._census = Census(service.home.census, 0)
        self._workers: set[_Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._pause = 0.0

    async def run(self, ready: Callable[[int], None]) -> int:
        """Start the workers, say so, keep them until SIGTERM or SIGINT, drain them. Raises `Refusal`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            started = await asyncio.gather(*(self._start() for _ in range(self._count())), return_exceptions=True)
            for outcome in started:
                if isinstance(outcome, BaseException):
                    raise outcome
            if not self._stopping.is_set():
                ready(len(self._workers))
            self._begin(self._sweep())
            self._begin(self._look())
            await self._stopping.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await self._drain(set(self._workers))
            self._database.close()
            self._census.close()
        return 0

    def _count(self) -> int:
        return self.service.workers or self._settings.threadcount

    def _stop(self) -> None:
        if self._stopping.is_set():
            for worker in self._workers:
                worker.process.send_signal(signal.SIGTERM)  # the second time: let nothing finish
        self._stopping.set()

    def _begin(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- workers ---

    async def _start(self) -> None:
        """Start one worker and wait until it accepts. Raises `Refusal` with what it says when it cannot."""
        taken = {worker.row for worker in self._workers}
        row = next(row for row in range(1, ROWS) if row not in taken)
        self._census.clear(row)
        descriptors = {name: listener.fileno() for name, listener in self.service.listeners.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "winpop.services.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=tuple(descriptors.values()),
            start_new_session=False,
        )
        worker = _Worker(process, row)
        self._workers.add(worker)
        orders = {
            "home": str(self.service.home.path),
            "overrides": self.service.overrides,
            "row": row,
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
        self._begin(self._keep(worker))

    async def _keep(self, worker: _Worker) -> None:
        """Wait for a worker's end; replace it unless it was to end."""
        status = await worker.process.wait()
        self._workers.discard(worker)
        self._census.clear(worker.row)
        if worker.drained or self._stopping.is_set():
            return
        self.log.critical("worker died", process=worker.process.pid, status=status)
        lived = time.monotonic() - worker.began
        self._pause = 0.0 if lived > _SOON else min(max(self._pause * 2, 0.5), _LONGEST_PAUSE)
        while not self._stopping.is_set() and len(self._serving()) < self._count():
            await asyncio.sleep(self._pause)
            try:
                await self._start()
            except (Refusal, OSError) as error:
                self.log.critical("worker", error=error)
                self._pause = min(max(self._pause * 2, 0.5), _LONGEST_PAUSE)

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
                if version != self._version:
                    self._version = version
                    await self._take(settings_table.load(self._database, self.service.overrides))
            except (Refusal, OSError) as error:
                self.log.critical("service", error=error)

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
        new = listening.bind({name: e for name, e in endpoints.items() if name not in kept}, settings.socketbacklog)
        old_listeners = [each for name, each in service.listeners.items() if name not in kept]
        old = set(self._workers)
        service.listeners, service.endpoints = kept | new, endpoints
        for worker in old:
            worker.drained = True
        await asyncio.gather(*(self._start() for _ in range(self._count())))
        for listener in old_listeners:
            listener.close()
        names = {name: listening.name_of(listener) for name, listener in service.listeners.items()}
        self.log.info("listening", **names, workers=len(self._serving()))
        self._begin(self._drain(old))

    # --- housekeeping ---

    async def _sweep(self) -> None:
        """Remove what crashes left behind: at the start, then once a day."""
        while True:
            try:
                swept = await asyncio.to_thread(_sweep, self.service.home, self._settings)
                if swept != Swept(0, 0, 0):
                    found = {"discarded": swept.discarded, "unfinished": swept.unfinished, "unnamed": swept.unnamed}
                    self.log.info("swept", **found)
            except (Refusal, OSError) as error:
                self.log.critical("sweep", error=error)
            await asyncio.sleep(_DAY)


def _sweep(home: Home, settings: Settings) -> Swept:
    database = Sqlite(home)
    try:
        return sweep(database, mail_root(home, settings), time.time())
    finally:
        database.close()
