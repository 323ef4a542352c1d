"""The help, made from the tables of words.

Invariant: every word and every switch that is understood is in it.
"""

from winpop.admin.contract import Operation, Switch
from winpop.admin.operations import OPERATIONS
from winpop.cli.words import OWN_WORDS, OwnWord, switches_of, unknown_word

_GLOBAL = """\
Everywhere:
  --home DIR     the installation; else WINPOP_HOME, else the platform's place for data
  --json         one JSON document, errors too
  --help         this, or the help of the word; also -h and /?
  --version      the version

Words and switches in any case; a switch is /name or --name, its value /name:VALUE, --name=VALUE or what follows.
Exit status: 0 done, 1 refused, 2 not understood, 3 not permitted, 4 service or database out of reach."""


def overview() -> str:
    """Return the help of all words."""
    every: list[Operation | OwnWord] = [*OPERATIONS.values(), *OWN_WORDS.values()]
    words = {usage(word): word.meaning for word in every}
    lines = [f"  {shown}\n      {meaning}" for shown, meaning in words.items()]
    return "\n".join(
        ["winpop - administer and run a mail host", "", *lines, "", _GLOBAL, "", "'winpop help WORD' says more."]
    )


def of_word(text: str) -> str:
    """Return the help of one word, in any case. Raises `Refusal` (`unknown-word`)."""
    word = OPERATIONS.get(text.lower()) or OWN_WORDS.get(text.lower())
    if word is None:
        raise unknown_word(text)
    switches = [(_shown(switch), switch.meaning) for switch in _switches(word)]
    width = max((len(shown) for shown, _ in switches), default=0)
    lines = [f"  {shown.ljust(width)}  {meaning}" for shown, meaning in switches]
    return "\n".join(
        [f"winpop {usage(word)}", "", f"{word.meaning[0].upper()}{word.meaning[1:]}.", "", word.details]
        + (["", *lines] if lines else [])
    )


def usage(word: Operation | OwnWord) -> str:
    """Return how a word is written, such as `unlock DOMAIN | USER@DOMAIN`."""
    parts = [word.word]
    if isinstance(word, OwnWord):
        parts += [word.shown] if word.shown else []
    else:
        parts += [f"[{a.shown}]" if a.optional or a.secret else a.shown for a in word.arguments]
    return " ".join([*parts, *(f"[{_shown(switch)}]" for switch in _switches(word))])


def _switches(word: Operation | OwnWord) -> tuple[Switch, ...]:
    return word.switches if isinstance(word, OwnWord) else switches_of(word)


def _shown(switch: Switch) -> str:
    value = f"[{switch.value}]" if switch.secret else switch.value
    return f"/{switch.name} {value}" if value else f"/{switch.name}"
