"""Dot-stuffing and TOP compared with the simplest code that could do the same (RFC 1939 §3, RFC 1939 §7)."""

from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.pop3.multiline import Stuffing, Top

# Mostly dots and blank lines: that is where it can go wrong.
body_lines = st.lists(
    st.sampled_from([b"", b".", b"..", b".a", b"a", b"a.", b"\xff\x00"]) | st.binary(max_size=6), max_size=8
).map(lambda lines: [line.replace(b"\r", b"").replace(b"\n", b"") for line in lines])
messages = body_lines.map(lambda lines: b"".join(line + b"\r\n" for line in lines))


@st.composite
def messages_in_pieces(draw: st.DrawFn) -> list[bytes]:
    message = draw(messages)
    cuts = sorted(draw(st.sets(st.integers(0, len(message)), max_size=12)))
    return [message[a:b] for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]


def unstuff(reply: bytes) -> bytes:
    """Read a multi-line reply as RFC 1939 §3 tells a client to."""
    *lines, final, rest = reply.split(b"\r\n")
    assert (final, rest) == (b".", b"")
    assert b"." not in lines
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines)


def top(message: bytes, lines: int) -> bytes:
    """Return what RFC 1939 §7 gives for TOP: the header, the blank line, `lines` lines of the body."""
    every = message.split(b"\r\n")[:-1]
    header = every.index(b"") + 1 if b"" in every else len(every)
    return b"".join(line + b"\r\n" for line in every[: header + lines])


@given(messages_in_pieces())
def test_what_a_client_reads_back_is_the_message(pieces: list[bytes]) -> None:
    stuffing = Stuffing()
    reply = b"".join(stuffing.feed(piece, plain=False) for piece in pieces) + stuffing.finish()
    assert unstuff(reply) == b"".join(pieces)


@given(messages_in_pieces())
def test_plain_messages_go_out_as_they_are(pieces: list[bytes]) -> None:
    stuffing = Stuffing()
    reply = b"".join(stuffing.feed(piece, plain=True) for piece in pieces) + stuffing.finish()
    assert reply == b"".join(pieces) + b".\r\n"


@given(st.binary(), st.binary())
def test_a_message_without_a_last_line_end_is_given_one(start: bytes, end: bytes) -> None:
    stuffing = Stuffing()
    reply = stuffing.feed(start, plain=True) + stuffing.feed(end, plain=True) + stuffing.finish()
    message = start + end
    whole = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    assert reply == whole + b".\r\n"


@given(messages_in_pieces(), st.integers(0, 10))
def test_top_is_the_header_and_so_many_lines(pieces: list[bytes], lines: int) -> None:
    cut = Top(lines)
    shown = b""
    for piece in pieces:
        if cut.done:
            break
        shown += cut.feed(piece)
    assert shown == top(b"".join(pieces), lines)


@given(messages, st.integers(0, 10))
def test_top_reads_no_further_than_it_must(message: bytes, lines: int) -> None:
    cut = Top(lines)
    read = 0
    shown = b""
    while read < len(message) and not cut.done:
        shown += cut.feed(message[read : read + 1])
        read += 1
    assert shown == top(message, lines)
    assert read == len(shown)
