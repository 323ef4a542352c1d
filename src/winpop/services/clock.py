"""When to look at a connection again: one timer for all of them.

Invariant: whoever is watched is looked at no sooner than asked, and at most `TICK` later than the loop can; who is not
watched, never. A place in here takes less than a timer of the loop for each connection: no object, no heap to order.
"""

import asyncio
from typing import Protocol

TICK = 0.25
"""Seconds between two looks."""


class Watched(Protocol):
    """What has a clock."""

    due: int
    """Its place here; 0 while it is not watched."""

    def look_at_clock(self, now: float) -> None:
        """See whether time is up, and ask to be watched again."""
        ...


class Clock:
    """The connections of a worker by the tick in which they are to be looked at."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at: dict[int, set[Watched]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, watched: Watched, due: float) -> None:
        """Look at `watched` at the loop's time `due`, and not when it was asked before."""
        self.forget(watched)
        watched.due = max(int(due / TICK), self._tick()) + 1
        self._at.setdefault(watched.due, set()).add(watched)
        if self._timer is None:
            self._wait()

    def forget(self, watched: Watched) -> None:
        """Look at it no more."""
        if watched.due:
            self._at[watched.due].discard(watched)
            watched.due = 0

    def _tick(self) -> int:
        return int(self._loop.time() / TICK)

    def _wait(self) -> None:
        self._timer = self._loop.call_at((self._tick() + 1) * TICK, self._look)

    def _look(self) -> None:
        """Look at all whose tick has come; with nobody left no timer runs."""
        self._wait()
        now, tick = self._loop.time(), self._tick()
        for at in sorted(at for at in self._at if at <= tick):
            waiting = self._at[at]
            while waiting:  # one that is looked at may have others forgotten
                watched = waiting.pop()
                watched.due = 0
                watched.look_at_clock(now)
            del self._at[at]
        if not self._at and self._timer is not None:
            self._timer.cancel()
            self._timer = None
