"""What clients are shown, in real handshakes; and what a change of the rows changes."""

import gc
import hashlib
import os
import re
import ssl
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from auth.authorities import authority, der_of, issued, odd, openssl, root_of, rsa_key
from services.handshakes import (
    DEFAULT,
    LOOPS,
    MAIL,
    WILD,
    Loop,
    Server,
    clear,
    client_context,
    put,
    s_client,
    serving,
    shake,
    three,
    trust,
)
from winpop.auth import tls_contexts
from winpop.auth.certificates import Pair, make_self_signed
from winpop.db.sqlite import Sqlite
from winpop.directory import certificates
from winpop.services.tls import Tls, bindings
from winpop.telemetry.log import Log

DAY = 86400.0


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


# --- the right certificate ---


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_client_gets_the_certificate_for_its_name(tls: Tls, loop: Loop, version: str) -> None:
    """RFC 6066 §3, RFC 9525 §6.3; the binding is of the certificate that was shown (RFC 5929 §4.1)."""
    expected = {
        "mail.example.com": MAIL,
        "MAIL.Example.COM": MAIL,
        "a.example.org": WILD,
        "example.org": WILD,
        "a.b.example.org": DEFAULT,
        "org": DEFAULT,
        "default.example": DEFAULT,
        "nowhere.example": DEFAULT,
        "192.0.2.1": DEFAULT,
        None: DEFAULT,
    }
    with serving(tls, loop) as server:
        for host, pair in expected.items():
            seen = shake(server, host, client_context(version=version))
            assert seen.certificate == der_of(pair.chain), host
            assert seen.bindings["tls-server-end-point"] == hashlib.sha256(seen.certificate).digest()
            assert seen.names == []
            assert seen.alpn_is_right


def test_a_client_that_checks_takes_the_chain(database: Sqlite, tls: Tls) -> None:
    root = trustme.CA()
    put(database, issued("deep.example", by=root.create_child_ca().create_child_ca()))
    tls.take(database)
    with serving(tls) as server:
        shake(server, "deep.example", client_context(roots=root_of(root)))
        shake(server, "mail.example.com", client_context(roots=root_of(authority())))
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(server, "nowhere.example", client_context(roots=root_of(authority())))


def test_of_two_for_a_name_the_newer_is_shown(database: Sqlite, tls: Tls) -> None:
    newer = issued("mail.example.com", "other.example")
    put(database, newer)
    tls.take(database)
    with serving(tls) as server:
        assert shake(server, "mail.example.com").certificate == der_of(newer.chain)


def test_without_a_certificate_there_is_no_tls(database: Sqlite, lines: list[str]) -> None:
    tls = Tls(Log(write=lines.append))
    seen = []
    for pairs in ([], [DEFAULT]):  # and somebody has forgotten which is the default
        put(database, *pairs)
        tls.take(database)
        seen.append(tls.context is not None)
    assert seen == [False, True]
    assert not lines


# --- seen by openssl ---


def test_openssl_chooses_by_name_and_finds_the_same_binding(server: Server, tmp_path: Path) -> None:
    """RFC 5929 §4.1, computed by openssl from what it was sent."""
    ca = tmp_path / "ca.pem"
    ca.write_text(root_of(authority()))
    for host, pair in (("mail.example.com", MAIL), ("b.example.org", WILD), ("default.example", DEFAULT)):
        said = s_client(server, "-servername", host, "-verify_hostname", host, "-showcerts", ca=ca)
        assert "Verification: OK" in said
        match = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", said, re.DOTALL)
        assert match is not None
        der = openssl("x509", "-outform", "DER", given=match[0].encode())
        assert der == der_of(pair.chain)
        digest = openssl("dgst", "-sha256", "-binary", given=der)
        assert shake(server, host).bindings["tls-server-end-point"] == digest


def test_tls_1_1_is_refused(server: Server) -> None:
    """RFC 9325 §3.1.1."""
    weak = ("-cipher", "ALL:@SECLEVEL=0")
    said = s_client(server, "-tls1_1", *weak)
    assert server.failure() == "UNSUPPORTED_PROTOCOL"
    assert "BEGIN CERTIFICATE" not in said
    assert "Protocol  : TLSv1.2" in s_client(server, "-tls1_2", *weak)
    assert "TLSv1.3" in s_client(server, "-tls1_3")


def test_old_ciphers_are_refused(database: Sqlite, lines: list[str]) -> None:
    """RFC 9325 §4.2."""
    put(database, odd(key=rsa_key()), default=True)
    tls = Tls(Log(write=lines.append))
    tls.take(database)
    with serving(tls) as server:
        for cipher in ("AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384"):
            s_client(server, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
            assert server.failure() == "NO_SHARED_CIPHER"
        for cipher in ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"):
            assert f"Cipher    : {cipher}" in s_client(server, "-tls1_2", "-cipher", cipher)


def test_nobody_can_begin_a_handshake_anew(server: Server) -> None:
    said = s_client(server, "-tls1_2", given=b"R\n")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said


# --- what changes ---


def test_a_new_certificate_is_taken_and_a_broken_one_is_not(
    database: Sqlite, tls: Tls, server: Server, lines: list[str]
) -> None:
    newer = issued("default.example")
    clear(database)
    put(database, newer, default=True)
    tls.take(database)
    assert shake(server).certificate == der_of(newer.chain)
    assert not lines
    clear(database)
    put(database, Pair(DEFAULT.chain, MAIL.private_key), default=True)
    tls.take(database)
    assert shake(server, "default.example").certificate == der_of(newer.chain)
    assert len(lines) == 1
    assert " critical certificate " in lines[0]
    assert "what was shown, is shown" in lines[0]
    clear(database)
    put(database, DEFAULT, default=True)
    tls.take(database)
    assert shake(server, "mail.example.com").certificate == der_of(DEFAULT.chain)


@pytest.mark.parametrize(
    "damage",
    [
        Pair("", ""),
        Pair("nonsense", DEFAULT.private_key),
        Pair(DEFAULT.chain, "nonsense"),
        Pair(DEFAULT.chain[:300], DEFAULT.private_key),
        Pair(DEFAULT.chain, DEFAULT.private_key[:100]),
        Pair(DEFAULT.chain + "\ufffd", DEFAULT.private_key),
        Pair(
            odd(key=rsa_key()).chain,
            rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode(),
        ),
    ],
)
def test_a_damaged_row_hinders_no_other(
    database: Sqlite, damage: Pair, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    put(database, MAIL, damage)
    put(database, damage, default=True)
    tls = Tls(Log(write=lines.append))
    tls.take(database)
    with serving(tls) as server:
        assert shake(server, "nowhere.example").certificate == der_of(MAIL.chain)
    assert len(lines) == 2
    tls.take(database)
    assert len(lines) == 2  # nothing changed, so nothing is loaded
    assert not any(secret in "".join(lines) for secret in MAIL.private_key.splitlines()[1:-1])
    assert capfd.readouterr().err == ""  # nobody was asked for a passphrase


def test_nothing_is_loaded_while_the_rows_are_the_same(database: Sqlite, tls: Tls) -> None:
    context = tls.context
    with mock.patch.object(certificates, "every", side_effect=AssertionError):
        tls.take(database)
    assert tls.context is context


def test_contexts_that_were_replaced_are_given_back(database: Sqlite, tls: Tls) -> None:
    made = [weakref.ref(tls.context or tls)]

    def make(pair: Pair, end_point: bytes | None, authorities: str = "") -> tls_contexts.Context:
        context = tls_contexts.make_context(pair, end_point, authorities)
        made.append(weakref.ref(context))
        return context

    with mock.patch("winpop.services.tls.make_context", make):
        for _ in range(20):
            clear(database)
            put(database, DEFAULT, default=True)
            tls.take(database)
    gc.collect()
    assert len(made) > 20
    assert [each() for each in made if each()] == [tls.context]


def test_a_session_is_resumed_until_something_changes(database: Sqlite, tls: Tls, server: Server) -> None:
    context = client_context(version="TLSv1_2")
    first = shake(server, "mail.example.com", context)
    again = shake(server, "mail.example.com", context, first.session)
    assert again.reused
    assert again.bindings == first.bindings
    with database.write() as transaction:
        transaction.run("DELETE FROM certificate WHERE chain = ?", MAIL.chain)
    newer = issued("mail.example.com")
    put(database, newer)
    tls.take(database)
    after = shake(server, "mail.example.com", context, first.session)
    assert not after.reused
    assert after.certificate == der_of(newer.chain)


def test_a_connection_keeps_the_binding_of_what_it_was_shown(database: Sqlite, tls: Tls) -> None:
    context = tls.context
    assert context is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ssl_object = context.wrap_bio(incoming, outgoing, server_side=True)
    before = bindings(ssl_object)
    clear(database)
    put(database, MAIL, default=True)
    tls.take(database)
    assert bindings(ssl_object) == before
    assert before["tls-server-end-point"] == hashlib.sha256(der_of(DEFAULT.chain)).digest()


# --- warnings, and secrets ---


def test_what_expires_is_warned_of_once_a_day(database: Sqlite, lines: list[str]) -> None:
    put(database, issued("soon.example", days=13.5), issued("old.example", since=-9, days=-1), issued("far.example"))
    moment = [start := time.time()]
    tls = Tls(Log(write=lines.append), lambda: moment[0])
    tls.take(database)
    assert [line.split(" ", 1)[1] for line in lines] == [
        'warning certificate name=soon.example detail="expires in 13 days; get a new one"\n',
        'warning certificate name=old.example detail="has expired; get a new one"\n',
    ]
    tls.take(database)
    moment[0] = start + DAY - 1
    tls.remind()
    assert len(lines) == 2
    moment[0] = start + DAY
    tls.remind()
    assert len(lines) == 4
    assert "expires in 12 days" in lines[2]
    with serving(tls) as server:
        assert shake(server, "old.example").certificate  # still shown: that is better than nothing


def test_the_authority_of_clients_is_warned_of_too(database: Sqlite, tls: Tls, lines: list[str]) -> None:
    trust(database, odd(subject="people").chain)
    tls._clock = lambda: time.time() + 89 * DAY
    tls.take(database)
    assert any("name=people" in line for line in lines)


@pytest.mark.parametrize("way", [tls_contexts._in_memory, tls_contexts._on_disk])
def test_a_key_is_on_no_disk_afterwards(
    way: "Callable[[str], object]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gc.collect()  # what earlier tests left open is not closed in the middle of this one
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with way("secret") as path:  # type: ignore[attr-defined]  # both are context managers
        assert Path(path).read_text() == "secret"
        if path.startswith(str(tmp_path)):
            assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        else:
            assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), way("secret"):  # type: ignore[attr-defined]  # see above
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_without_memory_files_a_pair_is_loaded_from_a_file_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "memfd_create", mock.Mock(side_effect=OSError))
    assert tls_contexts.make_context(make_self_signed("localhost", 0), b"x").end_point == b"x"
    with pytest.raises(ssl.SSLError):
        tls_contexts.make_context(Pair(DEFAULT.chain, MAIL.private_key), None)
    assert list(tmp_path.iterdir()) == []


def test_no_key_is_in_what_is_shown_of_it(database: Sqlite, tls: Tls) -> None:
    secret = DEFAULT.private_key.splitlines()[1]
    rows = certificates.every(database, certificates.SERVER)
    assert any(secret in row.private_key for row in rows)
    assert secret not in f"{rows!r}{tls!r}{vars(tls)!r}"
