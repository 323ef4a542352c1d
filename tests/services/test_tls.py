"""TLS on the running service: STLS, TLS from the beginning, certificates by name and without a restart."""

import contextlib
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import Service, done, winpop
from services.wire import ALICE, STRANGER, Wire, eventually, memory, no_defect, place, pop3, settle
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite


@pytest.fixture(params=["2", "0"])
def service(home: Home, request: pytest.FixtureRequest) -> Iterator[Service]:
    settle(home, failuredelay="0")
    with Service(home.path, "--workers", request.param) as running, no_defect(running):
        yield running


def pair(directory: Path, *names: str) -> tuple[str, str]:
    """Make a certificate for these names that signs itself, by openssl; return the files."""
    chain, key = directory / f"{names[0]}.pem", directory / f"{names[0]}.key"
    alternatives = ",".join(f"DNS:{name}" for name in names)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "90", "-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}"),
            *("-keyout", str(key), "-out", str(chain)),
        ],
        check=True,
        capture_output=True,
    )
    return str(chain), str(key)


def shown(service: Service, name: str = "") -> str:
    """Return the fingerprint of the certificate that a client which asks for this name is shown."""
    with Wire(service.ports["pop3s"]) as wire:
        certificate = wire.start_tls(name).getpeercert(binary_form=True)
        assert certificate is not None
        return hashlib.sha256(certificate).hexdigest()


def fingerprint(chain: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(chain).read_text())).hexdigest()


def test_a_new_installation_has_tls_from_the_first_minute(service: Service) -> None:
    with Wire(service.ports["pop3s"], STRANGER) as wire:
        assert wire.start_tls().version() == "TLSv1.3"
        assert wire.line().startswith(b"+OK")
        assert wire.ask(b"USER " + ALICE.encode()).startswith(b"+OK")
        assert wire.ask(b"PASS secret").startswith(b"+OK")


def test_a_stranger_says_no_password_before_tls_and_may_after_it(service: Service) -> None:
    with pop3(service, source=STRANGER) as wire:
        for command in (b"USER alice@example.com", b"PASS secret", b"AUTH", b"AUTH PLAIN AGEAYg=="):
            assert wire.ask(command).startswith(b"-ERR [AUTH] Begin TLS first"), command
        wire.ask(b"CAPA")
        capabilities = wire.multiline()
        assert b"STLS" in capabilities
        assert b"USER\r\n" not in capabilities.replace(b"UTF8 USER", b"")
        assert b"SASL" not in capabilities
        assert wire.ask(b"STLS") == b"+OK Begin TLS"
        wire.start_tls()
        wire.ask(b"CAPA")
        capabilities = wire.multiline()
        assert b"STLS" not in capabilities
        assert b"\r\nSASL SCRAM-SHA-256 " in capabilities
        assert wire.ask(b"USER " + ALICE.encode()).startswith(b"+OK")
        assert wire.ask(b"PASS secret").startswith(b"+OK")


def test_a_name_that_was_said_in_clear_is_forgotten(service: Service) -> None:
    with pop3(service) as wire:
        wire.ask(b"USER " + ALICE.encode())
        wire.ask(b"STLS")
        wire.start_tls()
        assert wire.ask(b"PASS secret") == b"-ERR USER comes first"


@pytest.mark.parametrize("behind", [b"USER alice@example.com\r\n", b"\r\n", b"x", b"\x16\x03\x01"])
def test_what_is_sent_in_clear_behind_stls_ends_the_connection(service: Service, behind: bytes) -> None:
    """CVE-2011-0411: whoever sits between could have put it there."""
    with pop3(service) as wire:
        wire.send(b"STLS\r\n" + behind)
        assert wire.rest() == b"-ERR Nothing may follow STLS before TLS has begun\r\n"


def test_what_comes_in_clear_after_the_reply_to_stls_is_never_a_command(service: Service) -> None:
    with pop3(service) as wire:
        assert wire.ask(b"STLS") == b"+OK Begin TLS"
        wire.send(b"USER alice@example.com\r\nPASS secret\r\nSTAT\r\n")
        assert b"+OK" not in wire.rest()
    assert "logon" not in service.log.read_text()


def test_a_handshake_that_fails_frees_its_place(home: Home) -> None:
    settle(home, sessionsperaddress="5")
    with Service(home.path) as service, no_defect(service):
        for _ in range(12):
            with Wire(service.ports["pop3s"], STRANGER) as wire:
                wire.send(b"\x16\x03\x01\x00\x05this")  # RFC 8446 §5.1: a record, and no handshake in it
                wire.send(b"s")
                wire.rest()
        with contextlib.ExitStack() as held:
            for _ in range(5):
                wire = held.enter_context(Wire(service.ports["pop3s"], STRANGER))
                eventually(lambda wire=wire: wire.start_tls())  # type: ignore[misc]
                assert wire.line().startswith(b"+OK")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_clients_that_only_come_and_go_leave_nothing(service: Service, sent: bytes) -> None:
    """The loop keeps what belongs to a handshake that was left in its middle; so none is begun for nothing."""

    def come_and_go(times: int) -> None:
        for _ in range(times):
            with Wire(service.ports["pop3s"]) as wire:
                wire.send(sent)

    processes = service.workers() or [service.process.pid]
    come_and_go(100)
    before = sum(map(memory, processes))
    come_and_go(1000)
    assert sum(map(memory, processes)) - before < 8 << 20  # each would have taken 50 kB
    assert shown(service)


def test_whoever_takes_it_slowly_over_tls_gets_all_of_it_before_it_is_gone(home: Home) -> None:
    """RETR, DELE and QUIT in one write: what was asked for arrives, however long the client takes over it."""
    body = b"Subject: large\r\n\r\n" + b"x" * 76 * 1000 + b"\r\n" + (b"y" * 76 + b"\r\n") * 50_000
    place(home, ALICE, body)
    with Service(home.path) as service, no_defect(service), Wire(service.ports["pop3s"], buffer=4096) as wire:
        wire.start_tls()
        wire.line()
        wire.ask(b"USER " + ALICE.encode())
        assert wire.ask(b"PASS secret").startswith(b"+OK")
        wire.send(b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
        assert wire.line().startswith(b"+OK")
        wire.octets(len(body) - 300_000)
        time.sleep(5)  # longer than the loop waits for a client when it closes
        rest = wire.rest()
        assert rest.endswith(b"y\r\n.\r\n+OK Marked as deleted\r\n+OK Bye\r\n")
        assert len(rest) > 300_000


def test_the_log_says_why_a_handshake_failed(service: Service) -> None:
    with Wire(service.ports["pop3s"]) as wire:
        wire.send(b"GET / HTTP/1.1\r\n\r\n")
        wire.rest()
    eventually(lambda: "sent in clear what belongs to TLS" in service.log.read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with (
        socket.create_connection(("127.0.0.1", service.ports["pop3s"]), timeout=20) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="nobody.example")  # it trusts nobody, and says so
    eventually(lambda: 'end="no TLS: ' in service.log.read_text())


def test_apop_goes_over_tls_too(home: Home) -> None:
    settle(home, apop="1", failuredelay="0")
    with Service(home.path) as service, no_defect(service):
        service.log_on(ALICE).quit()  # which brings the secret
        database = Sqlite(home)
        eventually(lambda: database.number("SELECT count(secret) FROM password"))
        database.close()
        for port in ("pop3", "pop3s"):
            with Wire(service.ports[port], STRANGER) as wire:
                if port == "pop3s":
                    wire.start_tls()
                timestamp = wire.line().rpartition(b" ")[2]
                apop = b"APOP alice@example.com " + hashlib.md5(timestamp + b"secret").hexdigest().encode()
                if port == "pop3":
                    assert wire.ask(apop).startswith(b"-ERR [AUTH]")
                    wire.ask(b"STLS")
                    wire.start_tls()
                assert wire.ask(apop).startswith(b"+OK")
                wire.ask(b"QUIT")


def test_a_client_that_its_proxy_does_not_know_is_nobody(home: Home) -> None:
    settle(home, proxies="127.0.0.1/32", failuredelay="0")
    with Service(home.path) as service, no_defect(service), Wire(service.ports["pop3"]) as wire:
        wire.send(b"PROXY UNKNOWN\r\n")
        assert wire.line().startswith(b"+OK")
        assert wire.ask(b"USER " + ALICE.encode()).startswith(b"-ERR [AUTH]")


def test_half_a_handshake_counts_for_its_address(home: Home) -> None:
    """Threat T7: what has not finished its handshake is counted before it has."""
    settle(home, sessionsperaddress="3")
    with Service(home.path, "--workers", "1") as service, contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(Wire(service.ports["pop3s"], STRANGER))
        with Wire(service.ports["pop3s"], STRANGER) as wire:
            assert wire.rest() == b""  # closed, for all the others could be had from anywhere
        with Wire(service.ports["pop3s"]) as wire:
            wire.start_tls()
            assert wire.line().startswith(b"+OK")


def test_a_client_that_wants_another_protocol_gets_no_word(service: Service) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for offered, answered in (("http/1.1", False), ("pop3", True)):
        context.set_alpn_protocols([offered])
        with (
            socket.create_connection(("127.0.0.1", service.ports["pop3s"]), timeout=20) as plain,
            context.wrap_socket(plain) as client,
        ):
            try:
                said = client.recv(100)
            except (ConnectionResetError, ssl.SSLError):
                said = b""
            assert said.startswith(b"+OK") == answered, offered


@pytest.mark.parametrize(("version", "taken"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_tls_1_2_is_the_least(service: Service, version: str, taken: bool) -> None:  # noqa: FBT001 - a parameter
    result = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"127.0.0.1:{service.ports['pop3']}", "-starttls", "pop3", version),
            *("-cipher", "DEFAULT@SECLEVEL=0"),
        ],
        input=b"QUIT\n",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (b"Cipher is (NONE)" not in result.stdout and result.returncode == 0) == taken, result.stdout


def test_certificates_are_chosen_by_name_and_taken_without_a_restart(service: Service, tmp_path: Path) -> None:
    made = shown(service)
    one, other = pair(tmp_path, "mail.example.com", "pop.example.com"), pair(tmp_path, "mail.other.example")
    done(service.home, "certificate", *one)
    eventually(lambda: shown(service) == fingerprint(one[0]))
    done(service.home, "certificate", *other)
    eventually(lambda: shown(service, "mail.other.example") == fingerprint(other[0]))
    assert shown(service, "POP.example.com") == fingerprint(one[0])
    assert shown(service, "nowhere.example") == fingerprint(one[0]) != made


def test_a_broken_pair_is_refused_and_the_old_one_goes_on(service: Service, tmp_path: Path) -> None:
    before = shown(service)
    one, other = pair(tmp_path, "mail.example.com"), pair(tmp_path, "mail.other.example")
    refused = winpop(service.home, "certificate", one[0], other[1])
    assert refused.returncode == 1, refused.stderr
    assert other[1] in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert shown(service) == before


def test_a_session_goes_on_over_a_change_of_certificates(service: Service, tmp_path: Path) -> None:
    with Wire(service.ports["pop3s"]) as wire:
        wire.start_tls()
        wire.line()
        wire.ask(b"USER " + ALICE.encode())
        assert wire.ask(b"PASS secret").startswith(b"+OK")
        chain, key = pair(tmp_path, "mail.example.com")
        done(service.home, "certificate", chain, key)
        eventually(lambda: shown(service) == fingerprint(chain))
        assert wire.ask(b"STAT") == b"+OK 0 0"


def proxied(peer: str, *, version: int = 1) -> bytes:
    """Return the header of a proxy whose client is `peer`."""
    if version == 1:
        return f"PROXY TCP4 {peer} 192.0.2.1 40000 110\r\n".encode()
    addresses = socket.inet_aton(peer) + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 40000, 110)
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, 0x11]) + struct.pack("!H", len(addresses)) + addresses


@pytest.fixture
def behind(home: Home) -> Iterator[Service]:
    """A service that believes a proxy on the stranger's address."""
    settle(home, proxies=f"{STRANGER}/32", sessionsperaddress="2", failuredelay="0")
    with Service(home.path) as running, no_defect(running):
        yield running


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("port", ["pop3", "pop3s"])
def test_the_real_client_counts_behind_a_proxy(behind: Service, version: int, port: str) -> None:
    def come(peer: str, held: contextlib.ExitStack) -> bytes:
        wire = held.enter_context(Wire(behind.ports[port], STRANGER))
        if port == "pop3":
            wire.send(proxied(peer, version=version))
        else:  # the header and the first octets of the handshake in one segment, as a proxy sends them
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client = context.wrap_bio(incoming, outgoing)
            begun = False
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    wire.send((b"" if begun else proxied(peer, version=version)) + outgoing.read())
                    begun = True
                    octets = wire.socket.recv(65536)
                    if not octets:
                        return b""
                    incoming.write(octets)
            wire.send(outgoing.read())
            said = b""
            while not said.endswith(b"\r\n"):
                try:
                    said += client.read()
                except ssl.SSLWantReadError:
                    octets = wire.socket.recv(65536)
                    if not octets:
                        return said
                    incoming.write(octets)
            return said
        return wire.line()

    with contextlib.ExitStack() as held:
        assert come("198.51.100.7", held).startswith(b"+OK")
        assert come("198.51.100.7", held).startswith(b"+OK")
        assert not come("198.51.100.7", held).startswith(b"+OK")
        assert come("198.51.100.8", held).startswith(b"+OK")
    eventually(lambda: "peer=198.51.100.8" in behind.log.read_text())


def test_a_proxy_that_says_nothing_of_its_client_is_not_served(behind: Service) -> None:
    with Wire(behind.ports["pop3"], STRANGER) as wire:
        wire.send(b"CAPA\r\n")
        assert wire.rest() == b""
    with Wire(behind.ports["pop3"]) as wire:  # and who is no proxy is not believed to be one
        assert wire.line().startswith(b"+OK")
        assert wire.ask(proxied("192.0.2.9").removesuffix(b"\r\n")).startswith(b"-ERR")


def test_a_client_behind_a_proxy_is_trusted_by_its_own_address(behind: Service) -> None:
    with Wire(behind.ports["pop3"], STRANGER) as wire:
        wire.send(proxied("127.0.0.1"))
        assert wire.line().startswith(b"+OK")
        assert wire.ask(b"USER " + ALICE.encode()).startswith(b"+OK")
    with Wire(behind.ports["pop3"], STRANGER) as wire:
        wire.send(proxied("203.0.113.5"))
        assert wire.line().startswith(b"+OK")
        assert wire.ask(b"USER " + ALICE.encode()).startswith(b"-ERR [AUTH]")


def test_no_private_key_is_in_a_log_or_an_answer(service: Service, tmp_path: Path) -> None:
    chain, key = pair(tmp_path, "mail.example.com")
    said = done(service.home, "--json", "certificate", chain, key) + done(service.home, "--json", "certificate")
    secret = Path(key).read_text().split("-----")[2].strip().replace("\n", "")
    for text in (said, service.log.read_text()):
        assert secret[:40] not in text.replace("\n", "")
        assert "PRIVATE" not in text
    assert not [name for name in os.listdir(service.home) if name.endswith((".pem", ".key"))]  # noqa: PTH208 - names
