"""The words of the command line and the switches that each takes: the operations, `help` and `serve`."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from winpop.admin.contract import Operation, Switch
from winpop.admin.operations import OPERATIONS
from winpop.terms.refusals import Refusal, not_understood, readable


class Value(Enum):
    """Whether a switch takes a value."""

    NONE = "none"
    NEEDED = "needed"
    ASKED = "asked"
    """It takes one, and a person is asked for it where it is left out."""


GLOBAL = {"home": Value.NEEDED, "json": Value.NONE, "help": Value.NONE, "?": Value.NONE, "version": Value.NONE}
"""Switches that may stand anywhere, also before the word."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """What may follow a word. `slashes`: an unknown `/x` is a path or a password; `secret`: it is never quoted."""

    switches: Mapping[str, Value]
    slashes: bool = False
    secret: bool = False


@dataclass(frozen=True, slots=True)
class OwnWord:
    """A word that is the command line's own and no operation."""

    word: str
    shown: str
    meaning: str
    details: str
    switches: tuple[Switch, ...] = ()


YES = Switch("yes", "do not ask")

OWN_WORDS = {
    own.word: own
    for own in (
        OwnWord("help", "[WORD]", "show the words, or what one of them does", "  winpop help\n  winpop help unlock"),
        OwnWord(
            "serve",
            "",
            "run the service in the foreground, until SIGTERM",
            """\
A listener's switch overrides its stored setting for this run; 'off' turns the listener off. One line is printed
when every listener accepts.

  winpop serve
  winpop serve --pop3 127.0.0.1:1110 --smtp 127.0.0.1:1025""",
            (
                Switch("pop3", "where POP3 listens", "HOST:PORT"),
                Switch("pop3s", "where POP3 over TLS listens", "HOST:PORT"),
                Switch("smtp", "where mail comes in by SMTP", "HOST:PORT"),
                Switch("lmtp", "where mail comes in by LMTP", "HOST:PORT"),
                Switch("submission", "where users hand in mail (comes later)", "HOST:PORT"),
                Switch("http", "where the console listens (comes later)", "HOST:PORT"),
                Switch("workers", "worker processes; 0 serves from the one process itself", "N"),
            ),
        ),
    )
}


def switches_of(operation: Operation) -> tuple[Switch, ...]:
    """Return the switches that a word takes here: the operation's, and `/yes` where there is a question."""
    return (*operation.switches, YES) if operation.question else operation.switches


def _syntax(operation: Operation) -> Syntax:
    return Syntax(
        {switch.name: _value(switch) for switch in switches_of(operation)},
        slashes=any(argument.path or argument.secret for argument in operation.arguments),
        secret=any(argument.secret for argument in operation.arguments)
        or any(switch.secret for switch in operation.switches),
    )


def _value(switch: Switch) -> Value:
    if not switch.value:
        return Value.NONE
    return Value.ASKED if switch.secret else Value.NEEDED


SYNTAX: dict[str, Syntax] = {word: _syntax(operation) for word, operation in OPERATIONS.items()} | {
    word: Syntax({switch.name: Value.NEEDED for switch in own.switches}) for word, own in OWN_WORDS.items()
}
"""What may follow each word, by the word in lower case."""


def unknown_word(text: str) -> Refusal:
    """Make the refusal of a word that there is not, with the nearest one that there is."""
    import difflib  # here: only a wrong word needs it

    near = difflib.get_close_matches(text.lower()[:40], SYNTAX, 1)
    word = OPERATIONS[near[0]].word if near and near[0] in OPERATIONS else "".join(near)
    advice = f"did you mean '{word}'?" if word else "'winpop help' shows those there are."
    return not_understood("unknown-word", f"There is no word '{readable(text)}'; {advice}")
