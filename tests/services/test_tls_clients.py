"""What clients may bring to a handshake, in real ones: names, other protocols, certificates; and its bindings."""

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519

from auth.authorities import der_of, issued, odd, root_of, written
from services.handshakes import (
    LOOPS,
    MAIL,
    Loop,
    Server,
    client_context,
    put,
    s_client,
    serving,
    shake,
    three,
    trust,
)
from winpop.auth.certificates import Pair
from winpop.db.sqlite import Sqlite
from winpop.services.tls import Tls, bindings
from winpop.telemetry.log import Log


@pytest.fixture
def lines() -> list[str]:
    """What is logged."""
    return []


@pytest.fixture
def tls(database: Sqlite, lines: list[str]) -> Tls:
    """A worker's certificates."""
    return three(database, lines.append)


@pytest.fixture
def server(tls: Tls) -> Iterator[Server]:
    """A server that shows them."""
    with serving(tls) as running:
        yield running


# --- what a client may bring ---


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize(
    ("alpn", "chosen"),
    [
        ((), None),
        (("pop3",), "pop3"),
        (("http/1.1", "pop3"), "pop3"),
        (("h2", "http/1.1"), "http/1.1"),
        (("imap",), "imap"),
    ],
)
def test_a_client_that_means_another_protocol_is_found_out(
    tls: Tls, loop: Loop, alpn: tuple[str, ...], chosen: str | None
) -> None:
    """RFC 7301 §3.2."""
    with serving(tls, loop) as server:
        for host in ("mail.example.com", None):
            seen = shake(server, host, client_context(alpn=alpn))
            assert (seen.alpn, seen.alpn_is_right) == (chosen, chosen in {None, "pop3"})


def as_client(pair: Pair, directory: Path, version: str = "") -> ssl.SSLContext:
    context = client_context(version=version)
    context.load_cert_chain(*written(directory, pair, "client"))
    return context


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_clients_may_show_certificates_where_there_is_an_authority(
    database: Sqlite, tls: Tls, tmp_path: Path, loop: Loop, version: str
) -> None:
    people = trustme.CA()
    alice = as_client(issued("alice@example.com", "a.smith@example.com", by=people), tmp_path, version)
    offered = [tls.takes_clients]
    with serving(tls, loop) as server:
        assert shake(server, "mail.example.com", alice).names == []  # nobody has asked for one
        trust(database, root_of(people))
        tls.take(database)
        offered.append(tls.takes_clients)
        for host in ("mail.example.com", None):
            assert shake(server, host, alice).names == ["alice@example.com", "a.smith@example.com"]
            assert shake(server, host, client_context(version=version)).names == []
        assert offered == [False, True]
        for stranger in (issued("alice@example.com"), issued("alice@example.com", by=people, since=-9, days=-1)):
            with pytest.raises(OSError):  # noqa: PT011 - each loop ends the connection in its own way
                shake(server, None, as_client(stranger, tmp_path, version))
            assert server.failure() == "CERTIFICATE_VERIFY_FAILED"


def test_who_was_named_is_trusted_be_it_a_root_or_not(database: Sqlite, tls: Tls, tmp_path: Path) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    trust(database, root_of(middle))
    tls.take(database)
    with serving(tls) as server:
        assert shake(server, None, as_client(issued("a@example.com", by=middle), tmp_path)).names == ["a@example.com"]
        with pytest.raises(OSError):  # noqa: PT011 - see above
            shake(server, None, as_client(issued("a@example.com", by=root), tmp_path))
        assert server.failure() == "CERTIFICATE_VERIFY_FAILED"


def test_openssl_shows_a_client_certificate(database: Sqlite, tls: Tls, tmp_path: Path) -> None:
    people = trustme.CA()
    trust(database, root_of(people))
    tls.take(database)
    with serving(tls) as server:
        chain, key = written(tmp_path, issued("alice@example.com", by=people))
        s_client(server, "-cert", chain, "-key", key)
        assert server.seen.get(timeout=10)["names"] == ["alice@example.com"]
        chain, key = written(tmp_path, issued("alice@example.com"))
        s_client(server, "-cert", chain, "-key", key)
        assert server.failure() == "CERTIFICATE_VERIFY_FAILED"


def test_an_authority_that_is_gone_lets_nobody_in_by_an_old_session(
    database: Sqlite, tls: Tls, server: Server, tmp_path: Path
) -> None:
    people = trustme.CA()
    trust(database, root_of(people))
    tls.take(database)
    context = as_client(issued("alice@example.com", by=people), tmp_path, "TLSv1_2")
    first = shake(server, "mail.example.com", context)
    again = shake(server, "mail.example.com", context, first.session)
    assert (again.reused, again.names) == (True, ["alice@example.com"])
    trust(database, "")
    tls.take(database)
    after = shake(server, "mail.example.com", context, first.session)
    assert (after.reused, after.names) == (False, [])


def test_a_damaged_authority_changes_nothing(database: Sqlite, tls: Tls, lines: list[str], tmp_path: Path) -> None:
    people = trustme.CA()
    trust(database, root_of(people))
    tls.take(database)
    trust(database, root_of(people)[:200])
    tls.take(database)
    with serving(tls) as server:
        alice = as_client(issued("alice@example.com", by=people), tmp_path)
        assert shake(server, None, alice).names == ["alice@example.com"]
    assert len(lines) == 1
    assert "authorities" in lines[0]


def test_a_name_that_is_none_ends_only_its_own_handshake(tls: Tls) -> None:
    """The standard library gives up at a name beyond ASCII before we are asked."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, outgoing, server_hostname="mail.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read().replace(b"mail.example.com", b"\xff\xfe\0\r\n\x1b[2J.exampl")
    assert tls.context is not None
    given = ssl.MemoryBIO()
    server = tls.context.wrap_bio(given, ssl.MemoryBIO(), server_side=True)
    given.write(hello)
    with mock.patch.object(sys, "unraisablehook"), pytest.raises(ssl.SSLError):
        server.do_handshake()
    with serving(tls) as running:
        assert shake(running, "mail.example.com").certificate == der_of(MAIL.chain)


# --- bindings ---


def test_a_signature_without_a_hash_gives_no_binding(database: Sqlite, lines: list[str]) -> None:
    put(database, odd(key=ed25519.Ed25519PrivateKey.generate()), default=True)
    tls = Tls(Log(write=lines.append))
    tls.take(database)
    with serving(tls) as server:
        assert shake(server).bindings == {}


@pytest.mark.parametrize(("version", "there"), [("TLSv1.3", True), ("TLSv1.2", False), (None, False)])
def test_the_exporter_is_used_where_python_has_it(tls: Tls, version: str | None, there: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """RFC 9266 §2; with TLS 1.2 it is only safe where the handshake was extended, which nobody tells."""
    ssl_object = mock.Mock(spec=ssl.SSLObject, context=tls.context)
    ssl_object.version.return_value = version
    ssl_object.get_channel_binding.return_value = b"exported"
    with mock.patch.object(ssl, "CHANNEL_BINDING_TYPES", ["tls-unique", "tls-exporter"]):
        assert ("tls-exporter" in bindings(ssl_object)) == there
    with mock.patch.object(ssl, "CHANNEL_BINDING_TYPES", ["tls-unique"]):
        assert list(bindings(ssl_object)) == ["tls-server-end-point"]


def test_the_exporter_is_there_exactly_where_this_python_has_it(server: Server) -> None:
    found = shake(server, None, client_context(version="TLSv1_3")).bindings
    assert ("tls-exporter" in found) == ("tls-exporter" in ssl.CHANNEL_BINDING_TYPES)
