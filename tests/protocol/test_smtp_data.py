"""The body after DATA arrives byte for byte, and nothing but CRLF.CRLF ends it (RFC 5321 §4.1.1.4, §4.5.2)."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.smtp.data import Decoder, Outcome

LIMIT = 10_000
END = b".\r\n"

lines = st.sampled_from([b"", b".", b"..", b".x", b"x", b"Received: by x", b"a\0b", b"\xff\xc3"]) | st.binary(
    max_size=30
).map(lambda octets: octets.translate(None, b"\r\n"))
bodies = st.lists(lines, max_size=20).map(lambda parts: b"".join(part + b"\r\n" for part in parts))
cuts = st.lists(st.integers(0, 300), max_size=12)
streams = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"\0", b"x", b"\r\n.\r\n", b"received:", b"Received:"]),
    max_size=40,
).map(b"".join)


def stuffed(body: bytes) -> bytes:
    """Say it the other way round than the decoder does: line by line."""
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in body.split(b"\r\n"))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def decode(parts: list[bytes], limit: int = LIMIT) -> tuple[Decoder, bytes, bytes]:
    """Return the decoder, the body and what came after it."""
    decoder = Decoder(limit)
    body = b""
    for number, part in enumerate(parts):
        body += decoder.feed(part)
        if decoder.outcome is Outcome.DOT:
            return decoder, body, decoder.rest + b"".join(parts[number + 1 :])
        if decoder.outcome is not None:
            break
    return decoder, body, b""


@given(bodies, cuts, st.binary(max_size=20))
def test_any_body_arrives_byte_for_byte(body: bytes, cuts: list[int], following: bytes) -> None:
    """And its size is counted without the stuffing (RFC 1870 §5)."""
    decoder, decoded, rest = decode(pieces(stuffed(body) + END + following, cuts))
    assert decoder.outcome is Outcome.DOT
    assert decoded == body
    assert rest == following
    assert decoder.octets == len(body)
    assert decoder.nul == (b"\0" in body)
    assert decoder.plain == (not any(line.startswith(b".") for line in body.split(b"\r\n")))


def test_every_single_cut() -> None:
    wire = b"Received: a\r\nX: b\r\n\r\n..\r\n..x\r\n.y\r\nReceived: no\r\n\r\n.\r\nQUIT\r\n"
    for cut in range(len(wire) + 1):
        decoder, decoded, rest = decode([wire[:cut], wire[cut:]])
        assert decoded == b"Received: a\r\nX: b\r\n\r\n.\r\n.x\r\ny\r\nReceived: no\r\n\r\n"
        assert rest == b"QUIT\r\n"
        assert decoder.hops == 1


@given(streams, cuts, st.integers(0, 60))
def test_cuts_change_nothing(stream: bytes, cuts: list[int], limit: int) -> None:
    whole, body, rest = decode([stream], limit)
    cut, cut_body, cut_rest = decode(pieces(stream, cuts), limit)
    assert cut.outcome is whole.outcome
    if whole.outcome is Outcome.BARE_NEWLINE:
        return  # all of it is refused, and nothing after it is interpreted
    assert cut_body == body
    assert cut_rest == rest
    facts = (whole.octets, whole.hops, whole.nul, whole.plain)
    assert (cut.octets, cut.hops, cut.nul, cut.plain) == facts


ALMOST_ENDS = [
    first + b"." + last
    for first, last in itertools.product(
        [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\n", b"\r\n\r", b"\n\n", b"\0\r\n", b"\x85", b" \r\n"],
        [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b" \r\n", b"\xe2\x80\xa8"],
    )
    if not (first.endswith(b"\r\n") and last == b"\r\n")
]


@pytest.mark.parametrize("almost", ALMOST_ENDS, ids=ascii)
def test_nothing_else_ends_a_body(almost: bytes) -> None:
    wire = b"Subject: x\r\n\r\none" + almost + b"MAIL FROM:<>\r\nx\r\n.\r\n"
    for cut in range(len(wire) + 1):
        decoder, body, rest = decode([wire[:cut], wire[cut:]])
        if decoder.outcome is Outcome.DOT:  # no newline stands alone in it: then it is part of the body
            assert b"MAIL FROM" in body
            assert rest == b""
        else:
            assert decoder.outcome is Outcome.BARE_NEWLINE
            assert b"MAIL" not in body


@pytest.mark.parametrize("wire", [b"a\r\r\n.\r\n", b"\n.\r\n", b"\r.\r\n", b"a\n.\n", b".\n", b".\r\r\n", b"a\r\n.\rb"])
def test_a_newline_that_stands_alone_ends_everything(wire: bytes) -> None:
    assert decode([wire])[0].outcome is Outcome.BARE_NEWLINE
    assert decode([wire[i : i + 1] for i in range(len(wire))])[0].outcome is Outcome.BARE_NEWLINE


def test_what_comes_after_the_end_is_not_the_body() -> None:
    decoder, body, rest = decode([b"a\r\n.\r\n\nb\r.\0"])
    assert decoder.outcome is Outcome.DOT
    assert body == b"a\r\n"
    assert rest == b"\nb\r.\0"
    assert not decoder.nul


def test_the_final_dot_may_come_first() -> None:
    decoder, body, rest = decode([b".", b"\r", b"\nNOOP"])
    assert decoder.outcome is Outcome.DOT
    assert (body, rest) == (b"", b"NOOP")


@pytest.mark.parametrize(
    ("body", "hops"),
    [
        (b"Received: a\r\nRECEIVED: b\r\nreceived:c\r\n\r\nReceived: d\r\n", 3),
        (b"\r\nReceived: a\r\n", 0),
        (b"Received-SPF: pass\r\nX-Received: a\r\n Received: folded\r\n\r\n", 0),
        (b"Received: a\r\n", 1),
    ],
)
def test_hops_are_the_headers_received_fields(body: bytes, hops: int) -> None:
    for size in (1, 2, 5, 11, 1000):
        wire = body + END
        decoder, _, _ = decode([wire[i : i + size] for i in range(0, len(wire), size)])
        assert decoder.hops == hops


@given(cuts)
def test_more_than_twice_the_limit_is_endless(cuts: list[int]) -> None:
    decoder, body, _ = decode(pieces(b"x" * 300, cuts), limit=100)
    assert decoder.outcome is Outcome.ENDLESS
    assert 200 <= len(body) < 300


@given(bodies)
def test_no_body_within_the_limit_is_endless(body: bytes) -> None:
    assert decode([stuffed(body) + END], limit=len(body))[0].outcome is Outcome.DOT


@pytest.mark.parametrize("piece", [b"a", b"\r\n.", b".\r\n..\r\n", b"\r\n.\r", b"\0" * 1000, b"\r\n..\r\n" * 30_000])
def test_time_grows_with_the_octets_and_not_with_the_pieces(piece: bytes) -> None:
    many = 200_000 // len(piece) + 5
    decoder = Decoder(10_000_000)
    start = time.perf_counter()
    for _ in range(many):
        decoder.feed(piece)
    assert time.perf_counter() - start < 5
