"""Deliveries that share statements make the same messages as one by one, and nobody pays for another's mailbox."""

import hashlib
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from winpop.db.contract import Row
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.db.writer import Writer
from winpop.directory import domains, mailboxes
from winpop.store import delivery
from winpop.store.blobs import Content
from winpop.store.delivery import Delivery, deliver, deliver_together, find_mailbox, may_be_together
from winpop.terms.names import Address, DomainName

ALICE, BOB, CAROL, NOBODY = map(
    Address.parse, ["alice@example.com", "bob@example.com", "carol@other.example", "nobody@example.com"]
)
UNIQUE_ID = re.compile(r"[A-Za-z0-9_-]{22}")


def one(database: Sqlite, body: bytes, *recipients: Address, prefix: bytes = b"P: x\r\n") -> Delivery:
    found = [find_mailbox(database, address) for address in recipients]
    content = Content(len(body), body, None)
    plain = not body.startswith(b".")
    return Delivery(
        recipients, tuple(each for each in found if each), content, prefix, content.checksum(prefix), plain=plain
    )


def mail(database: Sqlite) -> list[Row]:
    """Return all messages as they were put there, but for their unique-ids and their time."""
    return database.all(
        "SELECT message.mailbox_id, message.body_id, message.size, prefix, body.size, plain, blob, content, checksum "
        "FROM message JOIN body ON body.id = message.body_id ORDER BY message.id"
    )


def forget(database: Sqlite) -> None:
    with database.write() as transaction:
        for table in ("message", "body", "sqlite_sequence WHERE name IN ('message', 'body')"):
            transaction.run(f"DELETE FROM {table}")


bodies = st.binary(max_size=40) | st.sampled_from([b"", b".\r\n", b"x" * 3000])
recipients = st.lists(st.sampled_from([ALICE, BOB, CAROL]), min_size=1, max_size=3, unique=True)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(bodies, recipients, st.binary(max_size=20)), min_size=1, max_size=150))
def test_together_is_as_one_by_one(database: Sqlite, wanted: list[tuple[bytes, list[Address], bytes]]) -> None:
    forget(database)
    deliveries = [one(database, body, *those, prefix=prefix) for body, those, prefix in wanted]
    with database.write() as transaction:
        flags = [deliver(transaction, d.recipients, d.content, d.prefix, plain=d.plain) for d in deliveries]
    singly = mail(database)
    forget(database)
    with database.write() as transaction:
        assert deliver_together(transaction, deliveries) == flags
    assert mail(database) == singly
    ids = [str(row[0]) for row in database.all("SELECT unique_id FROM message")]
    assert len(set(ids)) == len(ids)
    assert all(map(UNIQUE_ID.fullmatch, ids))


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 127, 200])
def test_every_number_is_delivered_with_a_time_and_no_identifier_is_used_again(database: Sqlite, count: int) -> None:
    for _ in range(2):
        with database.write() as transaction:
            deliver_together(transaction, [one(database, b"%d" % n, ALICE) for n in range(count)])
        with database.write() as transaction:
            transaction.run("DELETE FROM message WHERE id % 3 = 0 OR id > ?", count // 2)
            transaction.run("DELETE FROM body WHERE id NOT IN (SELECT body_id FROM message)")
    with database.write() as transaction:
        deliver_together(transaction, [one(database, b"last", ALICE), one(database, b"last", BOB)])
    for table in ("body", "message"):
        last = database.all(f"SELECT id FROM {table} ORDER BY id DESC LIMIT 2")
        assert last == [(2 * count + 2,), (2 * count + 1,)]
    assert database.number("SELECT count(*) FROM message WHERE received < 1790000000") == 0


def test_a_checksum_is_that_of_body_and_prefix(database: Sqlite) -> None:
    with database.write() as transaction:
        deliver_together(transaction, [one(database, b"body", ALICE, prefix=b"P"), one(database, b"other", BOB)])
    row = database.one("SELECT checksum FROM body WHERE content = ?", b"body")
    assert row == (hashlib.sha256(b"bodyP").digest(),)


def through_a_writer(home: Home, deliveries: list[Delivery]) -> list[Any]:
    """Deliver in one batch, as the service does; return what is told of each."""
    told: list[Any] = []
    soon: list[Any] = []
    writer = Writer(lambda: Sqlite(home), lambda run: run(), soon.append)
    for each in deliveries:
        writer.submit_with(deliver_together, each, told.append)
    writer.close()
    return told


def test_a_mailbox_that_is_gone_is_told_to_its_sender_alone(home: Home, database: Sqlite) -> None:
    deliveries = [one(database, b"1", ALICE), one(database, b"2", BOB), one(database, b"3", BOB, CAROL, ALICE)]
    with database.write() as transaction:
        mailboxes.delete(transaction, mailboxes.find(transaction, BOB))
    assert through_a_writer(home, deliveries) == [(True,), (False,), (False, True, True)]
    rows = [(row[0], row[7]) for row in mail(database)]
    alice, carol = find_mailbox(database, ALICE), find_mailbox(database, CAROL)
    assert rows == [(alice, b"1"), (carol, b"3"), (alice, b"3")]
    assert database.number("SELECT count(*) FROM body") == 2


def test_a_mailbox_that_was_made_again_gets_what_is_for_its_address(home: Home, database: Sqlite) -> None:
    deliveries = [one(database, b"1", ALICE), one(database, b"2", BOB)]
    with database.write() as transaction:
        mailboxes.delete(transaction, mailboxes.find(transaction, BOB))
        mailboxes.make(transaction, domains.find(transaction, DomainName.parse("example.com")).id, BOB)
    assert through_a_writer(home, deliveries) == [(True,), (True,)]
    assert [row[0] for row in mail(database)] == [find_mailbox(database, ALICE), find_mailbox(database, BOB)]


def test_when_the_database_has_lost_count_mail_is_delivered_all_the_same(home: Home, database: Sqlite) -> None:
    with database.write() as transaction:
        deliver_together(transaction, [one(database, b"%d" % n, ALICE) for n in range(3)])
        transaction.run("DELETE FROM sqlite_sequence WHERE name = 'body'")
    for _ in range(2):
        assert through_a_writer(home, [one(database, b"x", ALICE), one(database, b"y", BOB)]) == [(True,), (True,)]
    assert len(mail(database)) == 7


def test_what_shares_statements_is_small_in_a_row_and_one_for_all() -> None:
    small = Content(5, b"hello", None)
    assert may_be_together(small)
    assert not may_be_together(Content(5, None, "ab" * 16))
    assert not may_be_together(Content(5, b"hello", None, downgraded=4))
    assert not may_be_together(Content(200_000, b"x" * 200_000, None))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 63, 64, 300])
def test_unique_ids_are_as_many_as_are_wanted(count: int) -> None:
    ids = delivery._unique_ids(count)
    assert len(set(ids)) == len(ids) == count
    assert all(map(UNIQUE_ID.fullmatch, ids))


def test_a_mailbox_is_found_locked_or_not(database: Sqlite) -> None:
    alice = mailboxes.find(database, ALICE)
    assert find_mailbox(database, ALICE) == alice.id
    assert find_mailbox(database, NOBODY) is None
    with database.write() as transaction:
        mailboxes.lock(transaction, alice)
    assert find_mailbox(database, ALICE) == alice.id
