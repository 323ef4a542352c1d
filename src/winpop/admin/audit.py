"""The audit: who changed what, or was refused.

Invariant: a row is written in the transaction of the change that it tells of, and holds no secret.
"""

import re
import time

from winpop.admin.contract import Look
from winpop.admin.outcomes import Outcome, Table
from winpop.db.contract import Transaction
from winpop.terms.refusals import not_understood, readable

DEFAULT_COUNT = 20
_MOST = 10_000


def write(transaction: Transaction, actor: str, operation: str, target: str, outcome: str) -> None:
    """Write a row. `outcome` is done, unchanged, or the code of a refusal."""
    transaction.insert(
        "INSERT INTO audit (time, actor, operation, target, outcome) VALUES (?, ?, ?, ?, ?)",
        int(time.time()),
        readable(actor),
        operation,
        readable(target),
        outcome,
    )


def read_count(text: str) -> int:
    """Return how many rows are wanted. Raises `Refusal` (`bad-number`)."""
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= _MOST:
        raise not_understood("bad-number", f"'{readable(text)}' is not a number of rows; take 1 to {_MOST}.")
    return int(text)


def audit(look: Look, count: int | None) -> Outcome:
    """Show the last rows, the newest last."""
    rows = look.reader.all(
        "SELECT time, actor, operation, target, outcome FROM audit ORDER BY id DESC LIMIT ?", count or DEFAULT_COUNT
    )
    entries = [
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(str(moment)))),
            "actor": str(actor),
            "operation": str(operation),
            "target": str(target),
            "outcome": str(outcome),
        }
        for moment, actor, operation, target, outcome in reversed(rows)
    ]
    return Outcome(
        "" if entries else "Nothing has been changed yet.",
        {"audit": entries},
        table=Table(
            ("TIME", "WHO", "OPERATION", "TARGET", "OUTCOME"), tuple(tuple(entry.values()) for entry in entries)
        ),
    )
