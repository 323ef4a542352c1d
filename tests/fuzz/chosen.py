"""What a fuzzed input chooses besides the bytes that a client sends: answers, cuts, and the moment of an ending.

An input is a header of five octets (how many answers, how many cuts, when to end, why, flags), the answers, the cuts,
and the rest, which is the script of the client. Invariant: every bytes value is an input, what is missing is 0, and 0
always means the usual thing, so that `HEADER + script` is a plain dialogue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

HEADER = bytes(5)
_MOST = 32


class BrokenLawError(AssertionError):
    """A law that does not hold."""


def law(holds: object, sentence: str, *seen: object) -> None:
    """Raise `BrokenLawError` where a law does not hold, with what was seen."""
    if not holds:
        raise BrokenLawError(f"{sentence}: " + ", ".join(repr(what)[:2000] for what in seen))


class Answers:
    """The answers in their order; 0, the usual one, when there are no more."""

    def __init__(self, octets: bytes) -> None:
        self._octets = iter(octets)

    def next(self) -> int:
        return next(self._octets, 0)


@dataclass(frozen=True, slots=True)
class Chosen:
    """An input, taken apart."""

    answers: bytes
    cuts: bytes
    ends: int
    """How many steps from now the session is ended from outside; 0: it is not."""
    reason: int
    flags: int
    script: bytes

    @classmethod
    def of(cls, data: bytes) -> Self:
        answers, cuts, ends, reason, flags = data[:5].ljust(5, b"\0")
        first = 5 + answers % _MOST
        second = first + cuts % _MOST
        return cls(data[5:first], data[first:second], ends, reason, flags, data[second:])

    def pieces(self) -> list[bytes]:
        """Return the script as it was cut: each cut is the length of a piece, and the rest is one piece."""
        places = [0]
        for length in self.cuts:
            places.append(min(places[-1] + length, len(self.script)))
        return [self.script[start:end] for start, end in pairwise([*places, len(self.script)])]

    def lines(self) -> Iterator[bytes]:
        """Yield what ends with CRLF, piece by piece, and what is left after the last."""
        *lines, rest = self.script.split(b"\r\n")
        yield from (line + b"\r\n" for line in lines)
        yield rest
