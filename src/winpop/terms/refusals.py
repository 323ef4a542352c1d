"""What the house says when it does not do a thing: one sentence, and a code that never changes.

Invariant: every refusal that an administrator can meet is one of these; its kind is the exit status.
"""

from enum import IntEnum


class Kind(IntEnum):
    """Why nothing was done. The number is the exit status of `winpop`."""

    REFUSED = 1
    """Understood, and against a rule or against what there is."""
    NOT_UNDERSTOOD = 2
    """A word, name, number, path or password that cannot be one."""
    NOT_PERMITTED = 3
    """The one who asks may not."""
    OUT_OF_REACH = 4
    """The service, the database or the disk does not answer; the same request may succeed later."""


class Refusal(Exception):  # noqa: N818 - it is the domain's word; a refusal need not be an error
    """A thing that was not done. Nothing has changed when one is raised.

    `code` is stable and for programs (`domain-locked`); `sentence` is for people and says what,
    where and what to do.
    """

    def __init__(self, code: str, sentence: str, kind: Kind = Kind.REFUSED) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.kind = kind


def not_understood(code: str, sentence: str) -> Refusal:
    """Make the refusal of something that cannot be read as what it should be."""
    return Refusal(code, sentence, Kind.NOT_UNDERSTOOD)


def out_of_reach(code: str, sentence: str) -> Refusal:
    """Make the refusal of something that may succeed later: full disk, busy or missing database."""
    return Refusal(code, sentence, Kind.OUT_OF_REACH)


def readable(text: str) -> str:
    r"""Return `text` with control and bidirectional characters as `\xNN` or `\uNNNN`, at most 200 characters.

    For sentences and logs that quote what somebody sent: it cannot forge a line or steer a terminal.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:200])
    return shown + "…" if len(text) > 200 else shown  # noqa: PLR2004 - the limit that the docstring states
