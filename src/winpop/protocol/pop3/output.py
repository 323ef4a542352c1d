"""What goes out of a POP3 session: replies to the client, at most one need to the world; and when there is enough.

Invariants: a line is said in the language that the client has chosen (RFC 6856 §3), after the last reply comes nothing,
and no handshake makes the counts of what went wrong begin anew.
"""

from typing import TYPE_CHECKING

from winpop.protocol.pop3 import replies
from winpop.protocol.pop3.languages import ENGLISH, in_language
from winpop.protocol.pop3.state import Limits

if TYPE_CHECKING:
    from winpop.protocol.pop3.needs import Need


class Output:
    """The open need, and the replies that nobody has taken yet: line ends are added here."""

    __slots__ = ("_errors", "_failures", "_limits", "_octets", "closed", "language", "need", "size")

    def __init__(self, limits: Limits) -> None:
        """Begin in English."""
        self.need: Need | None = None
        self.language = ENGLISH
        self.closed = False
        self.size = 0
        """Octets that nobody has taken."""
        self._limits = limits
        self._failures = 0
        self._errors = 0
        self._octets: list[bytes] = []

    def put(self, reply: bytes) -> None:
        """Say a line."""
        if self.language is not ENGLISH:
            reply = in_language(reply, self.language)
        self._octets.append(reply)
        self._octets.append(b"\r\n")
        self.size += len(reply) + 2

    def put_lines(self, reply: bytes, lines: list[bytes]) -> None:
        """Say a multi-line reply (RFC 1939 §3). None of the lines begins with a dot."""
        self.put(reply)
        self.add(b"".join(line + b"\r\n" for line in lines) + b".\r\n")

    def add(self, octets: bytes) -> None:
        """Say these octets: what is no status line, and has its line ends."""
        self._octets.append(octets)
        self.size += len(octets)

    def add_whole(self, octets: bytes) -> None:
        """Say a message that needs nothing done to it."""
        end = b".\r\n" if octets.endswith(b"\r\n") or not octets else b"\r\n.\r\n"
        self._octets.append(octets)
        self._octets.append(end)
        self.size += len(octets) + len(end)

    def error(self, reply: bytes) -> None:
        """Reply to what is no proper command; a client that sends nothing else is let go."""
        self._errors += 1
        if self._errors >= self._limits.errors:
            self.close(replies.TOO_MUCH_AMISS)
        else:
            self.put(reply)

    def failed(self, reply: bytes) -> None:
        """Reply to a logon that was wrong; after some of them the client is let go."""
        self._failures += 1
        if self._failures >= self._limits.failures:
            self.close(reply)
        else:
            self.put(reply)

    def close(self, reply: bytes) -> None:
        """Say a last line."""
        self.put(reply)
        self.closed = True

    def take(self) -> bytes:
        """Return what was said since the last time."""
        if not self.size:
            return b""
        data = b"".join(self._octets)
        self._octets.clear()
        self.size = 0
        return data
