"""Logons on the running service: every way in that needs no other server, and what guessing costs."""

import base64
import hashlib
import hmac
import poplib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scramp import ScramClient  # type: ignore[import-untyped]

from auth.ntlm_parts import NEGOTIATE, Fake
from running import Service, done
from services.wire import ALICE, BOB, STRANGER, Wire, eventually, no_defect, pop3, settle
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite

WRONG = b"-ERR [AUTH] The name or the password is wrong"


@pytest.fixture
def service(home: Home) -> Iterator[Service]:
    settle(home, failuredelay="0")
    with Service(home.path) as running, no_defect(running):
        yield running


def coded(data: bytes) -> bytes:
    return base64.b64encode(data)


def capabilities(service: Service, source: str = "127.0.0.1") -> list[bytes]:
    with pop3(service, source=source) as wire:
        wire.ask(b"CAPA")
        return wire.multiline().split(b"\r\n")


def mechanisms(service: Service) -> list[bytes]:
    return next(line for line in capabilities(service) if line.startswith(b"SASL ")).split()[1:]


def by_scram(wire: Wire, name: str, password: str, mechanism: str = "SCRAM-SHA-256", binding: object = None) -> bytes:
    """Log on with the independent client; return the last reply."""
    client = ScramClient([mechanism], name, password, channel_binding=binding)
    reply = wire.ask(f"AUTH {mechanism} ".encode() + coded(client.get_client_first().encode()))
    if not reply.startswith(b"+ "):
        return reply
    client.set_server_first(base64.b64decode(reply[2:]).decode())
    reply = wire.ask(coded(client.get_client_final().encode()))
    if not reply.startswith(b"+ "):
        return reply
    client.set_server_final(base64.b64decode(reply[2:]).decode())  # which proves that the server knows it too
    return wire.ask(b"")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1"])
def test_scram_lets_in_who_has_the_password(service: Service, mechanism: str) -> None:
    with pop3(service) as wire:
        assert by_scram(wire, ALICE, "wrong", mechanism) == WRONG
        assert by_scram(wire, "nobody@example.com", "secret", mechanism) == WRONG
        assert by_scram(wire, ALICE, "secret", mechanism).startswith(b"+OK")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"])
def test_scram_plus_is_bound_to_this_connection(home: Home, mechanism: str) -> None:
    settle(home, scramplus="2", failuredelay="0")
    with Service(home.path) as service, no_defect(service), pop3(service, source=STRANGER) as wire:
        wire.ask(b"STLS")
        secured = wire.start_tls()
        certificate = secured.getpeercert(binary_form=True)
        assert certificate is not None
        elsewhere = ("tls-server-end-point", b"another server's certificate")
        assert by_scram(wire, ALICE, "secret", mechanism, elsewhere) == WRONG
        here = ("tls-server-end-point", hashlib.sha256(certificate).digest())
        assert by_scram(wire, ALICE, "secret", mechanism, here).startswith(b"+OK")


def test_a_salt_tells_nobody_who_has_a_mailbox(service: Service) -> None:
    def salts(name: str) -> set[str]:
        found = set()
        for _ in range(2):
            with pop3(service) as wire:
                client = ScramClient(["SCRAM-SHA-256"], name, "secret")
                reply = wire.ask(b"AUTH SCRAM-SHA-256 " + coded(client.get_client_first().encode()))
                fields = base64.b64decode(reply[2:]).decode().split(",")
                found.add(",".join(fields[1:]))
        return found

    known, unknown, other = salts(ALICE), salts("nobody@example.com"), salts("noone@example.com")
    assert len(known) == len(unknown) == 1
    assert unknown != other
    assert [len(next(iter(salt))) for salt in (known, unknown)] == [len(next(iter(known)))] * 2


def test_plain_and_login_take_the_password_as_it_is(service: Service) -> None:
    with pop3(service) as wire:
        assert wire.ask(b"AUTH PLAIN " + coded(b"\0alice@example.com\0wrong")) == WRONG
        assert wire.ask(b"AUTH PLAIN " + coded(b"bob@example.com\0alice@example.com\0secret")) == WRONG
        assert wire.ask(b"AUTH PLAIN").startswith(b"+")
        assert wire.ask(coded(b"\0alice@example.com\0secret")).startswith(b"+OK")
    with pop3(service) as wire:
        assert base64.b64decode(wire.ask(b"AUTH LOGIN")[2:]) == b"Username:"
        assert base64.b64decode(wire.ask(coded(BOB.encode()))[2:]) == b"Password:"
        assert wire.ask(coded(b"secret")).startswith(b"+OK")


def test_scram_is_offered_when_every_mailbox_has_its_keys_and_a_logon_brings_them(home: Home) -> None:
    database = Sqlite(home)
    with database.write() as transaction:
        transaction.run("UPDATE password SET scram_sha_1 = NULL, scram_sha_256 = NULL WHERE mailbox_id = 1")
    with Service(home.path) as service, no_defect(service):
        assert mechanisms(service) == [b"PLAIN", b"LOGIN"]
        with pop3(service, ALICE) as wire:
            wire.ask(b"QUIT")

        def let_in() -> bool:  # each worker looks for itself, every few seconds
            with pop3(service) as wire:
                return by_scram(wire, ALICE, "secret").startswith(b"+OK")

        eventually(let_in, within=30)
    database.close()


def test_another_password_holds_at_once_and_the_old_one_no_more(service: Service) -> None:
    """What was remembered of the old one is forgotten in all workers."""
    for _ in range(4):
        with pop3(service, ALICE) as wire:
            wire.ask(b"QUIT")
    done(service.home, "changepwd", ALICE, given="another one\n")
    for _ in range(4):
        with pytest.raises(poplib.error_proto):
            service.log_on(ALICE, "secret")
    service.log_on(ALICE, "another one").quit()
    with pop3(service) as wire:
        assert by_scram(wire, ALICE, "secret") == WRONG
        assert by_scram(wire, ALICE, "another one").startswith(b"+OK")


def test_a_password_that_was_right_is_quick_the_second_time(service: Service) -> None:
    def took() -> float:
        began = time.perf_counter()
        with pop3(service, ALICE) as wire:
            wire.ask(b"QUIT")
        return time.perf_counter() - began

    took()
    assert min(took() for _ in range(10)) < 0.02  # one verification takes 28 ms on an idle machine


def test_apop_and_cram_md5_are_there_when_they_are_asked_for(service: Service) -> None:
    with pop3(service) as wire:
        assert wire.ask(b"APOP alice@example.com " + b"0" * 32) == b"-ERR Unknown command"
    for name in ("apop", "crammd5"):
        assert "The price" in done(service.home, "set", name, "1")
    for _ in range(4):  # whichever worker it is
        eventually(lambda: b"CRAM-MD5" in mechanisms(service))
    time.sleep(0.5)  # a worker looks five times a second
    with Wire(service.ports["pop3"]) as wire:
        timestamp = wire.line().rpartition(b" ")[2]
        digest = hashlib.md5(timestamp + b"secret").hexdigest().encode()
        assert wire.ask(b"APOP alice@example.com " + digest) == WRONG  # no secret is kept of it yet
        assert wire.ask(b"USER alice@example.com").startswith(b"+OK")
        assert wire.ask(b"PASS secret").startswith(b"+OK")  # and now it is
    eventually(lambda: secret_of(service.home))
    assert b"secret" not in secret_of(service.home)
    with Wire(service.ports["pop3"]) as wire:
        timestamp = wire.line().rpartition(b" ")[2]
        assert wire.ask(b"APOP alice@example.com " + hashlib.md5(timestamp + b"wrong").hexdigest().encode()) == WRONG
        digest = hashlib.md5(timestamp + b"secret").hexdigest().encode()
        assert wire.ask(b"APOP alice@example.com " + digest).startswith(b"+OK")
    with pop3(service) as wire:
        challenge = base64.b64decode(wire.ask(b"AUTH CRAM-MD5")[2:])
        answer = b"alice@example.com " + hmac.digest(b"secret", challenge, "md5").hex().encode()
        assert wire.ask(coded(answer)).startswith(b"+OK")


def secret_of(home: object) -> bytes:
    database = Sqlite(home if isinstance(home, Home) else Home(home))  # type: ignore[arg-type]
    try:
        row = database.one("SELECT secret FROM password WHERE mailbox_id = 1")
        return row[0] if row and isinstance(row[0], bytes) else b""
    finally:
        database.close()


def test_sparequired_takes_no_password_in_clear_and_scram_goes_on(home: Home) -> None:
    settle(home, sparequired="1", failuredelay="0")
    with Service(home.path) as service, no_defect(service):
        assert b"USER" not in capabilities(service)
        assert mechanisms(service) == [b"SCRAM-SHA-256", b"SCRAM-SHA-1"]
        with pop3(service) as wire:
            assert wire.ask(b"USER " + ALICE.encode()).startswith(b"-ERR [AUTH]")
            assert wire.ask(b"AUTH PLAIN " + coded(b"\0alice@example.com\0secret")).startswith(b"-ERR")
            assert by_scram(wire, ALICE, "secret").startswith(b"+OK")
        with pop3(service) as wire:
            wire.ask(b"STLS")
            wire.start_tls()
            wire.ask(b"USER " + ALICE.encode())
            assert wire.ask(b"PASS secret").startswith(b"+OK")


def test_the_logon_delay_is_announced_and_kept_by_all_workers(home: Home) -> None:
    """RFC 2449 §6.5 and RFC 2449 §8.1.1."""
    settle(home, logindelay="3600")
    with Service(home.path) as service, no_defect(service):
        assert b"LOGIN-DELAY 3600" in capabilities(service)
        with pop3(service, ALICE) as wire:
            wire.ask(b"QUIT")
        for _ in range(4):
            with pop3(service) as wire:
                wire.ask(b"USER " + ALICE.encode())
                assert wire.ask(b"PASS secret").startswith(b"-ERR [LOGIN-DELAY]")
        with pop3(service, BOB) as wire:
            wire.ask(b"QUIT")


def test_expire_says_the_number_that_holds(home: Home) -> None:
    """RFC 2449 §6.7."""
    settle(home, expire="30")
    with Service(home.path) as service:
        assert b"EXPIRE 30" in capabilities(service)


def test_guessing_gets_slower_and_the_owner_elsewhere_does_not_wait(home: Home) -> None:
    settle(home, failuredelay="1", failuredelaymax="30", failuremax="20", trusted="127.0.0.0/8", scram="0")
    with Service(home.path) as service, no_defect(service):
        took = []
        with pop3(service) as wire:
            for number in range(3):
                began = time.monotonic()
                wire.ask(b"USER " + ALICE.encode())
                assert wire.ask(b"PASS guess %d" % number) == WRONG
                took.append(time.monotonic() - began)
            assert took[0] >= 1
            assert took[2] > took[0] * 2  # one to look at, and the delay doubled
            began = time.monotonic()
            service_log_on(service, ALICE, "127.1.2.3")
            assert time.monotonic() - began < 1


def service_log_on(service: Service, user: str, source: str) -> None:
    with pop3(service, source=source) as wire:
        wire.ask(b"USER " + user.encode())
        assert wire.ask(b"PASS secret").startswith(b"+OK")
        wire.ask(b"QUIT")


def test_all_reasons_to_fail_take_the_same_time_and_words(home: Home) -> None:
    settle(home, failuredelay="1", failuremax="20", failuredelaymax="1")
    with Service(home.path) as service, no_defect(service):
        took = []
        for name, password in ((ALICE, b"wrong"), ("nobody@example.com", b"secret"), ("x@nowhere.example", b"secret")):
            with pop3(service) as wire:
                began = time.monotonic()
                wire.ask(b"USER " + name.encode())
                assert wire.ask(b"PASS " + password) == WRONG
                took.append(time.monotonic() - began)
        assert max(took) - min(took) < 0.25, took  # a verification is 28 ms, on a machine that does much else


def test_no_password_is_in_the_log_or_in_the_database(home: Home) -> None:
    canary = "CaNaRy-7f3a"
    settle(home, failuredelay="0", apop="1")
    with Service(home.path) as service, no_defect(service):
        done(home.path, "changepwd", ALICE, given=canary + "\n")
        service.log_on(ALICE, canary).quit()
        with pop3(service) as wire:
            assert by_scram(wire, ALICE, canary).startswith(b"+OK")
        with pop3(service) as wire:
            wire.ask(b"AUTH PLAIN " + coded(b"\0bob@example.com\0" + canary.encode()))
        eventually(lambda: "refused=Refused" in service.log.read_text())
    stored = b"".join(path.read_bytes() for path in home.path.glob("*") if path.is_file())
    for text in (service.log.read_bytes(), stored):
        assert canary.encode() not in text
        for shift in range(3):
            assert coded(b"x" * shift + canary.encode())[4:-4] not in text


def test_a_context_goes_with_its_run_and_does_not_outlive_the_handshake(home: Home, tmp_path: Path) -> None:
    """RFC 5034 §4 and RFC 2595 §4: what was cancelled, or begun in clear, is not gone on with."""
    fake = Fake(tmp_path)
    settle(home, auth="2", ntlm="1", ntlmhelper=fake.command(), failuredelay="0")
    negotiate = b"AUTH NTLM " + coded(NEGOTIATE)
    with Service(home.path, "--workers", "0") as service, no_defect(service), pop3(service) as wire:
        for ending in (b"*", b"no base64"):
            assert wire.ask(negotiate).startswith(b"+ ")
            assert wire.ask(ending).startswith(b"-ERR")
            assert wire.ask(negotiate).startswith(b"+ ")  # a new one, which takes a first message
            wire.ask(b"*")
        assert wire.ask(negotiate).startswith(b"+ ")
        wire.ask(b"*")
        assert wire.ask(b"STLS").startswith(b"+OK")
        wire.start_tls()
        assert wire.ask(negotiate).startswith(b"+ ")


def test_a_service_that_stops_while_a_logon_waits_stops_without_a_word(home: Home) -> None:
    settle(home, failuredelay="20", draintime="0")
    for workers in ("2", "0"):
        with Service(home.path, "--workers", workers) as service, pop3(service) as wire:
            wire.ask(b"USER " + ALICE.encode())
            wire.send(b"PASS wrong\r\n")
            time.sleep(0.5)  # it is being looked at, and its answer is awaited
            assert service.stop() == 0
            log = service.log.read_text()
            assert "Traceback" not in log, log
            assert "defect" not in log, log
