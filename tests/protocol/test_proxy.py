"""Who a proxy says its client is: the PROXY protocol, and that nothing else is taken for it (threats.md H10)."""

import ipaddress
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.proxy import SIGNATURE, Header, State, crc32c
from winpop.terms.endpoints import IPAddress, parse_peer

FOLLOWS = b"CAPA\r\nQUIT\r\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31
NOOP, CHECKSUM, ALPN = 0x04, 0x03, 0x01
Outcome = tuple[State, IPAddress | None, bytes]


def read(*pieces: bytes) -> Header:
    header = Header()
    for piece in pieces:
        header.feed(piece)
    return header


def outcome(header: Header) -> Outcome:
    return header.state, header.source, header.rest


def block(command: int, family: int, content: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(content).to_bytes(2, "big") + content


def addresses(source: str, target: str, ports: tuple[int, int] = (51234, 110)) -> bytes:
    packed = b"".join(ipaddress.ip_address(text).packed for text in (source, target))
    return packed + b"".join(port.to_bytes(2, "big") for port in ports)


def value(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + len(content).to_bytes(2, "big") + content


def with_checksum(command: int, family: int, content: bytes, after: bytes = b"") -> bytes:
    """Build a header of version 2 with a checksum between its addresses and what comes after."""
    zeros = block(command, family, content + value(CHECKSUM, bytes(4)) + after)
    start = 16 + len(content) + 3
    return zeros[:start] + crc32c(zeros).to_bytes(4, "big") + zeros[start + 4 :]


FOUR = addresses("192.0.2.7", "198.51.100.1")
SIX = addresses("2001:db8::7", "2001:db8::1")

GOOD: dict[str, tuple[bytes, str | None]] = {
    "a line of IPv4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 110\r\n", "192.0.2.7"),
    "a line of IPv6": (b"PROXY TCP6 2001:db8::7 2001:DB8::1 51234 110\r\n", "2001:db8::7"),
    "an IPv6 line with all zeros written": (
        b"PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0007 ::1 0 65535\r\n",
        "2001:db8::7",
    ),
    "IPv4 inside IPv6 in a line": (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1 2\r\n", "192.0.2.7"),
    "the largest addresses": (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    "unknown, short": (b"PROXY UNKNOWN\r\n", None),
    "unknown with anything": (b"PROXY UNKNOWN \0\xff whatever 99999\r\n", None),
    "the longest line": (
        b"PROXY UNKNOWN " + b" ".join([b"f" * 4 + b":ffff" * 7] * 2 + [b"65535"] * 2) + b"\r\n",
        None,
    ),
    "version 2 of IPv4": (block(PROXY, TCP4, FOUR), "192.0.2.7"),
    "version 2 of IPv6": (block(PROXY, TCP6, SIX), "2001:db8::7"),
    "IPv4 inside IPv6 in version 2": (
        block(PROXY, TCP6, addresses("::ffff:192.0.2.7", "::ffff:198.51.100.1")),
        "192.0.2.7",
    ),
    "values that mean nothing here": (
        block(PROXY, TCP4, FOUR + value(ALPN, b"pop3") + value(NOOP, b"") + value(0xEE, bytes(300))),
        "192.0.2.7",
    ),
    "a right checksum": (with_checksum(PROXY, TCP4, FOUR), "192.0.2.7"),
    "a right checksum among others": (with_checksum(PROXY, TCP6, SIX, value(ALPN, b"pop3")), "2001:db8::7"),
    "the longest block": (block(PROXY, TCP4, FOUR + value(NOOP, bytes(4096 - 12 - 3))), "192.0.2.7"),
    "local": (block(LOCAL, 0x00, b""), None),
    "local with a block of anything": (block(LOCAL, 0xFF, b"\x03\xff\xff and so on"), None),
    "local that names addresses": (block(LOCAL, TCP4, FOUR), None),
    "unspecified": (block(PROXY, 0x00, b""), None),
    "unspecified with anything": (block(PROXY, 0x00, b"\x03\0"), None),
    "UNIX": (block(PROXY, UNIX, b"/run/socket".ljust(108, b"\0") * 2), None),
    "datagrams": (block(PROXY, 0x12, FOUR), None),
    "IPv4 without a transport": (block(PROXY, 0x10, FOUR), None),
}

BAD: dict[str, bytes] = {
    "no header at all": FOLLOWS,
    "a browser's request": b"GET / HTTP/1.1\r\nHost: PROXY TCP4\r\n\r\n",
    "a handshake of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "small letters": b"proxy TCP4 192.0.2.7 198.51.100.1 51234 110\r\n",
    "something before it": b" PROXY UNKNOWN\r\n",
    "an empty line before it": b"\r\nPROXY UNKNOWN\r\n",
    "no family": b"PROXY \r\n",
    "a family that there is not": b"PROXY TCP5 192.0.2.7 198.51.100.1 51234 110\r\n",
    "datagrams in a line": b"PROXY UDP4 192.0.2.7 198.51.100.1 51234 110\r\n",
    "a family in small letters": b"PROXY tcp4 192.0.2.7 198.51.100.1 51234 110\r\n",
    "a word that begins with UNKNOWN": b"PROXY UNKNOWNS\r\n",
    "two spaces": b"PROXY  TCP4 192.0.2.7 198.51.100.1 51234 110\r\n",
    "a tab": b"PROXY TCP4\t192.0.2.7 198.51.100.1 51234 110\r\n",
    "a space at the end": b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 110 \r\n",
    "a port too few": b"PROXY TCP4 192.0.2.7 198.51.100.1 51234\r\n",
    "a port too many": b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 110 110\r\n",
    "a port with a zero before it": b"PROXY TCP4 192.0.2.7 198.51.100.1 051234 110\r\n",
    "a port of two zeros": b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 00\r\n",
    "a port that is too large": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 110\r\n",
    "a second port that is too large": b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 99999\r\n",
    "a port with a sign": b"PROXY TCP4 192.0.2.7 198.51.100.1 +5123 110\r\n",
    "a port with an underscore": b"PROXY TCP4 192.0.2.7 198.51.100.1 5_123 110\r\n",
    "a port in other digits": "PROXY TCP4 192.0.2.7 198.51.100.1 ٣٣ 110\r\n".encode(),
    "an octet with a zero before it": b"PROXY TCP4 192.0.2.07 198.51.100.1 51234 110\r\n",
    "an octet that is too large": b"PROXY TCP4 192.0.2.256 198.51.100.1 51234 110\r\n",
    "three octets": b"PROXY TCP4 192.0.2 198.51.100.1 51234 110\r\n",
    "a number for an address": b"PROXY TCP4 3221225991 198.51.100.1 51234 110\r\n",
    "a bad destination": b"PROXY TCP4 192.0.2.7 198.51.100 51234 110\r\n",
    "IPv6 in a line of IPv4": b"PROXY TCP4 2001:db8::7 2001:db8::1 51234 110\r\n",
    "IPv4 in a line of IPv6": b"PROXY TCP6 192.0.2.7 198.51.100.1 51234 110\r\n",
    "two double colons": b"PROXY TCP6 2001::db8::7 2001:db8::1 51234 110\r\n",
    "a scope": b"PROXY TCP6 fe80::7%eth0 fe80::1 51234 110\r\n",
    "brackets": b"PROXY TCP6 [2001:db8::7] [2001:db8::1] 51234 110\r\n",
    "a name": b"PROXY TCP4 localhost localhost 51234 110\r\n",
    "a network": b"PROXY TCP4 192.0.2.7/32 198.51.100.1 51234 110\r\n",
    "LF alone, and a command": b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 110\nUSER x\r\n",
    "LF alone in what is ignored": b"PROXY UNKNOWN \nUSER x\r\n",
    "CR alone": b"PROXY UNKNOWN \rUSER x\r\n",
    "CR before CRLF": b"PROXY UNKNOWN\r\r\n",
    "NUL in an address": b"PROXY TCP4 192.0.2.7\0 198.51.100.1 51234 110\r\n",
    "a line of 108 octets": b"PROXY UNKNOWN ".ljust(106) + b"\r\n",
    "a line that never ends": b"PROXY UNKNOWN " + b"x" * 1000,
    "version 1 in the second form": block(0x11, TCP4, FOUR),
    "version 3": block(0x31, TCP4, FOUR),
    "a command that there is not": block(0x22, TCP4, FOUR),
    "a family that there is not, in version 2": block(PROXY, 0x41, FOUR),
    "a transport that there is not": block(PROXY, 0x13, FOUR),
    "no addresses": block(PROXY, TCP4, b""),
    "addresses cut short": block(PROXY, TCP4, FOUR[:-1]),
    "IPv6 addresses cut short": block(PROXY, TCP6, SIX[:-1]),
    "IPv4 addresses where IPv6 is said": block(PROXY, TCP6, FOUR),
    "a block that is too long": block(PROXY, TCP4, FOUR + value(NOOP, bytes(4097 - 12 - 3))),
    "a local block that is too long": block(LOCAL, 0x00, bytes(4097)),
    "a value without its length": block(PROXY, TCP4, FOUR + b"\x04"),
    "half of a length": block(PROXY, TCP4, FOUR + b"\x04\0"),
    "a value cut short": block(PROXY, TCP4, FOUR + value(ALPN, b"pop3")[:-1]),
    "a value longer than all": block(PROXY, TCP4, FOUR + b"\x04\xff\xff"),
    "a wrong checksum": block(PROXY, TCP4, FOUR + value(CHECKSUM, b"\0\0\0\0")),
    "a right checksum of other addresses": with_checksum(PROXY, TCP4, FOUR).replace(FOUR[:4], b"\x7f\0\0\x01"),
    "a checksum of three octets": block(PROXY, TCP4, FOUR + value(CHECKSUM, b"\0\0\0")),
    "two checksums": with_checksum(PROXY, TCP4, FOUR, value(CHECKSUM, bytes(4))),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_header_gives_the_source_and_what_follows(name: str) -> None:
    header, source = GOOD[name]
    expected = (State.DONE, source and ipaddress.ip_address(source), FOLLOWS)
    assert outcome(read(header + FOLLOWS)) == expected


@pytest.mark.parametrize("name", GOOD)
def test_every_cut_of_a_good_header_comes_to_the_same(name: str) -> None:
    header, source = GOOD[name]
    stream = header + FOLLOWS
    expected = (State.DONE, source and ipaddress.ip_address(source), FOLLOWS)
    for cut in range(len(stream) + 1):
        begun = read(stream[:cut])
        assert (begun.state is State.MORE) == (cut < len(header)), cut
        assert outcome(read(stream[:cut], stream[cut:])) == expected, cut
    assert outcome(read(*(bytes([octet]) for octet in stream))) == expected


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_broken_with_a_reason_and_stays_so(name: str) -> None:
    stream = BAD[name]
    for pieces in ([stream], [bytes([octet]) for octet in stream], [stream[:20], stream[20:]]):
        header = read(*pieces)
        assert outcome(header) == (State.BROKEN, None, b"")
        assert re.fullmatch("[a-z0-9 A-Z]+", header.flaw)
        header.feed(GOOD["a line of IPv4"][0])
        assert outcome(header) == (State.BROKEN, None, b"")


@pytest.mark.parametrize("name", ["version 3", "a transport that there is not", "a block that is too long"])
def test_what_cannot_become_right_is_broken_before_its_block_is_there(name: str) -> None:
    assert read(BAD[name][:15]).state is State.MORE
    assert read(BAD[name][:16]).state is State.BROKEN


@pytest.mark.parametrize(("stream", "octets"), [(FOLLOWS, 1), (b"PROUST", 4), (b"\r\n\r\n\0\r\nQUIT\r", 12)])
def test_what_is_no_header_is_broken_at_the_first_octet_that_shows_it(stream: bytes, octets: int) -> None:
    assert read(stream[: octets - 1]).state is State.MORE
    assert read(stream[:octets]).state is State.BROKEN


def test_the_checksum_is_that_of_the_published_vectors() -> None:
    """RFC 3720 has them in appendix B.4, the last one is the usual check value."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@given(st.integers(0, 15 + 12 + 7 + 7), st.integers(1, 255))
def test_a_checksum_finds_every_octet_that_changed(place: int, change: int) -> None:
    header = bytearray(with_checksum(PROXY, TCP4, FOUR, value(ALPN, b"pop3")))
    good = outcome(read(bytes(header)))
    header[place] ^= change
    # An octet that says another family, command or length may make the checksum one that is not read; the
    # addresses are then not read either. What is never given is another address.
    assert read(bytes(header)).source in (None, good[1])


def test_a_flood_before_the_end_of_a_header_is_not_kept() -> None:
    header = Header()
    tracemalloc.start()
    try:
        for _ in range(1000):
            header.feed(b"PROXY UNKNOWN " + bytes(10_000))
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert header.state is State.BROKEN


ports = st.integers(0, 65535)
families = st.sampled_from([st.ip_addresses(v=4), st.ip_addresses(v=6)])


@given(st.data(), st.tuples(ports, ports), st.binary(max_size=40))
def test_what_was_built_is_what_is_read(data: st.DataObject, numbers: tuple[int, int], rest: bytes) -> None:
    family = data.draw(families)
    source, target = data.draw(family), data.draw(family)
    values = data.draw(st.lists(st.builds(value, st.sampled_from([NOOP, ALPN, 0xE0, 0xFF]), st.binary(max_size=9))))
    tail = " ".join(map(str, (source, target, *numbers)))
    content = addresses(str(source), str(target), numbers)
    kind = TCP4 if source.version == 4 else TCP6
    expected = (State.DONE, parse_peer(str(source)), rest)
    assert outcome(read(f"PROXY TCP{source.version} {tail}\r\n".encode() + rest)) == expected
    assert outcome(read(block(PROXY, kind, content + b"".join(values)) + rest)) == expected
    assert outcome(read(with_checksum(PROXY, kind, content, b"".join(values)) + rest)) == expected


nearly = st.lists(
    st.sampled_from([b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"1.2.3.4 ", b"::1 ", b"1 ", b"65536", b"\r\n", b"\n"])
    | st.sampled_from([SIGNATURE, SIGNATURE + b"\x21\x11\0\x0c", SIGNATURE + b"\x21\x21\0\x24", FOUR, SIX, b"\x20"])
    | st.binary(max_size=8),
    max_size=10,
).map(b"".join)


@given(nearly | st.binary(max_size=200), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_it_never_raises_and_does_not_depend_on_the_cuts(stream: bytes, sizes: list[int]) -> None:
    pieces: list[bytes] = []
    start = 0
    while start < len(stream):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[start : start + size])
        start += size
    at_once, in_pieces = read(stream), read(*pieces)
    assert outcome(at_once) == outcome(in_pieces)
    assert at_once.flaw == in_pieces.flaw
    assert (at_once.state is State.BROKEN) == bool(at_once.flaw)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_damaged_header_never_raises_and_does_not_depend_on_the_cuts(name: str, data: st.DataObject) -> None:
    header = bytearray(GOOD[name][0])
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    at_once = read(bytes(header))
    assert outcome(at_once) == outcome(read(*(bytes([octet]) for octet in header)))
