"""What the mechanisms are written with: a run is a generator, read from top to bottom like the dialogue it is.

It yields what it wants to know and is sent what it wanted; what it returns is the end. Invariant: a run is only sent
what fits its last move (a response for a challenge, an answer for what it asked); anything else ends it as malformed.
"""

from collections.abc import Callable, Generator
from typing import TypeVar

from winpop.protocol.sasl.moves import (
    Answer,
    Challenge,
    Continue,
    Keys,
    Malformed,
    Move,
    Proved,
    Step,
    Surroundings,
    Unavailable,
)
from winpop.terms.credentials import ScramKeys

_T = TypeVar("_T")
_End = Proved | Malformed | Unavailable
Talk = Generator[Challenge | Keys | Step, bytes | Answer | None, _T]
"""A part of a run."""
Run = Talk[_End]

Mechanism = Callable[[Surroundings, bytes | None], Run]
"""Begins a run with the client's initial response; None where it sent none, which an empty one is not."""

_FITS: dict[type[Move], tuple[type, ...]] = {
    Challenge: (bytes,),
    Keys: (ScramKeys, Unavailable),
    Step: (Continue, Proved, Malformed, Unavailable),
}


def challenge(data: bytes) -> Talk[bytes]:
    """Send the client `data` and return its response."""
    response = yield Challenge(data)
    assert isinstance(response, bytes)
    return response


def first(initial: bytes | None) -> Talk[bytes]:
    """Return the first message of a client that speaks first; without one it is sent an empty challenge."""
    return (yield from challenge(b"")) if initial is None else initial


class Dialogue:
    """The run of a mechanism, as an `Exchange`."""

    def __init__(self, mechanism: Mechanism, surroundings: Surroundings, failure: bytes | None) -> None:
        self._mechanism = mechanism
        self._surroundings = surroundings
        self._failure = failure
        self._run: Run
        self._last: Move

    def start(self, initial: bytes | None) -> Move:
        """Begin, with the client's initial response if it sent one. To be called once, before all else."""
        self._run = self._mechanism(self._surroundings, initial)
        return self._go_on(None)

    def respond(self, response: bytes) -> Move:
        """Take the client's response to a `Challenge`."""
        return self._take(response)

    def supply(self, answer: Answer) -> Move:
        """Take the answer to `Keys` or `Step`."""
        return self._take(answer)

    def failure(self) -> bytes | None:
        """Return what the client is told before a refusal (RFC 7628 §3.2.3), or None."""
        return self._failure

    def _take(self, said: bytes | Answer) -> Move:
        if not isinstance(said, _FITS.get(type(self._last), ())):
            return self._end(Malformed())
        if isinstance(said, Proved | Malformed | Unavailable):
            return self._end(said)
        return self._go_on(said)

    def _go_on(self, said: bytes | Answer | None) -> Move:
        try:
            self._last = self._run.send(said)
        except StopIteration as end:
            return self._end(end.value)
        return self._last

    def _end(self, end: _End) -> Move:
        self._run.close()
        self._last = end
        return end
