"""What a service does beside serving: what crashes left behind is removed, room is kept on the disk for bad days.

Invariant: one process of a service does it, the master or the worker that serves alone; it works in a thread with
connections of its own, and whatever fails is logged once and tried again.
"""

import asyncio
import time
from collections.abc import Callable

from winpop.db import room
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory.settings import Settings
from winpop.services.world import mail_root
from winpop.store.sweep import Swept, sweep
from winpop.telemetry.log import Log
from winpop.terms.refusals import Refusal

_DAY = 86400.0
_LOOK = 10.0
"""Seconds between two looks at the room."""


async def keep_house(home: Home, settings: Callable[[], Settings], log: Log) -> None:
    """Do it for as long as the service runs: the room every few seconds, the sweep at the start and once a day."""
    trouble, swept = "", 0.0
    loop = asyncio.get_running_loop()
    while True:
        try:
            await asyncio.to_thread(_keep_room, home)
            if not swept or loop.time() - swept >= _DAY:
                swept = loop.time()
                _tell(await asyncio.to_thread(_sweep, home, settings()), log)
            trouble = ""
        except (Refusal, OSError) as error:
            if str(error) != trouble:
                log.critical("housekeeping", error=error)
            trouble = str(error)
        await asyncio.sleep(_LOOK)


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
