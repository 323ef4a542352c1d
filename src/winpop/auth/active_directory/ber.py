"""Encoding of LDAP messages: the part of the Basic Encoding Rules that RFC 4511 §5.1 leaves.

Lengths are definite, strings are in one piece, tags have one octet. Invariant: what is read was wholly there and of the
expected tag, or `Malformed` is raised; reading neither recurses nor looks beyond the element it is in.
"""

BOOLEAN, INTEGER, OCTET_STRING, ENUMERATED, SEQUENCE, SET = 0x01, 0x02, 0x04, 0x0A, 0x30, 0x31
_LONG, _MOST_LENGTH_OCTETS, _MOST_NUMBER_OCTETS = 0x80, 4, 4


class Malformed(Exception):  # noqa: N818 - the word of the protocols for what is not of its form
    """Octets that are no such element."""


def element(tag: int, *contents: bytes) -> bytes:
    """Return an element with these contents."""
    size = sum(map(len, contents))
    if size < _LONG:
        length = bytes([size])
    else:
        octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
        length = bytes([_LONG | len(octets)]) + octets
    return b"".join([bytes([tag]), length, *contents])


def integer(number: int, tag: int = INTEGER) -> bytes:
    """Return a number that is not negative."""
    return element(tag, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def text(value: str | bytes, tag: int = OCTET_STRING) -> bytes:
    """Return an octet string; text is UTF-8."""
    return element(tag, value.encode() if isinstance(value, str) else value)


def whole(octets: bytes | bytearray, most: int) -> int:
    """Return how many octets the first element takes, or 0 while it is not all there.

    Raises `Malformed` as soon as it can be seen that it has no definite length, or more than `most` octets.
    """
    head = _head(octets, 0)
    if head is None:
        return 0
    start, size = head
    if start + size > most:
        raise Malformed
    return start + size if start + size <= len(octets) else 0


class Reader:
    """Reads elements one after the other."""

    def __init__(self, octets: bytes) -> None:
        """Begin at the first."""
        self._octets = octets
        self._at = 0

    def more(self) -> bool:
        """Tell whether there is another."""
        return self._at < len(self._octets)

    def tag(self) -> int:
        """Return the tag of the next one."""
        if not self.more():
            raise Malformed
        return self._octets[self._at]

    def take(self, tag: int) -> bytes:
        """Return the contents of the next one, which must have this tag."""
        head = _head(self._octets, self._at)
        if head is None or self._octets[self._at] != tag:
            raise Malformed
        start, size = head
        if start + size > len(self._octets):
            raise Malformed
        self._at = start + size
        return self._octets[start : self._at]

    def enter(self, tag: int) -> "Reader":
        """Return a reader of the elements within the next one."""
        return Reader(self.take(tag))

    def number(self, tag: int = INTEGER) -> int:
        """Return a number that is not negative and has at most 31 bits."""
        octets = self.take(tag)
        if not 1 <= len(octets) <= _MOST_NUMBER_OCTETS or octets[0] & 0x80:
            raise Malformed
        return int.from_bytes(octets, "big")

    def text(self) -> str:
        """Return an octet string as text; what is not UTF-8 in it shows as U+FFFD."""
        return self.take(OCTET_STRING).decode("utf-8", "replace")


def _head(octets: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Return where the contents of the element at `at` begin and how many octets they have; None: not all there."""
    if len(octets) < at + 2:
        return None
    first = octets[at + 1]
    if first < _LONG:
        return at + 2, first
    count = first & 0x7F
    if not 1 <= count <= _MOST_LENGTH_OCTETS:
        raise Malformed
    start = at + 2 + count
    if len(octets) < start:
        return None
    return start, int.from_bytes(octets[at + 2 : start], "big")
