"""How long a mailbox has to wait from one logon to the next: LOGIN-DELAY (RFC 2449 §6.5).

Invariant: a logon is counted from the one before it that succeeded; one that came too soon moves nothing. Where more
than 100 000 mailboxes log on within one delay the earliest may be forgotten and let in too soon; none waits too long.
"""

import time
from collections.abc import Callable

from winpop.auth.shared import LOGGED_ON, Shared

_DAY = 86400.0
"""The longest delay that can be set."""


class LoginDelay:
    """When mailboxes logged on, in all workers together."""

    def __init__(self, shared: Shared, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep it in `shared`; `clock` gives seconds, the same for all processes."""
        self._table, self._clock = shared.table(LOGGED_ON), clock

    def left(self, mailbox_id: int, delay: float) -> float:
        """Return the seconds until this mailbox may log on again with a delay of so many (RFC 2449 §6.5); 0: now."""
        logged_on = self._table.get(self._digest(mailbox_id)).until - _DAY
        return max(0.0, logged_on + delay - self._clock())

    def logged_on(self, mailbox_id: int) -> None:
        """Take down that this mailbox logged on now."""
        with self._table.edit(self._digest(mailbox_id)) as entry:
            entry.until = self._clock() + _DAY

    def _digest(self, mailbox_id: int) -> bytes:
        return self._table.digest(mailbox_id.to_bytes(8, "big"))
