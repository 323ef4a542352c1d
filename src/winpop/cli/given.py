"""From what was typed to what an operation is given.

Invariant: passwords go on as functions, so that they are asked for only when all else was understood; files are
opened here, by the one who typed their names, before the program becomes another user.
"""

import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import BinaryIO

from winpop.admin.contract import Given, Operation, Secret
from winpop.cli import terminal
from winpop.cli.arguments import Command
from winpop.terms import files
from winpop.terms.files import File
from winpop.terms.refusals import Kind, Refusal, not_understood, readable

SEEN = (
    "The password was given as an argument, where other users of this computer can see it; leave it out to be asked "
    "for it."
)


def given_by(command: Command, operation: Operation, closing: ExitStack) -> tuple[Given, tuple[str, ...]]:
    """Return what an operation is given, and notes about the way it was; `closing` closes the files.

    Raises `Refusal` (`too-many-arguments`, `no-such-file`, `not-permitted`, `file-too-large`).
    """
    given: dict[str, str | Secret | File | BinaryIO] = {}
    seen = False
    words = list(command.words)
    for argument in operation.arguments:
        if not words:
            if argument.secret:
                given[argument.name] = terminal.password
            continue
        text = " ".join(words) if argument.rest else words[0]
        del words[: None if argument.rest else 1]
        given[argument.name] = _secret(text) if argument.secret else _read(text) if argument.file else text
        seen |= argument.secret
    if words:
        takes = " ".join(argument.shown for argument in operation.arguments) or "no words"
        raise not_understood(
            "too-many-arguments",
            f"'{operation.word}' takes {takes} and nothing more; 'winpop help {operation.word}' shows how.",
        )
    for switch in operation.switches:
        if switch.name not in command.switches:
            continue
        value = command.switches[switch.name]
        if switch.secret:
            given[switch.name] = terminal.password if value is None else _secret(value)
            seen |= value is not None
        elif switch.many:
            assert value is not None
            given[switch.name] = closing.enter_context(_open(value))
        elif switch.file:
            assert value is not None
            given[switch.name] = switch.instead if value.lower() == switch.instead else _read(value)
        else:
            given[switch.name] = value or ""
    return given, (SEEN,) if seen else ()


def _secret(text: str) -> Secret:
    return lambda: text


def _read(name: str) -> File:
    with _open(name) as file:
        try:
            octets = file.read(files.LONGEST + 1)
        except OSError as error:
            raise _cannot_be_read(name, error) from None
    if len(octets) > files.LONGEST:
        raise not_understood(
            "file-too-large", f"The file {readable(name)} has more than {files.LONGEST} octets, the most that is read."
        )
    return File("/dev/stdin" if name == "-" else name, octets)


def _open(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        if sys.stdin is None:
            raise not_understood("no-such-file", "Standard input is closed, so nothing can be read from it.")
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except PermissionError:
        raise Refusal("not-permitted", f"You may not read the file {readable(name)}.", Kind.NOT_PERMITTED) from None
    except (OSError, ValueError) as error:
        raise _cannot_be_read(name, error) from None


def _cannot_be_read(name: str, error: Exception) -> Refusal:
    why = getattr(error, "strerror", None) or "no file can have that name"
    return not_understood("no-such-file", f"The file {readable(name)} cannot be read: {why}.")
