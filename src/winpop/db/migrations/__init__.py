"""The steps from an empty database to today's schema: `NNNN_name.sql`, applied in order, each once.

Invariant: a step that has been released is never changed; a database knows the number of its last step, and
one that is newer than this program is refused rather than guessed at.
"""

import sqlite3
from collections.abc import Iterator
from functools import cache

from winpop.db.contract import Transaction


@cache
def steps() -> dict[int, tuple[str, ...]]:
    """Return the statements of each step by its number."""
    from importlib import resources  # here: an up-to-date database needs no step

    found = {}
    for file in resources.files(__name__).iterdir():
        if file.name.endswith(".sql"):
            lines = file.read_text("utf-8").splitlines()
            text = "\n".join(line.partition("--")[0] for line in lines)
            found[int(file.name[:4])] = tuple(_statements(text))
    return dict(sorted(found.items()))


def _statements(text: str) -> Iterator[str]:
    """Yield the statements of a text; that of a trigger has semicolons within."""
    statement = ""
    for piece in text.split(";"):
        statement = f"{statement}{piece};"
        if sqlite3.complete_statement(statement):
            if statement.strip() != ";":
                yield statement.strip()
            statement = ""


def apply(transaction: Transaction, schema: int) -> None:
    """Go from `schema` (0: an empty database) to today's."""
    for number, statements in steps().items():
        if number > schema:
            for statement in statements:
                transaction.run(statement)
            transaction.run(f"PRAGMA user_version = {number:d}")


LATEST = 4
"""The number of the last step, so that an up-to-date database is known without reading the steps."""
