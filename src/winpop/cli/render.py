"""What is shown: text for people, or one JSON document.

Invariant: nothing that came from outside can steer a terminal: control and bidirectional characters are shown as
escapes. What cannot be written (a closed pipe, a full disk) is no reason for a traceback.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from winpop.admin.outcomes import Outcome, Table
from winpop.terms.refusals import Refusal, out_of_reach, readable

_AT_ONCE = 1000
"""Lines that are put together before they are written."""


def outcome(what: Outcome, *, as_json: bool) -> None:
    """Show what came of an operation."""
    if as_json:
        document({"message": what.sentence, "changed": what.changed, **what.data, "notes": list(what.notes)})
    else:
        table = _table(what.table) if what.table and what.table.rows else ()
        notes = [f"Note: {note}" for note in what.notes]
        _write(sys.stdout, _lines(chain([what.sentence], table, notes)))


def refusal(what: Refusal, *, as_json: bool) -> None:
    """Show why nothing was done: a sentence on standard error, and with JSON a document on standard output."""
    if as_json:
        document({"error": {"code": what.code, "message": what.sentence}})
    _write(sys.stderr, [f"winpop: {_shown(what.sentence)} [{what.code}]\n"])


def document(what: Mapping[str, Any]) -> None:
    """Show one JSON document."""
    import json  # here: people do not need it

    _write(sys.stdout, [json.dumps(what), "\n"])


def text(what: str) -> None:
    """Show text for people."""
    _write(sys.stdout, [what, "\n"])


def _lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield text of some thousand lines at a time: a table may have a million."""
    every = (_shown(line) + "\n" for line in lines if line)
    while some := "".join(islice(every, _AT_ONCE)):
        yield some


def _table(table: Table) -> Iterator[str]:
    """Yield aligned lines: numbers to the right, the last column as it is."""
    widths = [0] * len(table.headers)
    for row in (table.headers, *table.rows):
        widths = list(map(max, widths, [len(_cell(cell)) for cell in row]))
    numbers = [isinstance(cell, int) for cell in table.rows[0]]
    for row in (table.headers, *table.rows):
        cells = [
            _cell(cell).rjust(width) if number else _cell(cell).ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _cell(cell: str | int) -> str:
    return _shown(str(cell)) or "-"


def _shown(what: str) -> str:
    return what if what.isprintable() else "".join(map(readable, what))


def _write(stream: io.TextIOBase | Any, what: Iterable[str]) -> None:  # noqa: ANN401 - whatever stands in for a standard stream
    """Write at once. A reader that has gone away is no error; a stream that cannot be written otherwise is one."""
    if stream is None:
        return  # started without this stream
    try:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character still shows something
        for part in what:
            stream.write(part)
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
