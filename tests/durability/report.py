"""What the suite of faults says of itself: one row for each kind of fault, from which the page in the docs is made.

Invariant: a row's numbers were counted while the faults happened; a kind that was not run has no row.
"""

import random as random_numbers
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Extent:
    """How much is tried: everything, or a sample that a seed chooses, within so many seconds."""

    full: bool
    seed: int
    seconds: float

    def __post_init__(self) -> None:
        self.random = random_numbers.Random(self.seed)
        self.until = time.monotonic() + self.seconds

    random: random_numbers.Random = field(init=False, repr=False)
    until: float = field(init=False, repr=False)

    def over(self) -> bool:
        """Tell whether the time is used up."""
        return time.monotonic() >= self.until

    def some(self, points: list[int], most: int) -> list[int]:
        """Return all points, or so many of them in their order."""
        return points if self.full or len(points) <= most else sorted(self.random.sample(points, most))


@dataclass(slots=True)
class Result:
    """What came of one kind. `points` are the places where a fault was put, of `of` that there are; `states` are the
    states after it that were looked at."""

    kind: str
    points: int = 0
    of: int = 0
    states: int = 0
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def violated(self, where: str, what: list[str]) -> None:
        """Add what was found wrong at one point."""
        self.violations += [f"{self.kind}, {where}: {sentence}" for sentence in what]
