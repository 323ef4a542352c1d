"""TLS between a connection and its socket: whatever way records are cut, the octets are those that were sent."""

import functools
import ssl
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.authorities import issued
from winpop.services.layer import Layer, why

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
BULK = bytes(range(256)) * 4096
"""1 MiB."""


@functools.cache
def context() -> ssl.SSLContext:
    """A server's context with a certificate of its own."""
    pair = issued("mail.example.com")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        chain, key = Path(directory) / "chain", Path(directory) / "key"
        chain.write_text(pair.chain)
        key.write_text(pair.private_key)
        made.load_cert_chain(chain, key)
    return made


class Client:
    """The other side, by the standard library alone."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
        made.minimum_version = made.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = made.wrap_bio(self.incoming, self.outgoing)

    def handshake(self, records: bytes) -> bool:
        self.incoming.write(records)
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def seal(self, octets: bytes) -> bytes:
        self.object.write(octets)
        return self.outgoing.read()

    def open(self, records: bytes) -> bytes:
        self.incoming.write(records)
        text = b""
        try:
            while piece := self.object.read(65536):
                text += piece
        except ssl.SSLWantReadError:
            pass
        return text

    def close(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.object.unwrap()
        return self.outgoing.read()


def shake_hands(client: Client, layer: Layer, cut: int | None = None, behind: bytes = b"") -> bytes:
    """Make the handshake; `behind` goes with the client's last record, all of it in two parts cut at `cut`.

    Returns what comes to the client with the end of it.
    """
    to_client = b""
    while True:
        over = client.handshake(to_client)
        to_server = client.outgoing.read()
        if over and to_server and behind:
            to_server += client.seal(behind)
        parts = [to_server] if cut is None else [to_server[:cut], to_server[cut:]]
        done = False
        for part in parts:
            if done:
                assert layer.open(part) in (b"", behind)
            elif part:
                done = layer.handshake(part)
        to_client = layer.records()
        if done:
            return to_client


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_handshake_may_be_cut_at_every_place(version: ssl.TLSVersion) -> None:
    hello = Client(version)
    hello.handshake(b"")
    longest = len(hello.outgoing.read())
    for cut in range(longest + 1):
        client, layer = Client(version), Layer(context())
        rest = shake_hands(client, layer, cut)
        client.incoming.write(rest)
        client.handshake(b"")
        assert client.object.version() == layer.object.version() == version.name.replace("v1_", "v1.")
        assert layer.open(client.seal(b"QUIT\r\n")) == b"QUIT\r\n"
        assert client.open(layer.seal(b"+OK\r\n")) == b"+OK\r\n"


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_handshake_may_come_octet_by_octet(version: ssl.TLSVersion) -> None:
    client, layer = Client(version), Layer(context())
    to_client, done = b"", False
    for _ in range(9):
        client.handshake(to_client)
        for octet in client.outgoing.read():
            assert not done
            done = layer.handshake(bytes([octet]))
        to_client = layer.records()
        if done:
            break
    client.handshake(to_client)
    assert layer.open(client.seal(b"x")) == b"x"


def test_octets_that_come_with_the_last_record_of_the_handshake_are_there_when_it_is_over() -> None:
    client, layer = Client(), Layer(context())
    shake_hands(client, layer, behind=b"NOOP\r\n")
    assert layer.open(b"") == b"NOOP\r\n"
    assert layer.open(b"") == b""
    assert not layer.ended


def test_a_close_that_comes_with_the_last_record_of_the_handshake_is_noticed_behind_the_octets() -> None:
    client, layer = Client(), Layer(context())
    assert not client.handshake(b"")
    assert not layer.handshake(client.outgoing.read())
    assert client.handshake(layer.records())
    last = client.outgoing.read() + client.seal(b"QUIT\r\n")
    assert layer.handshake(last + client.close())
    assert layer.open(b"") == b"QUIT\r\n"
    assert layer.ended


def pair(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[Client, Layer]:
    client, layer = Client(version), Layer(context())
    client.handshake(shake_hands(client, layer))
    client.open(b"")  # tickets
    return client, layer


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_half_a_record_is_nothing_until_the_other_half_comes(version: ssl.TLSVersion) -> None:
    client, layer = pair(version)
    for text in (b"LIST\r\n", b"x" * 300):
        records = client.seal(text)
        for octet in records[:-1]:
            assert layer.open(bytes([octet])) == b""
        assert layer.open(records[-1:]) == text
    first, second = client.seal(b"first"), client.seal(b"second")
    assert layer.open(first + second[:7]) == b"first"
    assert layer.open(second[7:]) == b"second"


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_mebibyte_goes_both_ways(version: ssl.TLSVersion) -> None:
    client, layer = pair(version)
    assert client.open(layer.seal(BULK)) == BULK
    assert layer.open(client.seal(BULK)) == BULK
    assert layer.records() == b""
    for size in (1, 16383, 16384, 16385, 32768, 100_001):
        assert client.open(layer.seal(BULK[:size])) == BULK[:size]


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=4), st.lists(st.integers(1, 20_000), max_size=8))
def test_however_records_are_cut_the_octets_are_those_that_were_sent(sizes: list[int], cuts: list[int]) -> None:
    client, layer = pair()
    text = BULK[: sum(sizes)]
    records, at = b"", 0
    for size in sizes:
        records += client.seal(text[at : at + size])
        at += size
    came = b""
    for cut in cuts:
        part, records = records[:cut], records[cut:]
        came += layer.open(part)
        assert text.startswith(came)
    assert came + layer.open(records) == text


def test_what_is_sealed_keeps_nothing_behind() -> None:
    client, layer = pair()
    for _ in range(3):
        assert layer.seal(BULK)
        assert layer.records() == b""
    del client


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_client_that_closes_its_half_is_answered(version: ssl.TLSVersion) -> None:
    """RFC 8446 §6.1."""
    client, layer = pair(version)
    records = client.seal(b"STAT\r\n")
    assert layer.open(records + client.close()) == b"STAT\r\n"
    assert layer.ended
    assert layer.open(b"") == b""
    reply = layer.seal(b"+OK 0 0\r\n")
    last = layer.close()
    assert client.open(reply) == b"+OK 0 0\r\n"
    assert last
    client.incoming.write(last)
    client.object.unwrap()  # which takes the server's record of the same kind
    assert layer.close() == b""


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_server_that_closes_first_says_so(version: ssl.TLSVersion) -> None:
    client, layer = pair(version)
    last = layer.close()
    client.incoming.write(last)
    assert not layer.ended
    client.object.unwrap()
    assert layer.open(client.outgoing.read()) == b""
    assert layer.ended


def test_to_close_before_the_handshake_is_over_says_nothing_and_fails_with_nothing() -> None:
    assert Layer(context()).close() == b""
    client, layer = Client(), Layer(context())
    client.handshake(b"")
    layer.handshake(client.outgoing.read())
    layer.records()
    layer.close()


GARBAGE = [b"USER alice\r\n", bytes(64), b"\x16\x03\x01\x00\x05hello" * 3, b"\x16\x03\x01\xff\xff" + bytes(70_000)]


@pytest.mark.parametrize("garbage", GARBAGE, ids=["in clear", "zeros", "hello", "long"])
def test_garbage_instead_of_a_handshake_fails_and_says_why(garbage: bytes) -> None:
    layer = Layer(context())
    with pytest.raises(ssl.SSLError) as caught:
        layer.handshake(garbage)
    assert why(caught.value)
    layer.records()


def test_a_handshake_that_fails_leaves_a_record_for_the_client_that_says_why() -> None:
    client, layer = Client(ssl.TLSVersion.TLSv1_2), Layer(newest())
    client.handshake(b"")
    with pytest.raises(ssl.SSLError):
        layer.handshake(client.outgoing.read())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        client.handshake(layer.records())


def newest() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_record_that_somebody_has_changed_is_no_octet_of_the_client(version: ssl.TLSVersion) -> None:
    client, layer = pair(version)
    records = bytearray(client.seal(b"DELE 1\r\n"))
    records[-1] ^= 1
    with pytest.raises(ssl.SSLError) as caught:
        layer.open(bytes(records))
    assert why(caught.value)
    assert layer.records()  # the alert


@pytest.mark.parametrize(
    "garbage", [b"QUIT\r\n", bytes(5), b"\x17\x03\x03\x00\x20" + bytes(32)], ids=["in clear", "zeros", "record"]
)
def test_octets_in_clear_after_the_handshake_are_never_given_out(garbage: bytes) -> None:
    client, layer = pair()
    assert layer.open(client.seal(b"NOOP\r\n")) == b"NOOP\r\n"
    with pytest.raises(ssl.SSLError):
        layer.open(garbage + bytes(5))


def test_octets_in_clear_after_a_good_record_do_not_come_with_it_as_if_they_were_good() -> None:
    client, layer = pair()
    with pytest.raises(ssl.SSLError):
        layer.open(client.seal(b"NOOP\r\n") + b"QUIT\r\n")


def test_why_has_words_for_all_endings() -> None:
    assert why(None) == "the client has gone"
    assert why(ConnectionResetError()) == "ConnectionResetError"
