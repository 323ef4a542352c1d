"""The words of `backup` and `restore`: what their arguments and switches mean.

Invariant: nothing is looked at on a disk to read them.
"""

import contextlib
import re

from winpop.terms.refusals import not_understood, readable

_MOST = 10_000


def read_keep(text: str) -> int:
    """Return how many snapshots are kept. Raises `Refusal` (`bad-number`)."""
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= _MOST:
        raise not_understood("bad-number", f"'{readable(text)}' is not a number of snapshots; take 1 to {_MOST}.")
    return int(text)


def read_time(text: str) -> int:
    """Return the seconds since 1970 of a time in UTC; a day alone is all of it. Raises `Refusal` (`bad-time`)."""
    from datetime import UTC, datetime, timedelta  # here: no other operation needs it

    with contextlib.suppress(ValueError, OverflowError, OSError):
        moment = datetime.fromisoformat(text)
        whole_day = timedelta(days=1, seconds=-1) if len(text) <= len("2026-01-31") else timedelta()
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC) + whole_day).timestamp())
    raise not_understood("bad-time", f"'{readable(text)}' is not a time; write it like 2026-01-31T18:00:00Z.")
