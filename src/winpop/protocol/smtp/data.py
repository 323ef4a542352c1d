"""A message's body out of the stream that follows DATA (RFC 5321 §4.1.1.4, §4.5.2).

Invariant: only CRLF.CRLF ends a body, and a CR or LF that stands alone ends everything: no two readers can
then disagree about where a message ends (SMTP smuggling, CVE-2023-51764 and its kin). What comes out, and
every fact that is known at the end, depends only on the bytes and never on how the network cut them. At most
four octets are carried from one piece to the next, and no piece is looked at octet by octet.
"""

import re
from enum import Enum, auto

_LONE_CR = re.compile(rb"\r(?!\n)")
_DOTTED = b"\r\n."
_STUFFED = b"\r\n.."
_END = b"\r\n.\r\n"
_BLANK = b"\r\n\r\n"
_RECEIVED = b"\r\nreceived:"


class Outcome(Enum):
    """Why nothing more of a body will come."""

    DOT = auto()
    BARE_NEWLINE = auto()
    ENDLESS = auto()
    """More than twice the octets that a message may have."""


class Decoder:
    """Takes the pieces as they come in and gives out the body, dot-stuffing undone."""

    __slots__ = (
        "_budget",
        "_carried",
        "_header",
        "_unsent",
        "hops",
        "nul",
        "octets",
        "outcome",
        "plain",
        "rest",
    )

    def __init__(self, limit: int) -> None:
        """Begin a body that should have at most `limit` octets; the caller compares, here is only the end."""
        self.outcome: Outcome | None = None
        self.rest = b""
        """What came after the final dot: the commands that follow."""
        self.octets = 0
        """The size of the body so far (RFC 1870 §5: without stuffed dots and without the final one)."""
        self.hops = 0
        """How many Received fields the header has so far (RFC 5321 §6.3)."""
        self.nul = False
        self.plain = True
        """No line of the body so far begins with a dot."""
        # Dot-stuffing at most doubles the lines `.CRLF`: a body within the limit is never endless.
        self._budget = 2 * limit + len(_END)
        self._carried = b"\r\n"  # the line end of DATA itself: a body may be nothing but its final dot
        self._unsent = len(self._carried)  # it is not part of the body
        self._header: bytes | None = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next piece and return the body's next octets, which may be none."""
        within, beyond = data[: self._budget], data[self._budget :]
        self._budget -= len(within)
        joined = self._carried + within
        # rfind first, as it is twice as quick as find where there is nothing to be found: in all pieces but the last.
        first = joined.find(_DOTTED) if joined.rfind(_DOTTED) >= 0 else -1
        end = joined.find(_END, first) if first >= 0 else -1
        if end >= 0:
            text = joined[: end + 2]
        else:
            self._carried = _unfinished(joined)
            text = joined[: len(joined) - len(self._carried)]
        # Each CR has its LF, and there are no more LFs than CRs: then each LF has its CR too.
        if _LONE_CR.search(text) or text.count(b"\r") != text.count(b"\n"):
            self.outcome = Outcome.BARE_NEWLINE
            return b""
        if end >= 0:
            self.outcome = Outcome.DOT
            self.rest = joined[end + len(_END) :] + beyond
        elif beyond:
            self.outcome = Outcome.ENDLESS
        return self._decoded(text, dotted=0 <= first != end)

    def _decoded(self, text: bytes, *, dotted: bool) -> bytes:
        """Undo the dot-stuffing of whole lines and whole pieces of lines, and note what is in them."""
        if dotted:
            self.plain = self.plain and _STUFFED not in text
            text = b"\r\n".join(text.split(_DOTTED))  # replace would search twice
        if b"\0" in text:
            self.nul = True
        if self._header is not None:
            self._count_hops(text)
        if self._unsent and text:
            text = text[self._unsent :]
            self._unsent = 0
        self.octets += len(text)
        return text

    def _count_hops(self, text: bytes) -> None:
        assert self._header is not None
        seen = self._header + text
        end = seen.find(_BLANK)
        header = seen if end < 0 else seen[: end + 2]
        self.hops += header.lower().count(_RECEIVED)
        # Kept is less than one field name, so that none is counted twice, and more than a blank line needs.
        self._header = seen[1 - len(_RECEIVED) :] if end < 0 else None


def _unfinished(joined: bytes) -> bytes:
    """Return the end of `joined` that may be the beginning of the final dot."""
    for length in range(len(_END) - 1, 0, -1):
        if joined.endswith(_END[:length]):
            return joined[-length:]
    return b""
