"""What the house asks of a database: rows, durable transactions, and a hint that something changed.

Invariant: when `write()` is left without an exception, what was done in it survives a power cut; when it is
left with one, nothing of it happened. Errors of the engine come out as `Refusal` (`disk-full`,
`database-busy`, `database-unreachable`, all of the kind out of reach; `not-permitted`). One exception says so itself:
`outcome-unknown`, where the disk failed in the commit and again when it was to be undone.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

Value = int | str | bytes | None
Row = tuple[Value, ...]

ENGINE_CODES = frozenset(["disk-full", "database-unreachable"])
"""The codes of refusals that the engine's own failure caused: its transaction is lost."""


class Reader(Protocol):
    """Something that answers queries. Statements are SQL with `?` for each parameter."""

    def all(self, sql: str, *parameters: Value) -> list[Row]:
        """Return all rows."""
        ...

    def one(self, sql: str, *parameters: Value) -> Row | None:
        """Return the first row, or None."""
        ...

    def number(self, sql: str, *parameters: Value) -> int:
        """Return the first column of the first row, an integer; 0 where there is no row or it is NULL."""
        ...


class Transaction(Reader, Protocol):
    """All or nothing."""

    def run(self, sql: str, *parameters: Value) -> int:
        """Change rows; return how many were changed."""
        ...

    def insert(self, sql: str, *parameters: Value) -> int:
        """Insert one row; return the identifier that it got."""
        ...

    def many(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run one statement for many rows of parameters."""
        ...

    def part(self) -> AbstractContextManager[None]:
        """Enclose a part that fails alone: left with an exception, only the part is undone."""
        ...


class Database(Reader, Protocol):
    """One connection. It belongs to the thread that opened it."""

    def snapshot(self) -> AbstractContextManager[Reader]:
        """Several queries that see the same state."""
        ...

    def write(self) -> AbstractContextManager[Transaction]:
        """One durable transaction, alone in its time."""
        ...

    def version(self) -> int:
        """Return a number that changes whenever another connection has committed."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...
