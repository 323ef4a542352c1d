"""A POP3 session takes little memory, whatever is pipelined and however long nothing is taken (F5)."""

import time
import tracemalloc

import pytest

from winpop.protocol import pop3
from winpop.terms.mail import Listing

MANY = 10_000
KIB = 1024
LISTING = Listing((2048,) * MANY, tuple(f"{n:032x}" for n in range(MANY)))


def logged_on() -> pop3.Session:
    session = pop3.Session(pop3.Limits(), pop3.Offer())
    session.receive(b"USER alice@example.com\r\nPASS secret\r\n")
    session.to_send()
    session.supply(pop3.Opened(LISTING))
    session.to_send()
    return session


def test_many_listings_that_nobody_takes_are_not_made() -> None:
    session = logged_on()
    session.receive(b"UIDL\r\n" * MANY)
    waiting = session.backlog
    tracemalloc.start()
    try:
        sizes = [len(session.to_send()) for _ in range(100)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert min(sizes) > 0
    assert max(sizes) < 160 * KIB
    assert peak < 512 * KIB
    # A hundred takings are no more than some dozens of these listings; all the others still wait as commands.
    assert waiting - session.backlog < 50 * len(b"UIDL\r\n")


def test_a_listing_in_pieces_is_whole() -> None:
    session = logged_on()
    session.receive(b"LIST\r\n")
    reply = b"".join(iter(session.to_send, b""))
    expected = b"".join(b"%d 2048\r\n" % n for n in range(1, MANY + 1))
    assert reply == b"+OK 10000 messages (20480000 octets)\r\n" + expected + b".\r\n"


def test_a_listing_without_any_message_left_is_whole() -> None:
    session = logged_on()
    session.receive(b"".join(b"DELE %d\r\n" % n for n in range(1, MANY + 1)))
    while session.to_send():
        pass
    session.receive(b"LIST\r\n")
    assert b"".join(iter(session.to_send, b"")) == b"+OK 0 messages (0 octets)\r\n.\r\n"


@pytest.mark.parametrize("command", [b"STAT", b"LIST", b"UIDL", b"RSET"])
def test_no_taking_holds_up_other_sessions(command: bytes) -> None:
    """One call does the work of one listing at most, also where that gives only a line or two."""
    session = logged_on()
    session.receive(b"".join(b"DELE %d\r\n" % n for n in range(1, MANY + 1)))
    while session.to_send():
        pass
    session.receive((command + b"\r\n") * 2000)
    started = time.perf_counter()
    session.to_send()
    assert time.perf_counter() - started < 0.2  # it was more than a second when each STAT added up sizes


def test_an_ending_after_a_listing_is_said() -> None:
    session = logged_on()
    session.receive(b"LIST\r\n")
    while session.to_send():
        pass
    session.end(pop3.Ending.DOMAIN_LOCKED)
    assert session.to_send().startswith(b"-ERR [AUTH] ")


def test_every_one_of_many_pipelined_commands_is_answered() -> None:
    """RFC 2449 §6.6: a client may send as many commands as it likes before it reads."""
    session = logged_on()
    session.receive(b"NOOP\r\n" * MANY)
    replies = list(iter(session.to_send, b""))
    assert b"".join(replies) == b"+OK\r\n" * MANY
    assert max(map(len, replies)) <= 64 * KIB + 512
    assert session.backlog == 0


def test_an_endless_line_is_refused_at_its_limit() -> None:
    """RFC 2449 §4: 255 octets are enough for a command."""
    session = logged_on()
    session.receive(b"A" * 254)
    assert session.to_send() == b""
    session.receive(b"A" * 10_000_000)
    assert session.to_send() == b"-ERR The line is too long\r\n"
    assert session.closed
    assert session.backlog == 0
    session.receive(b"A" * 1_000_000)
    assert session.backlog == 0


def test_an_ended_listing_stops_within_one_piece() -> None:
    session = logged_on()
    session.receive(b"LIST\r\n")
    assert session.to_send().startswith(b"+OK ")
    session.end(pop3.Ending.DOMAIN_LOCKED)
    assert session.to_send() == b""
    assert session.closed
