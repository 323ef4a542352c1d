"""How far the server's clock can be believed where mail is deleted by its age.

A service looks at the clock now and then, and keeps what it saw in the database. Where more than a day passed on the
clock that did not pass in the service (somebody set the clock forward, a machine began with a wrong one, the service
was stopped, an older database was brought back), that much is a *gap*: time in which nobody can be shown to have had
the chance to fetch his mail. It is taken off the age of all mail until the service has served as long as mail is kept.

Invariant: a message that is there at two looks ages between them by no more than the service has served, and a day.
So a clock that jumps forward, by days or decades, costs no mail; one that is set back only keeps it longer.
"""

import json
from dataclasses import dataclass

from winpop.db.contract import Database

DAY = 86400
NAME = "clock"
"""The row of the table `setting` that is no setting: nobody sets it, shows it or takes it along."""
_GAPS = 100


@dataclass(frozen=True, slots=True)
class Clock:
    """What was seen of the clock. All times are in seconds; `seen` since 1970, `served` while a service ran."""

    seen: int
    served: int = 0
    gaps: tuple[tuple[int, int], ...] = ()
    """For each gap, oldest first, what was `served` before it and how long it was."""

    def at(self, now: int, elapsed: int) -> "Clock":
        """Return what is seen at the next look, `elapsed` after the last one (0: the service has just begun)."""
        gap = now - self.seen - elapsed
        if gap > DAY:
            return Clock(now, self.served + elapsed, _few((*self.gaps, (self.served, gap))))
        return Clock(now, self.served + max(elapsed, now - self.seen), self.gaps)

    def uncounted(self, days: int) -> int:
        """Return the seconds that are no part of an age where mail is kept for so many days."""
        return sum(length for served, length in self.gaps if self.served - served <= days * DAY)


def look(database: Database, now: float, elapsed: float) -> Clock:
    """Look at the clock as `Clock.at` does, and keep what was seen. Raises `Refusal`."""
    with database.write() as transaction:
        row = transaction.one("SELECT CAST(value AS BLOB) FROM setting WHERE name = ?", NAME)
        before = _read(row[0]) if row and isinstance(row[0], bytes) else Clock(int(now))
        clock = before.at(int(now), int(elapsed))
        value = json.dumps([clock.seen, clock.served, clock.gaps])
        transaction.run(
            "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            NAME,
            value,
        )
    return clock


def _read(value: bytes) -> Clock:
    """Return what was kept; what damage has made of it counts as a clock that stood since 1970."""
    try:
        seen, served, gaps = json.loads(value)
        return Clock(int(seen), int(served), tuple((int(before), int(length)) for before, length in gaps))
    except (ValueError, TypeError):
        return Clock(0)


def _few(gaps: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Keep as many gaps as there is room for: the two oldest become one, as recent as the second."""
    if len(gaps) <= _GAPS:
        return gaps
    (_, first), (served, second), *others = gaps
    return ((served, first + second), *others)
