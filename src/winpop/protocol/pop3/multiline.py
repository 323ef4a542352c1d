"""A message on its way out as a multi-line reply (RFC 1939 §3): dot-stuffing, the final dot, and TOP.

Invariant: whatever pieces a message comes in, what goes out is the message with each line that begins
with a dot given another, closed by CRLF (added only where the message does not end with one) and `.CRLF`.
"""

_TERMINATED = b".\r\n"


class Stuffing:
    """Dot-stuff a message that comes in pieces."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def feed(self, data: bytes, *, plain: bool) -> bytes:
        """Return `data` as it goes on the wire; `plain` promises that no line begins with a dot."""
        if not data:
            return data
        stuffed = data
        if not plain:
            if self._tail.endswith(b"\r\n") and data.startswith(b"."):
                stuffed = b"." + stuffed
            elif self._tail.endswith(b"\r") and data.startswith(b"\n."):
                stuffed = b"\n." + stuffed[1:]
            stuffed = stuffed.replace(b"\r\n.", b"\r\n..")
        self._tail = (self._tail + data[-2:])[-2:]
        return stuffed

    def finish(self, tail: bytes | None = None) -> bytes:
        """Return what ends the reply; `tail` are the last two octets where they were not fed."""
        return _TERMINATED if (tail or self._tail) == b"\r\n" else b"\r\n" + _TERMINATED


class Top:
    """Let the header, the blank line and `lines` lines of the body through (RFC 1939 §7, TOP)."""

    __slots__ = ("_left", "_matched", "done")

    def __init__(self, lines: int) -> None:
        self._left = lines
        self._matched = 2  # octets of CRLF CRLF seen; a message may begin with its blank line
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Return what of `data` belongs to the reply; `done` tells that nothing after it does."""
        start = 0
        if self._matched < len(_BLANK):
            start = self._skip_header(data)
            if start < 0:
                return data
            if self._left == 0:
                self.done = True
                return data[:start]
        while self._left > 0:
            end = data.find(b"\n", start)
            if end < 0:
                return data
            start = end + 1
            self._left -= 1
        self.done = True
        return data[:start]

    def _skip_header(self, data: bytes) -> int:
        """Return the index after the blank line, -1 when it is not in this piece."""
        joined = _BLANK[: self._matched] + data
        found = joined.find(_BLANK)
        if found >= 0:
            end = found + len(_BLANK) - self._matched
            self._matched = len(_BLANK)
            return end
        for n in (3, 2, 1):
            if joined.endswith(_BLANK[:n]):
                self._matched = n
                break
        else:
            self._matched = 0
        return -1


_BLANK = b"\r\n\r\n"
