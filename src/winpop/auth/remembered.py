"""Passwords that were right a moment ago, so that a client that asks each minute costs no slow hash each time.

Invariants: what is kept is a keyed digest over all that made the password right (method, account, what the account's
password is stored as, the password), so none of them can answer for another, and a password that was changed is
forgotten with the change itself; a no is never remembered; what cannot be read is not remembered.

The key lives in the memory that the digests are in: it keeps them apart from those of any other start. It is no
shield against who can read the memory of the service, which sees passwords anyway.
"""

import time
from collections.abc import Callable

from winpop.auth.shared import REMEMBERED, Shared


class Remembered:
    """The passwords that were right, in all workers together; 100 000, then those make room that would expire first."""

    def __init__(self, shared: Shared, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep them in `shared`; `clock` gives seconds, the same for all processes."""
        self._table, self._clock = shared.table(REMEMBERED), clock

    def holds(self, *parts: bytes) -> bool:
        """Tell whether exactly these parts, in this order, were right and have not expired."""
        return self._table.get(self._table.digest(*parts)).until > self._clock()

    def remember(self, *parts: bytes, seconds: float) -> None:
        """Remember that these parts were right, for so long from now on; 0 seconds: not at all."""
        if seconds > 0:
            with self._table.edit(self._table.digest(*parts)) as entry:
                entry.until = self._clock() + seconds
