"""Command lines out of a stream of bytes (RFC 1939 §3, RFC 5321 §2.3.8).

A line ends with CRLF and with nothing else: a bare CR or LF is never a line end and never part of a line.
Invariant: what comes out depends only on the bytes, never on how the network cut them into pieces, and at
most `limit` octets are looked at before a line is refused.
"""

from enum import Enum, auto


class Flaw(Enum):
    """Why there is no next line, and never will be: after either, where lines end is in doubt."""

    BARE_NEWLINE = auto()
    TOO_LONG = auto()


class Lines:
    """The bytes that came in and were not used yet, given out line by line."""

    __slots__ = ("_buffer", "_looked_at", "limit")

    def __init__(self, limit: int) -> None:
        """Take lines of at most `limit` octets, CRLF included."""
        self.limit = limit
        self._buffer = bytearray()
        self._looked_at = 0

    def __len__(self) -> int:
        return len(self._buffer)

    def begin_with(self, word: bytes) -> bool:
        """Tell whether what is there begins with this word, in any case."""
        return self._buffer[: len(word)].upper() == word

    def append(self, data: bytes) -> None:
        """Add bytes as they came in."""
        self._buffer += data

    def take_all(self) -> bytes:
        """Give out everything that is there, no longer as lines."""
        data = bytes(self._buffer)
        self.clear()
        return data

    def clear(self) -> None:
        """Forget everything that is there."""
        self._buffer.clear()
        self._looked_at = 0

    def next(self) -> bytes | Flaw | None:
        """Give out the next line without its CRLF; None when it is not all there yet."""
        buffer = self._buffer
        end = buffer.find(b"\n", self._looked_at, self.limit)
        if end < 0:
            if len(buffer) >= self.limit:
                return Flaw.TOO_LONG
            self._looked_at = len(buffer)
            return None
        if end == 0 or buffer[end - 1] != 0x0D:  # noqa: PLR2004 - CR
            return Flaw.BARE_NEWLINE
        line = bytes(buffer[: end - 1])
        if b"\r" in line:
            return Flaw.BARE_NEWLINE
        del buffer[: end + 1]
        self._looked_at = 0
        return line


def looks_like_http(line: bytes) -> bool:
    """Tell whether a first line is a browser's or a proxy's (cross-protocol attacks, ALPACA 2021)."""
    return line.startswith(_HTTP_METHODS) or b" HTTP/" in line


_HTTP_METHODS = (
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PATCH ",
    b"DELETE ",
)
