"""An SMTP session takes little memory, whatever is pipelined and however long nothing is taken (F5)."""

import tracemalloc
from collections.abc import Callable

import pytest

from winpop.protocol import smtp
from winpop.terms.names import Address

MANY = 10_000
KIB = 1024
ALICE = Address.parse("alice@example.com")
FREE = smtp.Limits(idle_commands=MANY + 1)


def drive(session: smtp.Session) -> bytes:
    """Answer everything with yes, and return what was said."""
    said = b""
    while (data := session.to_send()) or session.needs() is not None:
        said += data
        match session.needs():
            case None:
                pass
            case smtp.Verify():
                session.supply(smtp.Accepted(ALICE))
            case smtp.Commit(envelope):
                session.supply(smtp.Committed((True,) * len(envelope.recipients)))
            case _:
                session.supply(smtp.Done())
    return said


def connected(limits: smtp.Limits | None = None) -> smtp.Session:
    session = smtp.Session(limits or smtp.Limits(), hostname="mail.example.com")
    session.receive(b"EHLO client.example.net\r\n")
    drive(session)
    return session


def peak(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_pipelined_commands_are_all_answered_in_order() -> None:
    session = connected(FREE)
    session.receive(b"NOOP\r\nMAIL\r\n" * 10 + b"NOOP\r\n" * (MANY - 10))
    assert drive(session).count(b"250 2.0.0 OK\r\n") == MANY
    assert session.commands == 1 + 10 + MANY


def test_many_pipelined_transactions() -> None:
    session = connected()
    one = b"MAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\nx\r\n.\r\n"
    session.receive(one * (MANY // 4))
    assert drive(session).count(b"250 2.0.0 Delivered\r\n") == MANY // 4


@pytest.mark.parametrize("command", [b"HELP\r\n", b"EHLO a\r\n"])
def test_replies_that_nobody_takes_are_not_made(command: bytes) -> None:
    session = connected(FREE)
    session.receive(command * MANY)
    waiting = session.backlog
    assert peak(session.to_send) < 512 * KIB
    taken = (waiting - session.backlog) // len(command)
    assert 0 < taken < MANY // 2
    assert len(session.to_send()) < 65 * KIB


def test_a_discarded_message_takes_no_memory() -> None:
    session = connected(smtp.Limits(message=MANY * KIB))
    session.receive(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n\0")
    drive(session)
    piece = b"x" * 64 * KIB

    def send() -> None:
        for _ in range(100):
            session.receive(piece)
            drive(session)

    assert peak(send) < 512 * KIB
    assert session.receiving


def test_a_message_in_single_octets_takes_no_memory() -> None:
    session = connected()
    session.receive(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n")
    drive(session)

    def send() -> None:
        for _ in range(MANY):
            session.receive(b".")
            drive(session)

    assert peak(send) < 16 * KIB


def test_a_line_that_never_ends_is_not_kept() -> None:
    session = connected()
    for _ in range(MANY):
        session.receive(b"x")
        drive(session)
    assert session.closed
    assert session.backlog == 0
