r"""The header by which a proxy says who its client is: the PROXY protocol of HAProxy, versions 1 and 2.

A line of text (`PROXY TCP4 192.0.2.7 198.51.100.1 51234 110`, CRLF), or octets that begin with a signature which no
text protocol begins with. Which of the two a proxy speaks is seen from its first octets. Whether a peer is a proxy is
for the caller to know: from all others nothing of this may be read, and from a proxy nothing else (threats.md H10).

Kept of its rules: a version 1 line has at most 107 octets; what follows UNKNOWN is ignored; LOCAL ends what is said,
its block is passed over; families and transports that a TCP listener cannot meet leave the source unknown; commands,
families and transports that there are not, and addresses that are cut short, break the header, and so does a
checksum (CRC32c) that is wrong. Other type-length-values are passed over.

Invariant: what comes out depends on the octets and never on how they were cut; a header that is broken stays so; at
most 107 or 16 + 4096 octets are kept before one is done or broken.
"""

import ipaddress
import re
from enum import Enum, auto

from winpop.terms.endpoints import IPAddress, parse_peer

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_TEXT = b"PROXY "
_LONGEST_LINE = 107
_FIXED = 16
"""Octets of version 2 before its block: signature, version and command, family and transport, the block's length."""
_LONGEST_BLOCK = 4096
_PORT = "(?:0|[1-9][0-9]{0,4})"
_LINE = re.compile(
    rf"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP(?P<family>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<target>[0-9A-Fa-f:.]+)"
    rf" (?P<from_port>{_PORT}) (?P<to_port>{_PORT}))".encode("ascii")
)
_LARGEST_PORT = 65535
_LOCAL, _PROXY = 0x20, 0x21
"""Version 2 and a command, in one octet."""
_FAMILIES = (0x00, 0x10, 0x20, 0x30)
"""Unspecified, IPv4, IPv6, UNIX; the transport is the other half of the octet: unspecified, stream, datagram."""
_TRANSPORTS = (0x00, 0x01, 0x02)
_ADDRESSES = {0x11: 4, 0x21: 16}
"""TCP over IPv4 and IPv6: octets of an address. Two addresses come, then two ports of two octets."""
_CHECKSUM = 0x03


class State(Enum):
    """How far a header is."""

    MORE = auto()
    DONE = auto()
    BROKEN = auto()


class Header:
    """The header of one connection.

    `source` is the client's address once the state is `DONE`, None where the proxy does not say: then the proxy itself
    is the peer. `rest` are the octets that came after the header. `flaw` says, for the log, why a header is broken.
    """

    __slots__ = ("_buffer", "flaw", "rest", "source", "state")

    def __init__(self) -> None:
        self.state = State.MORE
        self.source: IPAddress | None = None
        self.rest = b""
        self.flaw = ""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take octets as they came in. It never raises; what comes when a header is broken is dropped."""
        if self.state is State.DONE:
            self.rest += data
        elif self.state is State.MORE:
            self._buffer += data
            self._look()

    def _look(self) -> None:
        """Read what is there, from its beginning."""
        beginning = bytes(self._buffer[: len(SIGNATURE)])
        if beginning.startswith(_TEXT):
            self._look_at_line()
        elif beginning == SIGNATURE:
            self._look_at_block()
        elif not (_TEXT.startswith(beginning) or SIGNATURE.startswith(beginning)):
            self._break("it does not begin with a PROXY header")

    def _look_at_line(self) -> None:
        """Read version 1."""
        end = self._buffer.find(b"\r\n", 0, _LONGEST_LINE)
        if end < 0:
            if len(self._buffer) >= _LONGEST_LINE:
                self._break("the line is too long")
            return
        match = _LINE.fullmatch(self._buffer[:end])
        if match is None:
            self._break("the line is malformed")
        elif match["family"] is None:
            self._finish(None, end + 2)
        else:
            self._take(match, end + 2)

    def _take(self, match: re.Match[bytes], end: int) -> None:
        """Read the addresses of a line that has the form of one."""
        kind = ipaddress.IPv4Address if match["family"] == b"4" else ipaddress.IPv6Address
        try:
            source, _ = (kind(match[name].decode("ascii")) for name in ("source", "target"))
        except ValueError:
            self._break("an address is none of its family")
            return
        if max(int(match["from_port"]), int(match["to_port"])) > _LARGEST_PORT:
            self._break("a port is above 65535")
            return
        self._finish(source, end)

    def _look_at_block(self) -> None:
        """Read version 2. What cannot become right is refused before its block is there."""
        if len(self._buffer) < _FIXED:
            return
        command, family = self._buffer[12], self._buffer[13]
        end = _FIXED + int.from_bytes(self._buffer[14:_FIXED], "big")
        if command not in (_LOCAL, _PROXY):
            self._break("it has another version or command")
        elif end > _FIXED + _LONGEST_BLOCK:
            self._break("the block is too long")
        elif command == _PROXY and (family & 0xF0 not in _FAMILIES or family & 0x0F not in _TRANSPORTS):
            self._break("there is no such family or transport")
        elif len(self._buffer) >= end:
            size = _ADDRESSES.get(family) if command == _PROXY else None
            if size is None:
                self._finish(None, end)
            else:
                self._take_addresses(size, end)

    def _take_addresses(self, size: int, end: int) -> None:
        """Read the block of a client that came by TCP, all of which is there."""
        values = _FIXED + 2 * size + 4
        if values > end:
            self._break("the addresses are cut short")
        elif (flaw := _flaw_of_values(self._buffer[:end], values)) is not None:
            self._break(flaw)
        else:
            self._finish(ipaddress.ip_address(bytes(self._buffer[_FIXED : _FIXED + size])), end)

    def _finish(self, source: IPAddress | None, end: int) -> None:
        self.state = State.DONE
        self.source = None if source is None else parse_peer(str(source))
        self.rest = bytes(self._buffer[end:])
        self._buffer.clear()

    def _break(self, flaw: str) -> None:
        self.state = State.BROKEN
        self.flaw = flaw
        self._buffer.clear()


def _flaw_of_values(header: bytearray, start: int) -> str | None:
    """Return what is wrong with the type-length-values that fill a header of version 2 from `start` on, or None."""
    while start < len(header):
        begins = start + 3
        ends = begins + int.from_bytes(header[start + 1 : begins], "big")
        if ends > len(header):
            return "a value is cut short"
        if header[start] == _CHECKSUM:
            if ends - begins != 4:  # noqa: PLR2004 - octets of a checksum
                return "the checksum is malformed"
            without = header[:begins] + bytes(4) + header[ends:]
            if crc32c(without) != int.from_bytes(header[begins:ends], "big"):
                return "the checksum is wrong"
        start = ends
    return None


def crc32c(data: bytes | bytearray) -> int:
    """Return the CRC32c (Castagnoli) of some octets, as RFC 9260 has it in appendix A."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = _CRC[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _make_table() -> tuple[int, ...]:
    """Return what each octet does to the checksum: eight divisions by the polynomial, bits reflected."""
    table = []
    for octet in range(256):
        crc = octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC = _make_table()
