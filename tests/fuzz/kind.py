"""Fuzzing as one kind of the faults that the suite of durability brings: bytes that nobody expects.

Invariant: one fuzzer runs at a time, and each within its share of the time.
"""

import time

from durability.report import Extent, Result
from fuzz.run import available, fuzz
from fuzz.targets import TARGETS


def missing() -> str:
    """Return what this computer lacks for it, or nothing."""
    return "" if available() else "it needs the Python package atheris (the extra `dev`, with Python 3.11)"


def run(extent: Extent) -> Result:
    """Fuzz every target; a crash is a violation, and an execution is a point."""
    began = time.monotonic()
    result = Result("fuzzing")
    seconds = max(1, int(extent.seconds / len(TARGETS)))
    for name in TARGETS:
        fuzzed = fuzz(name, seconds=seconds, seed=extent.seed % 2**32)
        result.points += fuzzed.executions
        result.notes.append(
            f"{name}: {fuzzed.executions} executions in {fuzzed.seconds} s, {fuzzed.edges} edges and "
            f"{fuzzed.features} features covered"
        )
        if fuzzed.crash:
            result.violated(name, [f"the input {fuzzed.crash} breaks a law:\n{fuzzed.trace}"])
        elif not fuzzed.executions:
            result.violated(name, ["the fuzzer did nothing"])
    result.of = result.states = result.points
    result.seconds = time.monotonic() - began
    return result
