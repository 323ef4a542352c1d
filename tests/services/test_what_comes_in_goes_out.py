"""What SMTP or LMTP took in is, byte for byte and after the trace fields, what RETR gives out."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import fill
from running import Service
from services.wire import ALICE, Wire, no_defect, pop3
from winpop.db.home import Home

KIB = 1024
TRACE = re.compile(
    rb"Return-Path: <sender@elsewhere\.example>\r\nReceived: from client\.example \(\[127\.0\.0\.1\]\)\r\n"
    rb"\tby \S+ with (?:ESMTP|LMTP) id [0-9a-f]+\r\n\tfor <alice@example\.com>;\r\n\t[^\r\n]+ \+0000\r\n"
)
ANY_LINE = st.binary(max_size=90).map(lambda line: line.translate(None, b"\0\r\n"))
LINES = st.lists(ANY_LINE | ANY_LINE.map(lambda line: b"." + line) | st.just(b".") | st.just(b""), max_size=12)
SIZES = [0, 64 * KIB, 128 * KIB, 256 * KIB, KIB * KIB, 5_000_000]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Return a body of about a size at which something changes: few lines, again and again, and a last one to fit."""
    size = draw(st.sampled_from(SIZES)) + draw(st.integers(-3, 3))
    lines: list[bytes] = draw(LINES)
    once = b"".join(line + b"\r\n" for line in lines)
    if not once or size < len(once):
        return once
    body = once * (size // len(once))
    left = size - len(body)
    return body + b"." * (left - 2) + b"\r\n" if left >= 2 else body


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = Home(tmp_path_factory.mktemp("bytes") / "home")
    fill(home, {ALICE: b"secret"})
    with Service(home.path) as running, no_defect(running):
        yield running


@settings(max_examples=50, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
@given(body=bodies(), protocol=st.sampled_from(["smtp", "lmtp"]), cuts=st.lists(st.floats(0, 1), max_size=4))
def test_every_octet(service: Service, body: bytes, protocol: str, cuts: list[float]) -> None:
    hand_in(service, protocol, body, cuts)
    with pop3(service, ALICE) as wire:
        octets = int(wire.ask(b"LIST 1").split()[2])
        assert wire.ask(b"STAT") == b"+OK 1 %d" % octets
        assert wire.ask(b"RETR 1").startswith(b"+OK")
        prefix = wire.octets(octets - len(body))
        assert TRACE.fullmatch(prefix)
        expected = stuffed(body) + b".\r\n"
        assert wire.octets(len(expected)) == expected
        assert wire.ask(b"DELE 1").startswith(b"+OK")
        assert wire.ask(b"QUIT") == b"+OK Bye"


def hand_in(service: Service, protocol: str, body: bytes, cuts: list[float]) -> None:
    """Bring a message, cut into pieces where it is said."""
    with Wire(service.ports[protocol]) as wire:
        wire.line()
        wire.send(b"LHLO client.example\r\n" if protocol == "lmtp" else b"EHLO client.example\r\n")
        while wire.line().startswith(b"250-"):
            pass
        wire.send(b"MAIL FROM:<sender@elsewhere.example>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n")
        assert [line[:3] for line in wire.lines(3)] == [b"250", b"250", b"354"]
        data = stuffed(body) + b".\r\n"
        places = sorted(int(cut * len(data)) for cut in cuts)
        for start, end in zip([0, *places], [*places, len(data)], strict=True):
            wire.send(data[start:end])
        assert wire.line().startswith(b"250 ")


def stuffed(body: bytes) -> bytes:
    """Do what RFC 5321 §4.5.2 and RFC 1939 §3 ask of whoever sends lines."""
    return (b"\r\n" + body).replace(b"\r\n.", b"\r\n..")[2:]
