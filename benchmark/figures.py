"""What is made of the measured runs: medians, spreads, ratios, exponents of growth.

Invariant: everything here is computed from the runs that the document holds, so that whoever has docs/performance.json
can do it again; a ratio above 1 is in winpop's favour.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HIGHER_IS_BETTER = frozenset({"rate"})


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better winpop is: by the medians of both, and by each pair of runs the least and the greatest."""

    name: str
    ours: float
    theirs: float
    times: float
    least: float
    greatest: float
    goal: float

    @property
    def met(self) -> bool:
        """Tell whether the goal is met."""
        return self.times >= self.goal


def ratios(row: dict[str, Any]) -> list[Ratio]:
    """Return the ratios of a row that did not fail, one for each goal."""
    if row["failed"]:
        return []
    return [_ratio(name, row["winpop"][name], row["other"][name], goal) for name, goal in row["goals"].items()]


def _ratio(name: str, ours: Sequence[float], theirs: Sequence[float], goal: float) -> Ratio:
    pairs = [_times(name, a, b) for a, b in zip(ours, theirs, strict=True)]
    middle, other = statistics.median(ours), statistics.median(theirs)
    return Ratio(name, middle, other, _times(name, middle, other), min(pairs), max(pairs), goal)


def _times(name: str, ours: float, theirs: float) -> float:
    above, below = (ours, theirs) if name in HIGHER_IS_BETTER else (theirs, ours)
    return above / below if below > 0 else math.inf


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent e of y = c x^e, by least squares in the logarithms. Needs two x at least, all above 0."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    return statistics.linear_regression(xs, ys).slope


def number(value: float) -> str:
    """Write a figure with three digits that count."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits):,.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Write the least and the greatest."""
    return f"{number(min(values))} to {number(max(values))}"
