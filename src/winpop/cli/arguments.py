r"""What was typed, taken apart: a word, its arguments, its switches.

Words and switches in any case; a switch is `/name` or `--name`, with a value as `/name:VALUE`, `--name=VALUE` or the
next argument, and dashes inside its name do not count (`--create-user` is `/createuser`). After a lone `--` nothing is
a switch. Invariant: `/x` is a switch only where a switch x is known; where a path or a password may stand it is that,
and `/home` alone is always a directory (`--home DIR` or `/home:DIR` is the switch). A password is never quoted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from winpop.cli.words import GLOBAL, SYNTAX, Syntax, Value, unknown_word
from winpop.terms.refusals import Refusal, not_understood, readable

_ALL = GLOBAL | {name: value for syntax in SYNTAX.values() for name, value in syntax.switches.items()}


@dataclass(frozen=True, slots=True)
class Command:
    """What was typed. `switches` has None for a switch without a value; `word` is None where there was none."""

    word: str | None
    words: tuple[str, ...] = field(default=(), repr=False)  # a password may be among them
    switches: Mapping[str, str | None] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class _Switch:
    """An argument that has a switch's shape."""

    name: str
    value: str | None
    slash: bool


def parse(typed: Sequence[str]) -> Command:
    """Take what was typed apart.

    Raises `Refusal`: `unknown-word`, `unknown-switch`, `missing-value`, `unexpected-value`.
    """
    place = _place_of_word(typed)
    if place is None:
        word, syntax = None, Syntax({})
    else:
        word = typed[place].lower()
        if word.startswith("-"):
            raise _unknown_switch(None, Syntax({}), typed[place])
        if word not in SYNTAX:
            raise unknown_word(typed[place])
        syntax = SYNTAX[word]
    words: list[str] = []
    switches: dict[str, str | None] = {}
    rest = [*typed[:place], *typed[place + 1 :]] if place is not None else list(typed)
    while rest:
        text = rest.pop(0)
        if text == "--":
            words += rest
            break
        switch = _shape(text)
        if switch is None:
            words.append(text)
        elif (value := _known(switch, syntax)) is not None:
            switches["help" if switch.name == "?" else switch.name] = _value(switch, value, rest, syntax)
        elif switch.slash and syntax.slashes:
            words.append(text)
        else:
            raise _unknown_switch(word, syntax, text)
    return Command(word, tuple(words), switches)


def wants_json(typed: Sequence[str]) -> bool:
    """Tell whether `--json` was typed, so that even what cannot be taken apart is answered in JSON."""
    before = typed[: typed.index("--")] if "--" in typed else typed
    return any(switch.name == "json" for switch in map(_shape, before) if switch)


def _shape(text: str) -> _Switch | None:
    if text in {"-h", "-?"}:
        return _Switch("help", None, slash=False)
    match = re.fullmatch(r"(--|/)([^:=]+)(?:[:=](.*))?", text, re.DOTALL)
    if match is None:
        return None
    return _Switch(match[2].lower().replace("-", ""), match[3], slash=match[1] == "/")


def _known(switch: _Switch, syntax: Syntax) -> Value | None:
    if switch.slash and switch.name == "home" and switch.value is None:
        return None
    return GLOBAL.get(switch.name) or syntax.switches.get(switch.name)


def _value(switch: _Switch, value: Value, rest: list[str], syntax: Syntax) -> str | None:
    """Return the value of a switch, taking it from what follows where it must."""
    if value is Value.NONE:
        if switch.value is not None:
            raise not_understood("unexpected-value", f"/{switch.name} takes no value.")
        return None
    if switch.value is not None:
        return switch.value
    following = _shape(rest[0]) if rest else None
    if rest and rest[0] != "--" and (following is None or _known(following, syntax) is None):
        return rest.pop(0)
    if value is Value.NEEDED:
        raise not_understood("missing-value", f"/{switch.name} needs a value after it.")
    return None


def _place_of_word(typed: Sequence[str]) -> int | None:
    """Find the word among the switches that may stand before it."""
    place = 0
    while place < len(typed):
        switch = _shape(typed[place])
        if switch is None and typed[place] != "--":
            return place
        takes = switch and switch.value is None and _ALL.get(switch.name) is Value.NEEDED
        place += 2 if takes else 1
    return None


def _unknown_switch(word: str | None, syntax: Syntax, text: str) -> Refusal:
    """Make the refusal of a switch that there is not; what stands in it may be a password, or have one as its value."""
    name = "'" + readable(re.split("[:=]", text)[0]) + "'"
    if word is None:
        return not_understood("unknown-switch", f"{name} is not a switch; 'winpop help' shows those there are.")
    takes = "takes " + (", ".join(f"/{switch}" for switch in syntax.switches) or "no switch of its own")
    if syntax.secret:
        takes += "; a password that begins with -- goes after a lone --"
        name = "the switch that was given"
    return not_understood("unknown-switch", f"'{word}' does not have {name}; it {takes}.")
