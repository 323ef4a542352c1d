"""Plots as SVG, drawn by hand: bars of ratios with their goals, and lines over logarithmic axes.

Invariant: the same figures give the same octets, so that a plot can be compared with the document that it is made from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_OURS, _SHORT, _GOAL, _GRID, _TEXT = "#1a7f5a", "#c2571a", "#222222", "#dddddd", "#222222"
_LINES = ("#1a7f5a", "#2b5fa8", "#c2571a", "#7a4ba0")
_WIDTH, _LEFT, _RIGHT, _ROW = 900, 350, 70, 22
_HEIGHT, _BOTTOM, _TOP = 370, 46, 54


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio with its spread and its goal."""

    label: str
    value: float
    least: float
    greatest: float
    goal: float


@dataclass(frozen=True, slots=True)
class Line:
    """Points of a line; all above 0."""

    label: str
    points: Sequence[tuple[float, float]]


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Draw ratios as bars on a logarithmic axis, the spread as a thin line, the goal as a mark."""
    highest = max([2.0, *(max(row.greatest, row.goal) for row in rows if math.isfinite(row.greatest))])
    lowest = min([1.0, *(row.least for row in rows if row.least > 0)])
    bottom, top = _decades(lowest, highest)
    height = _TOP + _ROW * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return _across(min(max(value, 10**bottom), 10**top), bottom, top, _LEFT, _WIDTH - _RIGHT)

    parts = [_text(12, 22, title, size=15, bold=True)]
    for tick in _ticks(bottom, top):
        parts += [
            _line(x(tick), _TOP - 6, x(tick), height - _BOTTOM + 4, _GRID),
            _text(x(tick), height - _BOTTOM + 20, f"{tick:g}", anchor="middle"),
        ]
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number
        middle = y + _ROW / 2 - 1
        start, end = sorted((x(1), x(row.value)))
        wide = max(end - start, 1)
        colour = _OURS if row.value >= row.goal else _SHORT
        parts += [
            _text(_LEFT - 8, middle + 4, row.label, anchor="end"),
            f'<rect x="{start:.1f}" y="{y + 3}" width="{wide:.1f}" height="{_ROW - 8}" fill="{colour}"/>',
            _line(x(row.least), middle, x(row.greatest), middle, _GOAL),
            _line(x(row.goal), y + 1, x(row.goal), y + _ROW - 3, _GOAL, width=3),
            _text(max(end, x(row.goal), x(row.greatest)) + 6, middle + 4, f"{row.value:.3g}"),
        ]
    parts.append(
        _text(_LEFT, height - 8, "green: goal met; orange: not met; thick mark: goal; thin line: least to greatest")
    )
    return _svg(height, parts)


def lines(title: str, across: str, up: str, rows: Sequence[Line]) -> str:
    """Draw lines over two logarithmic axes."""
    xs = [x for row in rows for x, _ in row.points]
    ys = [y for row in rows for _, y in row.points]
    left, right = _decades(min(xs), max(xs))
    bottom, top = _decades(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        return _across(x, left, right, 80, _WIDTH - 250), _across(y, bottom, top, _HEIGHT - _BOTTOM, _TOP)

    parts = [_text(12, 22, title, size=15, bold=True)]
    for tick in _ticks(left, right):
        at, _ = place(tick, 10**bottom)
        parts += [
            _line(at, _TOP, at, _HEIGHT - _BOTTOM, _GRID),
            _text(at, _HEIGHT - _BOTTOM + 16, f"{tick:,.0f}", anchor="middle"),
        ]
    for tick in _ticks(bottom, top):
        _, at = place(10**left, tick)
        parts += [_line(80, at, _WIDTH - 250, at, _GRID), _text(74, at + 4, f"{tick:g}", anchor="end")]
    parts += [_text(80, _HEIGHT - 8, across), _text(80, _TOP - 6, up)]
    for number, row in enumerate(rows):
        colour = _LINES[number % len(_LINES)]
        points = [place(x, y) for x, y in row.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
            *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points),
            _line(_WIDTH - 236, _TOP + 10 + 20 * number, _WIDTH - 216, _TOP + 10 + 20 * number, colour, width=3),
            _text(_WIDTH - 210, _TOP + 14 + 20 * number, row.label),
        ]
    return _svg(_HEIGHT, parts)


def _decades(lowest: float, highest: float) -> tuple[int, int]:
    """Return the powers of ten that hold a range."""
    bottom, top = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    return bottom, max(top, bottom + 1)


def _ticks(bottom: int, top: int) -> list[float]:
    return [10.0**power for power in range(bottom, top + 1)]


def _across(value: float, bottom: int, top: int, start: float, end: float) -> float:
    return start + (math.log10(value) - bottom) / (top - bottom) * (end - start)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: int = 1) -> str:  # noqa: PLR0913
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, bold: bool = False) -> str:  # noqa: PLR0913
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} fill="{_TEXT}">'
        f"{escape(text)}</text>"
    )


def _svg(height: float, parts: Sequence[str]) -> str:
    size = f'width="{_WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect {size} fill="#ffffff"/>', *parts, "</svg>\n"])
