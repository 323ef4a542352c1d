"""The parts that a worker works with, built by hand.

Invariant: everything here belongs to one worker process and one event loop; between workers there are only the
database, the files of the home, the leases and the census.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from winpop.auth.methods import PasswordFile
from winpop.db.home import Home
from winpop.db.leases import Leases
from winpop.db.sqlite import Sqlite
from winpop.db.writer import Writer
from winpop.directory import settings as settings_table
from winpop.services.census import Census
from winpop.store.blobs import Blobs
from winpop.telemetry.log import Log, LogThread
from winpop.terms.refusals import Refusal, out_of_reach, readable

T = TypeVar("T")
_ROOM_HOLDS = 1.0
"""Seconds between two looks at the free disk."""


class World:
    """What a worker's connections use. `reader` is for the event loop's own thread, `writer` for changes."""

    def __init__(self, home: Home, overrides: dict[str, str], census: Census, loop: asyncio.AbstractEventLoop) -> None:
        """Open everything. Raises `Refusal`."""
        self.home = home
        self.loop = loop
        self._log_thread = LogThread()
        self.log = Log(write=self._log_thread.write)
        self.reader = Sqlite(home)
        with contextlib.suppress(Refusal), self.reader.write():
            pass  # a file that could only be opened for reading shows now, and is opened anew
        self._overrides = overrides
        self.settings = settings_table.load(self.reader, overrides)
        self.generation = self.changes()
        self.take_settings()
        self.leases = Leases(home.leases)
        self.blobs = mail_root(home, self.settings)
        if not self.blobs.is_made():
            raise mail_root_missing(self.blobs)
        self.census = census
        self.writer = Writer(lambda: Sqlite(home), loop.call_soon_threadsafe)
        self.files = ThreadPoolExecutor(4, "files")
        self._hashing = ThreadPoolExecutor(os.cpu_count() or 1, "hashing")
        self._checks = 0
        self._room = True
        self._look_for_room = 0.0
        self.method = PasswordFile(self.reader, self._check)

    def changes(self) -> int:
        """Return the number of the last administrative change: the change feed."""
        return self.reader.number("SELECT max(id) FROM audit")

    def take_settings(self) -> None:
        """Take the settings as they are now; they hold for what begins from now on."""
        self.settings = settings_table.load(self.reader, self._overrides)
        self.log.level = self.settings.logging

    def has_room(self) -> bool:
        """Tell whether mail may come in: there is more free disk than is kept for everything else."""
        now = self.loop.time()
        if now >= self._look_for_room:
            self._look_for_room = now + _ROOM_HOLDS
            try:
                free = min(shutil.disk_usage(path).free for path in (self.home.path, self.blobs.root))
            except OSError as error:
                self.log.critical("disk", error=error)
                free = 0
            if (free >= self.settings.diskreserve) != self._room:
                self._room = not self._room
                self.log.critical("disk", free=free, mail="comes in again" if self._room else "is refused for now")
        return self._room

    def in_thread(self, work: Callable[[], T], then: Callable[[T | BaseException], None]) -> None:
        """Do blocking work on files in a thread, then call `then` in the loop with its result or its error."""

        def done(future: Future[T]) -> None:
            self.loop.call_soon_threadsafe(lambda: then(future.exception() or future.result()))

        self.files.submit(work).add_done_callback(done)

    async def _check(self, verify: Callable[[], bool]) -> bool:
        """Check a password in a thread. Raises `TimeoutError` when too many wait already."""
        if self._checks >= self.settings.logonqueue:
            raise TimeoutError
        self._checks += 1
        try:
            return await self.loop.run_in_executor(self._hashing, verify)
        finally:
            self._checks -= 1

    def close(self) -> None:
        """Finish what was begun and give everything back."""
        self.files.shutdown()
        self._hashing.shutdown(cancel_futures=True)  # nobody is there any more to be told
        self.writer.close()
        self.reader.close()
        self.leases.close()
        self.census.close()
        self.log.defer = None
        self.log.flush()
        self._log_thread.close()


def mail_root_missing(blobs: Blobs) -> Refusal:
    """Make the refusal for a mail root that was made and is not there."""
    return out_of_reach(
        "mailroot-missing",
        f"The mail root {readable(str(blobs.root))} is not there, or is empty; mount its disk, or bring it back from a "
        "backup.",
    )


def mail_root(home: Home, settings: settings_table.Settings) -> Blobs:
    """Return the mail root that the settings name."""
    return Blobs(Path(settings.mailroot) if settings.mailroot else home.mail)
