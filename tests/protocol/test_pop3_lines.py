"""Command lines (RFC 1939 §3, RFC 5321 §2.3.8) compared with the simplest reading of the whole input."""

from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.lines import Flaw, Lines

LIMIT = 12

streams = st.lists(
    st.sampled_from([b"\r\n", b"\r\n", b"\r", b"\n", b"abc", b"\x85", b"\xe2\x80\xa8", b"\x0b\x0c\x1c", b"\x00"])
    | st.binary(max_size=LIMIT),
    max_size=12,
).map(b"".join)


def simply(stream: bytes) -> list[bytes | Flaw]:
    """Read lines up to the first flaw, with all the input at hand."""
    read: list[bytes | Flaw] = []
    while True:
        line, newline, rest = stream.partition(b"\n")
        if len(line + newline) > LIMIT or (not newline and len(line) == LIMIT):
            return [*read, Flaw.TOO_LONG]
        if not newline:
            return read
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            return [*read, Flaw.BARE_NEWLINE]
        read.append(line[:-1])
        stream = rest


@given(streams, st.integers(1, 5))
def test_lines_depend_on_the_bytes_and_not_on_the_cuts(stream: bytes, size: int) -> None:
    lines = Lines(LIMIT)
    read: list[bytes | Flaw] = []
    for start in range(0, len(stream), size):
        lines.append(stream[start : start + size])
        while (line := lines.next()) is not None:
            read.append(line)
            if isinstance(line, Flaw):
                break
        if read and isinstance(read[-1], Flaw):
            break
    assert read == simply(stream)
