"""`winpop` run inside the test's own process, and what it left behind."""

import contextlib
import io
import json
import os
import resource
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from winpop.cli.main import main
from winpop.db.home import Home


@dataclass(frozen=True)
class Result:
    """What one command gave."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.out)


class Terminal(io.TextIOWrapper):
    """A stream that somebody sits at."""

    def isatty(self) -> bool:
        return True


def winpop(home: Home | None, *argv: str, given: bytes = b"", person: bool = False) -> Result:
    """Run one command; `given` is its standard input, at which a person may sit."""
    out, err = io.StringIO(), io.StringIO()
    stream = (Terminal if person else io.TextIOWrapper)(io.BytesIO(given), "utf-8")
    arguments = list(argv) if home is None else ["--home", str(home.path), *argv]
    with _as_it_was(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.stdin = stream
        status = main(arguments)
    return Result(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    stdin, mask, cores = sys.stdin, os.umask(0o022), resource.getrlimit(resource.RLIMIT_CORE)
    try:
        yield
    finally:
        sys.stdin = stdin
        os.umask(mask)
        resource.setrlimit(resource.RLIMIT_CORE, cores)


def dump(home: Home) -> list[str]:
    """Return the whole database but the audit; nothing where there is none."""
    if not home.exists():
        return []
    connection = sqlite3.connect(home.database)
    lines = [line for line in connection.iterdump() if "audit" not in line]
    connection.close()
    return lines
