"""Which messages were found to be what came in, so that they are not compared again each time they are fetched.

Invariant: a message is compared with its checksum when a worker gives it out for the first time, and again when that
was longer ago than is set; what was found to be damaged is never here. SHA-256 takes 0.55 ms for 1 MiB, which is twice
what it takes to send it.
"""

from collections.abc import Callable

_MOST = 50_000


class Compared:
    """The messages that one worker has compared, by the identifiers of their rows, which never mean another."""

    def __init__(self, clock: Callable[[], float], seconds: int) -> None:
        """Let a comparison hold for at most so many seconds; 0: compare each time."""
        self._clock, self.seconds = clock, seconds
        self._now: set[int] = set()
        self._before: set[int] = set()
        self._turn = clock() + seconds / 2

    def holds(self, message: int) -> bool:
        """Tell whether this message was compared a short while ago."""
        if self._clock() >= self._turn:
            self._turn_over()
        return message in self._now or message in self._before

    def note(self, message: int) -> None:
        """Note that this message was compared now, and is whole."""
        if not self.seconds:
            return
        if len(self._now) >= _MOST:
            self._turn_over()
        self._now.add(message)

    def _turn_over(self) -> None:
        """Forget what was noted before the last turn; where nothing happened since, all."""
        now = self._clock()
        long_ago = now >= self._turn + self.seconds / 2
        self._before, self._now = set() if long_ago else self._now, set()
        self._turn = (now if long_ago else min(now, self._turn)) + self.seconds / 2
