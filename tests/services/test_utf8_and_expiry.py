"""Headers beyond ASCII for new clients and old ones, and mail that expires, on the running service."""

import email
import email.policy

import pytest

from running import Service
from services.wire import ALICE, BOB, Wire, eventually, no_defect, place, pop3, settle
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite

SUBJECT = "Grüße aus Zürich: 你好"
HEADER = (
    f"From: Jürgen <jürgen@elsewhere.example>\r\nSubject: {SUBJECT}\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
)
BODY = "Schöne Grüße!\r\n.beginnt mit einem Punkt\r\n"


def fetched(service: Service, *, utf8: bool, command: bytes = b"RETR 1") -> tuple[int, bytes]:
    """Return the size that LIST tells and the octets that come."""
    with pop3(service) as wire:
        if utf8:
            assert wire.ask(b"UTF8").startswith(b"+OK")
        wire.ask(b"USER " + ALICE.encode())
        assert wire.ask(b"PASS secret").startswith(b"+OK")
        size = int(wire.ask(b"LIST 1").split()[2])
        assert wire.ask(b"STAT") == b"+OK 1 %d" % size
        assert wire.ask(command).startswith(b"+OK")
        text = wire.multiline()
        assert wire.ask(b"QUIT").startswith(b"+OK")
        return size, text


@pytest.mark.parametrize("times", [1, 20_000])
def test_old_clients_get_ascii_headers_and_list_and_retr_agree(home: Home, times: int) -> None:
    """RFC 6856 and RFC 6858 §4; twenty thousand times the body is a file of its own."""
    settle(home, failuredelay="0")
    message = (HEADER + BODY * times).encode()
    with Service(home.path) as service, no_defect(service):
        service.send(ALICE, message)
        size, text = fetched(service, utf8=True)
        assert size == len(text)
        assert text.endswith(message)
        size, text = fetched(service, utf8=False)
        assert size == len(text)
        header, _, body = text.partition(b"\r\n\r\n")
        assert header.isascii()
        assert body == (BODY * times).encode()
        parsed = email.message_from_bytes(text, policy=email.policy.default)
        assert parsed["Subject"] == SUBJECT
        assert parsed.get_content_charset() == "utf-8"
        _, top = fetched(service, utf8=False, command=b"TOP 1 1")
        assert top.partition(b"\r\n\r\n")[0] == header


def test_replies_are_in_the_language_that_was_asked_for(home: Home) -> None:
    with Service(home.path) as service, pop3(service) as wire:
        assert wire.ask(b"LANG de") == b"+OK de Deutsch"
        assert wire.ask(b"PASS x").decode() == "-ERR Zuerst kommt USER"


def test_mail_that_is_too_old_goes_and_the_rest_stays(home: Home) -> None:
    settle(home, expire="30")
    for user in (ALICE, BOB):
        place(home, user, b"Subject: old\r\n\r\n")
        place(home, user, b"Subject: new\r\n\r\n")
    database = Sqlite(home)
    with database.write() as transaction:
        transaction.run("UPDATE message SET received = received - 31 * 86400 WHERE id IN (1, 3)")
        transaction.run("INSERT INTO mailbox_lock (mailbox_id) SELECT id FROM mailbox WHERE name = 'bob'")
    with Service(home.path) as service, no_defect(service):
        eventually(lambda: "expired" in service.log.read_text(), within=15)
    assert database.number("SELECT count(*) FROM message") == 3  # a lock keeps what its user could not fetch
    assert database.number("SELECT count(*) FROM message WHERE id = 1") == 0
    database.close()


def test_a_session_in_a_language_over_tls_begins_in_english(home: Home) -> None:
    with Service(home.path) as service, Wire(service.ports["pop3"]) as wire:
        wire.line()
        wire.ask(b"LANG fr")
        assert wire.ask(b"STLS").startswith(b"+OK")
        wire.start_tls()
        assert wire.ask(b"PASS x") == b"-ERR USER comes first"
