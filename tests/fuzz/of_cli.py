"""The command line, fuzzed: `winpop` as it is typed, on a scratch home that is the same before each command.

An input is one octet of flags, the arguments, each on a line, and after a NUL what stands on the standard input.
Invariant: nothing outside of a scratch directory is changed: a fence stands around it, whatever the operations do. Any
home that is named is the scratch home (or, where it is named on the command line, a missing one), a mailbox file is
what stands on the standard input, a mail root is not moved, nothing is served, and a password's hash is a quick one.
"""

import contextlib
import functools
import getpass
import io
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from cli.tool import Result, dump, winpop
from fuzz.chosen import law
from fuzz.fence import fence
from winpop.admin import mailroot
from winpop.admin.contract import Work
from winpop.admin.directories import read_directory
from winpop.admin.operations import OPERATIONS
from winpop.admin.outcomes import Outcome
from winpop.auth import passwords
from winpop.cli import arguments, given, main, surroundings
from winpop.cli.words import SYNTAX
from winpop.db.home import Home
from winpop.directory.settings import SETTINGS
from winpop.services import serve
from winpop.terms.refusals import Refusal

CANARY = "CaNaRy"
WORDS = (
    *(word.encode() + b"\n" for word in SYNTAX),
    *(f"/{name}\n".encode() for syntax in SYNTAX.values() for name in syntax.switches),
    *(name.encode() + b"\n" for name in SETTINGS),
    b"--json\n",
    b"--home\n",
    b"--help\n",
    b"--\n",
    b"/createuser:",
    b"alice@example.com\n",
    b"example.com\n",
    b"bob@example.com",
    b"port\n",
    b"socket\n",
    b"default",
    CANARY.encode(),
    b"\0" + CANARY.encode() + b"\n",
    b"\0address,password\ndave@example.com,x\n",
)

_HASH = passwords._NOBODY
_REFUSED = re.compile(r"winpop: (.*) \[([a-z0-9-]+)\]\n")
_PERSON = 1
_FIRST = ("add example.com", "add alice@example.com /createuser x", "add other.example", "lock other.example")
"""What was done in the scratch home before each command."""


@dataclass(frozen=True, slots=True)
class _Scratch:
    """A directory with the home, and the home's database as it shall be before each command."""

    directory: Path
    database: bytes

    @property
    def home(self) -> Home:
        return Home(self.directory / "home")

    @property
    def missing(self) -> Home:
        return Home(self.directory / "missing")

    def restore(self) -> None:
        """Remove what the last command has left, and undo what it did to the home."""
        for left in [*self.home.path.glob("winpop.db-*"), *self.directory.iterdir()]:
            if left.is_dir() and left != self.home.path:
                shutil.rmtree(left)
            elif left != self.home.path:
                left.unlink()
        if self.home.database.read_bytes() != self.database:
            self.home.database.write_bytes(self.database)


@functools.cache
def _scratch() -> _Scratch:
    """Make the home, in memory where the system has such a place; it goes with the process."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = tempfile.TemporaryDirectory(prefix="winpop-fuzz-", dir=memory)
    _KEPT.append(directory)
    path = Path(directory.name)
    made = _Scratch(path, b"")
    with mock.patch.object(passwords, "make_hash", return_value=_HASH):
        for typed in _FIRST:
            result = winpop(made.home, *typed.split())
            law(result.status == 0, "the scratch home cannot be made", result)
    connection = sqlite3.connect(made.home.database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return _Scratch(path, made.home.database.read_bytes())


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@contextlib.contextmanager
def _fenced(scratch: _Scratch, given_octets: bytes) -> Iterator[None]:
    """Keep a command away from everything but the scratch home."""
    real_home, real_open = surroundings.home, given._open

    def home(named: str | None) -> Home:
        real_home(named)
        return scratch.home if named is None else scratch.missing

    def opened(name: str) -> contextlib.AbstractContextManager[io.BytesIO]:
        if name == "-" or "\0" in name:
            return real_open(name)  # type: ignore[return-value]  # a buffer of a standard input that is one
        return contextlib.nullcontext(io.BytesIO(given_octets))

    def move(_work: Work, text: str) -> Outcome:
        return Outcome(f"It would be {read_directory(text)!s}." if text else "It would be the usual one.")

    with contextlib.ExitStack() as patches:
        patches.enter_context(fence(scratch.directory))
        for where, name, instead in (
            (surroundings, "home", home),
            (given, "_open", opened),
            (mailroot, "move", move),
            (serve, "run", lambda *_, **__: 0),
            (passwords, "make_hash", lambda _: _HASH),
            (passwords, "scram_texts", lambda _: ("", "")),
            (getpass, "getpass", lambda _: given_octets[:64].decode("utf-8", "replace")),
            (main, "_unexpected", _raised),
        ):
            patches.enter_context(mock.patch.object(where, name, instead))
        yield


def _raised(error: Exception) -> Refusal:
    raise error


def command_line(data: bytes) -> None:
    """Hold the laws of the command line against one input."""
    flags, typed, standard_input = data[:1], *data[1:].partition(b"\0")[::2]
    argv = [argument.decode("utf-8", "surrogateescape") for argument in typed.split(b"\n")] if typed else []
    person = bool(flags and flags[0] & _PERSON)
    scratch = _scratch()
    scratch.restore()
    with _fenced(scratch, standard_input):
        before = dump(scratch.home)
        result = winpop(None, *argv, given=standard_input, person=person)
        after = dump(scratch.home)
        law(result.status in range(5), "an exit status is none", result)
        as_json = arguments.wants_json(argv)
        _secret(argv, result)
        if result.status > 0:
            _not_done(result, as_json=as_json)
            in_parts = result.status == 1 and _in_parts(argv)
            law(in_parts or before == after, "a refusal changes something", argv, result)
        else:
            _done(result, as_json=as_json)
        if not as_json:
            scratch.restore()
            again = winpop(None, "--json", *argv, given=standard_input, person=person)
            _same(result, again)


def _not_done(result: Result, *, as_json: bool) -> None:
    """Check how a refusal is said; a command that was done in part is an outcome."""
    if result.out and (not as_json or "error" not in result.document):
        law(result.status == 1, "there is an outcome and an error", result)
        return
    said = _REFUSED.fullmatch(result.err.removeprefix(_question(result.err)))
    law(said, "a refusal is not one sentence with a code", result)
    assert said is not None
    law(said[1].isprintable() and said[1].endswith((".", "?")), "a refusal is no sentence", result)
    law(said[2] != "internal-error", "something is wrong inside", result)
    if as_json:
        law(result.document == {"error": {"code": said[2], "message": said[1]}}, "the document says else", result)


def _question(err: str) -> str:
    """Return what was asked before the refusal."""
    return err[: err.find(" [y/N] ") + 7] if " [y/N] " in err else ""


def _done(result: Result, *, as_json: bool) -> None:
    law(result.err == _question(result.err), "something is wrong, and it is done", result)
    if as_json:
        law(isinstance(json.loads(result.out), dict) and result.out.count("\n") == 1, "no document", result)
    law(all(c.isprintable() or c == "\n" for c in result.out), "the output steers a terminal", result)


def _same(plain: Result, document: Result) -> None:
    """Check that a command does the same with --json."""
    law(document.status == plain.status, "--json changes the exit status", plain, document)
    if document.status and "error" in document.document:
        error = document.document["error"]
        law(plain.err.endswith(f"winpop: {error['message']} [{error['code']}]\n"), "--json says else", plain, document)


def _in_parts(argv: list[str]) -> bool:
    """Tell whether a command can be done in part and refused for the rest."""
    command = arguments.parse(argv)
    operation = OPERATIONS.get(command.word or "")
    return "from" in command.switches or (operation is not None and operation.long)


def _secret(argv: list[str], result: Result) -> None:
    """Check that a password that was given where passwords belong is not said."""
    try:
        command = arguments.parse(argv)
    except Refusal:
        return
    secrets = [command.switches.get("createuser") or ""]
    if command.word == "changepwd":
        secrets += command.words[1:]
    words = " ".join([*command.words[:1], str(command.switches.get("home"))])
    if any(CANARY in secret for secret in secrets) and CANARY not in words:
        law(CANARY not in result.out + result.err, "a password is said", argv, result)
