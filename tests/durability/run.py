"""One command for the whole suite of faults, or a sample of it; writes the table of the page in the docs.

    python tests/durability/run.py                     everything; --seconds bounds each kind
    python tests/durability/run.py --sample            a sample of each kind, as CI runs it
    python tests/durability/run.py kill power          these kinds
    python tests/durability/run.py --write             and put what came of it into docs/durability.md

Invariant: what stands in the page's table was counted by a run that is named there with its date; a kind that was not
run keeps the row of its last run. Exit status 1 when there is a violation, or a control that nothing caught.
"""

import argparse
import importlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from durability.report import Extent, Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "durability.md"
RESULTS = PAGE.with_suffix(".json")
BEGIN, END = "<!-- made by tests/durability/run.py -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: where it is, and how many seconds a sample and a full run of it may take."""

    module: str
    function: str
    sample: float
    full: float
    controls: tuple[str, ...] = ()
    """What is broken on purpose: each must lead to violations."""

    def run(self, extent: Extent) -> list[Result]:
        """Run it."""
        return _several(self._function(self.function)(extent))

    def missing(self) -> str:
        """Return what this computer lacks for it, or nothing."""
        ask = getattr(importlib.import_module(self.module), "missing", None)
        return str(ask()) if ask else ""

    def control(self, which: str, extent: Extent) -> Result:
        """Run it with something broken."""
        came: Result = self._function("control")(which, extent)
        return came

    def _function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), name)
        return function


KINDS = {
    "kill": Kind("durability.kills", "run", 60, 7200),
    "errors": Kind("durability.errors", "run", 60, 14400),
    "power": Kind(
        "durability.power", "run", 40, 600, ("nosync", "nodirsync", "skipped", "normal", "early", "early-quit")
    ),
    "ext4": Kind("durability.blocks", "run_ext4", 25, 600, ("eatmydata", "nodirsync")),
    "xfs": Kind("durability.blocks", "run_xfs", 25, 600, ("eatmydata on xfs",)),
    "disk": Kind("durability.disk", "run", 40, 300),
    "days": Kind("durability.days", "run", 40, 300),
    "crowd": Kind("durability.crowd", "run", 30, 600, ("a deletion too many", "a maildrop for two")),
    "fuzz": Kind("fuzz.kind", "run", 42, 900),
    "start": Kind("durability.start", "run", 30, 120),
    "soak": Kind("durability.soak", "run", 120, 3600),
}


def _several(came: Result | list[Result]) -> list[Result]:
    return came if isinstance(came, list) else [came]


def main() -> int:
    """Run what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(description="The suite of faults: prove that nothing is lost.")
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--sample", action="store_true", help="a sample of each kind")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, help="bound the time of each kind")
    parser.add_argument("--write", action="store_true", help="write the table into docs/durability.md")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    failed = False
    for name in asked.kinds or KINDS:
        kind = KINDS[name]
        if lacking := kind.missing():
            print(f"{name} was not tried: {lacking}")
            failed = True
            continue
        seconds = asked.seconds or (kind.sample if asked.sample else kind.full)
        rows = [_row(result, asked.sample) for result in kind.run(Extent(not asked.sample, asked.seed, seconds))]
        rows += [_control_row(which, kind.control(which, _sample(kind, asked.seed))) for which in kind.controls]
        for row in rows:
            _show(row)
            failed |= bool(row["violations"]) != bool(row["control"]) or not row["states"]
        if asked.write:
            _write(name, rows)
    return int(failed)


def _sample(kind: Kind, seed: int) -> Extent:
    return Extent(False, seed, kind.sample)


def _row(result: Result, sample: bool) -> dict[str, Any]:  # noqa: FBT001 - what was asked for
    return {
        "kind": result.kind,
        "points": result.points,
        "of": result.of,
        "states": result.states,
        "violations": result.violations,
        "notes": result.notes,
        "seconds": round(result.seconds, 1),
        "extent": "a sample" if sample else "all" if result.points == result.of else "a part",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "control": "",
    }


@cache
def _commit() -> str:
    """Return what the checkout is at, if it is one."""
    command = ["git", "-C", str(PAGE.parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _control_row(which: str, result: Result) -> dict[str, Any]:
    return _row(result, True) | {"control": which, "violations": result.violations[:3]}


def _show(row: dict[str, Any]) -> None:
    verdict = f"{len(row['violations'])} violations"
    if row["control"]:
        verdict = "caught, as it has to be" if row["violations"] else "NOT CAUGHT"
    tried = f"{row['points']} of {row['of']} points, {row['states']} states"
    print(f"{row['control'] or row['kind']}: {tried}, {verdict}, {row['seconds']} s", flush=True)
    for line in [*row["notes"], *([] if row["control"] else row["violations"][:20])]:
        print(f"    {line}", flush=True)


def _write(name: str, rows: list[dict[str, Any]]) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[name] = rows
    RESULTS.write_text(json.dumps({kind: kept[kind] for kind in KINDS if kind in kept}, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(kept)}{END}{rest.partition(END)[2]}")


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the page's tables: what was tried, and what was broken on purpose."""
    every = [row for kind in KINDS if kind in results for row in results[kind]]
    lines = ["| fault | points tried | states looked at | violations | run |", "|---|---:|---:|---:|---|"]
    for row in every:
        if not row["control"]:
            points = f"{row['points']:,}" if row["points"] == row["of"] else f"{row['points']:,} of {row['of']:,}"
            run = f"{row['date']}, {row['extent']}, {row['seconds']:.0f} s, at {row['commit']}"
            lines.append(f"| {row['kind']} | {points} | {row['states']:,} | {len(row['violations'])} | {run} |")
    notes = [f"- {row['kind']}: {note}" for row in every if not row["control"] for note in row["notes"]]
    controls = ["| broken on purpose | states looked at | caught |", "|---|---:|---|"]
    controls += [
        f"| {row['control']} ({row['kind']}) | {row['states']:,} | {'yes' if row['violations'] else 'NO'} |"
        for row in every
        if row["control"]
    ]
    return "\n".join([*lines, "", *notes, "", *controls, ""])


if __name__ == "__main__":
    os.environ.pop("WINPOP_HOME", None)
    sys.exit(main())
