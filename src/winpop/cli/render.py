"""What is shown: text for people, or one JSON document.

Invariant: nothing that came from outside can steer a terminal: control and bidirectional characters are shown as
escapes. What cannot be written (a closed pipe, a full disk) is no reason for a traceback.
"""

import io
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from winpop.admin.outcomes import Outcome, Table
from winpop.terms.refusals import Refusal, out_of_reach, readable


def outcome(what: Outcome, *, as_json: bool) -> None:
    """Show what came of an operation."""
    if as_json:
        document({"message": what.sentence, "changed": what.changed, **what.data, "notes": list(what.notes)})
    else:
        table = _table(what.table) if what.table and what.table.rows else []
        notes = [f"Note: {note}" for note in what.notes]
        text("\n".join([_shown(line) for line in [what.sentence, *table, *notes] if line]))


def refusal(what: Refusal, *, as_json: bool) -> None:
    """Show why nothing was done: a sentence on standard error, and with JSON a document on standard output."""
    if as_json:
        document({"error": {"code": what.code, "message": what.sentence}})
    _write(sys.stderr, f"winpop: {_shown(what.sentence)} [{what.code}]\n")


def document(what: Mapping[str, Any]) -> None:
    """Show one JSON document."""
    _write(sys.stdout, json.dumps(what) + "\n")


def text(what: str) -> None:
    """Show text for people."""
    _write(sys.stdout, what + "\n")


def _table(table: Table) -> list[str]:
    """Return aligned lines: numbers to the right, the last column as it is."""
    rows = [[_shown(str(cell)) or "-" for cell in row] for row in (table.headers, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = [isinstance(cell, int) for cell in table.rows[0]]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _shown(what: str) -> str:
    return what if what.isprintable() else "".join(map(readable, what))


def _write(stream: io.TextIOBase | Any, what: str) -> None:  # noqa: ANN401 - whatever stands in for a standard stream
    """Write at once. A reader that has gone away is no error; a stream that cannot be written otherwise is one."""
    if stream is None:
        return  # started without this stream
    try:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character still shows something
        stream.write(what)
        stream.flush()
    except BrokenPipeError:
        _give_up(stream)
    except (OSError, ValueError) as error:
        _give_up(stream)
        if stream is sys.stdout:
            why = getattr(error, "strerror", None) or "it is closed"
            raise out_of_reach("output-lost", f"The output could not be written: {why}.") from None


def _give_up(stream: Any) -> None:  # noqa: ANN401 - see `_write`
    """Let what is still buffered go nowhere, or the interpreter would complain about it at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
