"""What came of an operation, in a form that every face can show.

Invariant: `data` holds only what JSON can say, and everything that the sentence, the notes and the table say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for people, under headers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str | int, ...], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done or found.

    `sentence` is for people and empty where the table says it all; `data` is for programs. `notes` are further
    sentences, about what a person may not expect. `complete` is false where a part was refused and the rest done.
    """

    sentence: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    changed: bool = False
    table: Table | None = None
    notes: tuple[str, ...] = ()
    complete: bool = True
