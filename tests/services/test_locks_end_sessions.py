"""An administrator's lock, or a deletion, while sessions are open, are being opened, or are being closed."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from running import Service
from services.wire import (
    ALICE,
    BOB,
    CAROL,
    HEADER,
    Wire,
    change,
    count,
    crowd,
    eventually,
    holder_of,
    lock,
    no_defect,
    paused,
    place,
    pop3,
    unlock,
)
from winpop.db.home import Home

LOCKED = b"-ERR [AUTH] An administrator has locked this "
LARGE = HEADER + b"0123456789abcdef" * 4 * 16384 + b"\r\n"


@pytest.fixture(autouse=True)
def _undisturbed(service: Service) -> Iterator[None]:
    with no_defect(service):
        yield


def last_words(wire: Wire) -> bytes:
    """Return what the server says before it closes, which must be within a second."""
    began = time.monotonic()
    said = wire.rest()
    assert time.monotonic() - began < 1.0
    wire.close()
    return said


def test_a_domain_lock_ends_its_sessions_in_every_worker_and_no_other(home: Home, service: Service) -> None:
    users = crowd(home, 4)
    one, other = service.workers()
    with paused(one):
        wires = [pop3(service, user) for user in users[:2]]
    with paused(other):
        wires += [pop3(service, user) for user in users[2:]]
    with pop3(service, CAROL) as unconcerned:
        lock(service, "crowd.example")
        assert {last_words(wire)[: len(LOCKED) + 6] for wire in wires} == {LOCKED + b"domain"}
        assert unconcerned.ask(b"NOOP") == b"+OK"


def test_a_hundred_sessions_end_within_a_second_and_log_on_again_after_the_unlock(home: Home, service: Service) -> None:
    users = crowd(home, 100)
    with ThreadPoolExecutor(8) as pool:
        wires = list(pool.map(lambda user: pop3(service, user), users))
    lock(service, "crowd.example")
    began = time.monotonic()
    assert all(wire.rest().startswith(LOCKED) for wire in wires)
    assert time.monotonic() - began < 1.0
    for wire in wires:
        wire.close()
    unlock(service, "crowd.example")
    for user in users[:3]:  # at once
        pop3(service, user).close()


@pytest.mark.parametrize("target", ["example.com", ALICE])
def test_what_was_marked_is_not_deleted_when_the_session_is_locked_out(
    target: str, home: Home, service: Service
) -> None:
    place(home, ALICE, HEADER)
    wire = pop3(service, ALICE)
    assert wire.ask(b"DELE 1").startswith(b"+OK")
    lock(service, target)
    assert last_words(wire).startswith(LOCKED)
    unlock(service, target)
    assert count(service) == 1


def test_deleting_the_mailbox_ends_its_session_and_no_other(service: Service) -> None:
    alice, bob = pop3(service, ALICE), pop3(service, BOB)
    change(service.home, "delete", target=ALICE)
    assert last_words(alice) == b"-ERR [SYS/PERM] This mailbox is no more\r\n"
    assert bob.ask(b"NOOP") == b"+OK"
    change(service.home, "delete", target="example.com")
    assert last_words(bob) == b"-ERR [SYS/PERM] This mailbox is no more\r\n"


def test_a_lock_within_a_message_closes_without_a_final_dot_though_nothing_is_read(service: Service) -> None:
    service.send(ALICE, LARGE * 20)
    wire = pop3(service, ALICE, buffer=4096)
    assert wire.ask(b"RETR 1").startswith(b"+OK")
    lock(service, ALICE)
    eventually(lambda: holder_of(service, wire) is None, within=1)
    unlock(service, ALICE)
    pop3(service, ALICE).close()  # the maildrop is free again
    said = wire.rest()
    wire.close()
    assert len(said) < len(LARGE) * 20
    assert b"-ERR" not in said
    assert not said.endswith(b"\r\n.\r\n")


def test_a_quit_that_meets_a_lock_is_wholly_done_or_wholly_refused(home: Home, service: Service) -> None:
    random.seed(2)
    for _ in range(40):
        place(home, ALICE, HEADER, 3)
        messages = count(service)
        wire = pop3(service, ALICE)
        assert wire.ask(b"DELE 1").startswith(b"+OK")
        locking = threading.Thread(target=lock, args=(service, "example.com"))
        locking.start()
        time.sleep(random.uniform(0, random.choice([0.015, 0.015, 0.25])))
        wire.send(b"QUIT\r\n")
        said = last_words(wire)
        locking.join()
        unlock(service, "example.com")
        assert said.startswith((b"+OK", LOCKED))
        assert count(service) == (messages - 1 if said.startswith(b"+OK") else messages)


def test_a_lock_that_comes_while_passwords_are_checked_lets_nobody_stay(home: Home, service: Service) -> None:
    random.seed(1)
    users = crowd(home, 24)
    for _ in range(4):
        wires = [pop3(service) for _ in users]
        for wire, user in zip(wires, users, strict=True):
            wire.send(b"USER " + user.encode() + b"\r\nPASS secret\r\n")
        time.sleep(random.uniform(0, 0.6))
        lock(service, "crowd.example")
        for wire in wires:
            assert wire.line().startswith(b"+OK")
            answer = wire.line()
            if answer.startswith(b"+OK"):  # it was quicker than the lock, which then ends it
                answer = wire.line()
            assert answer.startswith(LOCKED), answer
            wire.close()
        unlock(service, "crowd.example")


def test_mail_that_comes_during_the_lock_is_there_after_it_in_order(service: Service) -> None:
    lock(service, "example.com")
    for number in range(3):
        service.send(ALICE, f"Subject: {number}\r\n\r\n")
    unlock(service, "example.com")
    with pop3(service, ALICE) as wire:
        for number in range(3):
            assert wire.ask(b"RETR %d" % (number + 1)).startswith(b"+OK")
            assert wire.multiline().endswith(b"Subject: %d\r\n\r\n" % number)
