"""A message on its way in, from `354` to its final dot: from octets to needs, and what is wrong with it.

Invariant: nothing is written once the message is known not to be taken; a place that was opened is abandoned
then, once, and the rest of the message is read and forgotten. Which flaw is told does not depend on cuts:
it is known at the end, and what is wrong for ever comes before what is wrong now.
"""

from winpop.protocol.lines import Lines
from winpop.protocol.smtp import replies
from winpop.protocol.smtp.data import Decoder, Outcome
from winpop.protocol.smtp.needs import Abandon, Write


class Body:
    """A message for which there is a place in the store."""

    __slots__ = ("_decoder", "_failure", "_hops", "_octets", "_placed")

    def __init__(self, octets: int, hops: int) -> None:
        """Begin a message that may have so many octets and Received fields."""
        self._octets = octets
        self._hops = hops
        self._decoder = Decoder(octets)
        self._failure: bytes | None = None
        self._placed = True

    @property
    def outcome(self) -> Outcome | None:
        """Tell why nothing more of it will come; None while more may."""
        return self._decoder.outcome

    @property
    def plain(self) -> bool:
        """Tell whether no line of it begins with a dot."""
        return self._decoder.plain

    @property
    def flaw(self) -> bytes | None:
        """The reply to what is known to be wrong with it."""
        decoder = self._decoder
        if decoder.outcome is Outcome.BARE_NEWLINE:
            return replies.BARE_NEWLINE
        if decoder.octets > self._octets or decoder.outcome is Outcome.ENDLESS:
            return replies.TOO_LARGE
        if decoder.hops > self._hops:
            return replies.TOO_MANY_HOPS
        if decoder.nul:
            return replies.NUL
        return self._failure

    def fail(self, reply: bytes) -> None:
        """Note that the store did not take it, and what to reply."""
        self._failure = reply

    def read(self, lines: Lines) -> Write | Abandon | None:
        """Use what came in and put back what follows the message; return what has to be done with it."""
        octets = b""
        if self._decoder.outcome is None and len(lines):
            octets = self._decoder.feed(lines.take_all())
            if self._decoder.rest:
                lines.append(self._decoder.rest)
        if self.flaw is None:
            return Write(octets) if octets else None
        placed, self._placed = self._placed, False
        return Abandon() if placed else None
