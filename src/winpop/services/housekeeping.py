"""What a service does beside serving: crashes are swept up after, mail expires, room is kept for a full disk.

Invariant: one process of a service does it, the master or the worker that serves alone; it works in a thread with
connections of its own, and whatever fails is logged once and tried again. Its leases are its own too: on Linux and
Windows they exclude those of the sessions in the same process; where a process has its locks as a whole, a worker that
serves alone removes expired mail also from under a session, to which it is then a message that cannot be read.
"""

import asyncio
import time
from collections.abc import Callable

from winpop.db import room
from winpop.db.home import Home
from winpop.db.leases import Leases
from winpop.db.sqlite import Sqlite
from winpop.directory.settings import Settings
from winpop.services.world import mail_root
from winpop.store import clock
from winpop.store.expiry import Expired, expire
from winpop.store.sweep import Swept, sweep
from winpop.telemetry.log import Log
from winpop.terms.refusals import Refusal

_DAY, _HOUR = 86400.0, 3600.0
_LOOK = 10.0
"""Seconds between two looks at the room."""


async def keep_house(home: Home, settings: Callable[[], Settings], log: Log) -> None:
    """Do it for as long as the service runs: the room every few seconds, expiry every hour, the sweep every day."""
    loop = asyncio.get_running_loop()
    trouble, swept, expiry = "", 0.0, Expiry(home)
    while True:
        try:
            await asyncio.to_thread(_keep_room, home)
            if not swept or loop.time() - swept >= _DAY:
                swept = loop.time()
                _tell(await asyncio.to_thread(_sweep, home, settings()), log)
            if expiry.is_due(time.monotonic()):
                _tell_expired(await asyncio.to_thread(expiry.round, settings(), time.time(), time.monotonic()), log)
            trouble = ""
        except (Refusal, OSError) as error:
            if str(error) != trouble:
                log.critical("housekeeping", error=error)
            trouble = str(error)
        await asyncio.sleep(_LOOK)


class Expiry:
    """The rounds of what expires, once an hour. The clock is looked at also while mail is kept for ever."""

    def __init__(self, home: Home) -> None:
        """Use a home; nothing is opened yet."""
        self._home = home
        self._leases: Leases | None = None
        """Never closed: where a process has its locks as a whole, closing one file of them gives up all."""
        self._looked: float | None = None

    def is_due(self, running: float) -> bool:
        """Tell whether an hour has passed; `running` are seconds by a clock that nobody sets."""
        return self._looked is None or running - self._looked >= _HOUR

    def round(self, settings: Settings, now: float, running: float) -> Expired:
        """Do a round; `now` is in seconds since 1970. Raises `Refusal`; what expires then goes in the next round."""
        database = Sqlite(self._home)
        try:
            seen = clock.look(database, now, 0 if self._looked is None else running - self._looked)
            self._looked = running
            if settings.expire is None:
                return Expired()
            if self._leases is None:
                self._leases = Leases(self._home.leases)
            blobs, uncounted = mail_root(self._home, settings), seen.uncounted(settings.expire)
            return expire(database, blobs, self._leases, settings.expire, now, uncounted)
        finally:
            database.close()


def _keep_room(home: Home) -> None:
    database = Sqlite(home)
    try:
        room.keep(home, database)
    finally:
        database.close()


def _sweep(home: Home, settings: Settings) -> Swept:
    database = Sqlite(home)
    try:
        return sweep(database, mail_root(home, settings), time.time())
    finally:
        database.close()


def _tell(swept: Swept, log: Log) -> None:
    if swept != Swept(0, 0, 0):
        log.info("swept", discarded=swept.discarded, unfinished=swept.unfinished, unnamed=swept.unnamed)


def _tell_expired(expired: Expired, log: Log) -> None:
    if expired != Expired():
        log.info("expired", messages=expired.messages, mailboxes=expired.mailboxes, in_use=expired.in_use)
    if expired.damaged:
        log.critical("housekeeping", error="expired mail cannot be removed; winpop check tells where the damage is")
