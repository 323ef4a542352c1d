"""`make benchmark`: measure winpop beside Dovecot and Postfix, print the table, and write the page.

    python -m benchmark.run                       everything; writes docs/performance.json, .md and the plots
    python -m benchmark.run --only poll-32 lmtp-16    some rows or parts; prints only
    python -m benchmark.run --quick --output DIR  a look whether everything works; writes to DIR

Parts are the rows of `benchmark/scenarios.py`, and growth, provider, administration and crowd. A part that fails is
reported as failed and ends no other. Invariant: whatever happens, also SIGTERM, no server and no directory is left.
"""

import argparse
import datetime as dt
import importlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmark import generator, growth, machine, opponents, page, provider
from benchmark.bench import Bench, Extent, Row
from benchmark.figures import number, ratios
from benchmark.generator import RunError
from benchmark.machine import Box
from benchmark.page import Document
from benchmark.scenarios import SCENARIOS

PARTS = ("growth", "provider", "administration", "crowd")
ROWS = tuple(scenario.name for scenario in SCENARIOS)
_PAIRS, _SECONDS = 5, 1.2
_QUICK_SECONDS = 0.3


def main(words: Sequence[str]) -> int:
    """Do what the words say; return the exit status: 1 when something failed."""
    options = _options(words)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _leave)
    try:
        opponents.install()
        generator.program()
    except (RunError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    document = measure(options)
    output = options.output or (None if options.only or options.quick else page.DOCS)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        page.write(document, output)
        print(f"Written: {output / 'performance.md'}")
    failed = _failures(document)
    for line in failed:
        print(f"Failed: {line}")
    return 1 if failed else 0


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmark.run", description="Measure winpop beside other servers.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=(*ROWS, *PARTS), help=", ".join((*ROWS, *PARTS)))
    parser.add_argument("--pairs", type=int, help=f"runs of each server in a row; {_PAIRS} if not given")
    parser.add_argument("--seconds", type=float, help=f"of each run; {_SECONDS} if not given")
    parser.add_argument("--workers", type=int, default=2, help="winpop's worker processes")
    parser.add_argument("--quick", action="store_true", help="one short pair: does everything work?")
    parser.add_argument("--output", type=Path, help="directory of the page, if it shall be written at all")
    parser.add_argument("--where", type=Path, help="directory on the disk that holds the mail; /var/tmp if not given")
    return parser.parse_args(words)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(1)


def measure(options: argparse.Namespace) -> Document:
    """Measure all that is asked for; return the document."""
    extent = Extent(
        options.pairs or (1 if options.quick else _PAIRS),
        options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS),
        options.quick,
    )
    wanted = set(options.only or (*ROWS, *PARTS))
    document: Document = {
        "taken": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": _command(options),
        "quick": options.quick,
        "pairs": extent.pairs,
        "seconds": extent.seconds,
    }
    begin = time.monotonic()
    with Bench(options.workers, options.where) as bench:
        with Box("probe") as probe:
            document["meter"] = probe.meter.name
        document["machine"] = machine.kind(bench.root)
        document["rows"] = _rows(bench, extent, wanted)
        if "provider" in wanted:
            document["provider"] = provider.measure(bench, extent)
            _say_provider(document["provider"])
        document["configurations"] = bench.configurations()
        bench.rest()
        if "growth" in wanted:
            document["growth"] = growth.measure(bench, extent)
            _say_growth(document["growth"])
    for part in ("administration", "crowd"):
        if part in wanted:
            document[part] = _part(part, quick=options.quick)
    document["minutes"] = round((time.monotonic() - begin) / 60, 1)
    return document


def _command(options: argparse.Namespace) -> str:
    """Return the command that does the same again."""
    given = [f"--{name} {getattr(options, name):g}" for name in ("pairs", "seconds") if getattr(options, name)]
    given += ["--quick"] if options.quick else []
    given += [f"--workers {options.workers}"] if options.workers != 2 else []  # noqa: PLR2004 - as if not given
    given += [f"--only {' '.join(options.only)}"] if options.only else []
    return " ".join(["python -m benchmark.run", *given]) if given else "make benchmark"


def _rows(bench: Bench, extent: Extent, wanted: set[str]) -> list[Row]:
    rows = []
    for scenario in SCENARIOS:
        if scenario.name in wanted:
            rows.append(bench.measure(scenario, extent))
            _say(rows[-1])
    return rows


def _say(row: Row) -> None:
    """Print a row as soon as it is there."""
    if row["failed"]:
        print(f"{row['name']:<20} failed: {row['failed']}", flush=True)
        return
    cells = [
        f"{ratio.name} {number(ratio.ours)}:{number(ratio.theirs)} = {number(ratio.times)} "
        f"({number(ratio.least)}-{number(ratio.greatest)}) of {ratio.goal:g} {'met' if ratio.met else 'NOT MET'}"
        for ratio in ratios(row)
    ]
    print(f"{row['name']:<20} {'; '.join(cells)}", flush=True)


def _say_provider(found: Row) -> None:
    for server in found["servers"]:
        for step in server["steps"]:
            said = "kept" if step["kept"] else f"not kept: {step['why']}"
            print(f"provider {server['name']}: {step['users']:,} users {said}", flush=True)


def _say_growth(cells: list[Row]) -> None:
    for cell in cells:
        place = f"growth {cell['row']:<18} {cell['mailboxes']:>7,} mailboxes, {cell['workers']} workers"
        said = cell["failed"] or f"cpu {number(min(cell['cpu']))}, {number(max(cell['rate']))}/s"
        print(f"{place}: {said}", flush=True)


def _part(name: str, *, quick: bool) -> list[dict[str, Any]] | str:
    """Measure a part that has its own module; return its rows, or why there are none."""
    try:
        rows: list[dict[str, Any]] = importlib.import_module(f"benchmark.{name}").measure(quick)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are to be written
        print(f"{name}: failed: {error}", flush=True)
        return f"{type(error).__name__}: {error}"
    for row in rows:
        print(f"{name}: {row['what']}: {row['figure']} {row['unit']}, goal {row.get('goal')}", flush=True)
    return rows


def _failures(document: Document) -> list[str]:
    found = [f"{row['name']}: {row['failed']}" for row in document["rows"] if row["failed"]]
    found += [f"growth: {cell['failed']}" for cell in document.get("growth", []) if cell["failed"]]
    found += [f"provider: {document['provider']['failed']}"] if document.get("provider", {}).get("failed") else []
    return found + [f"{part}: {document[part]}" for part in PARTS if isinstance(document.get(part), str)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
