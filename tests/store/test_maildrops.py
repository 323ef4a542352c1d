"""Delivery and removal: each recipient's own message, one body, and exactly what was named goes."""

import hashlib
import sqlite3
from collections.abc import Callable

import pytest

from winpop.db.contract import Transaction
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.directory.mailboxes import Mailbox
from winpop.store import maildrops
from winpop.store.blobs import Content
from winpop.store.delivery import deliver
from winpop.store.maildrops import Maildrop, Removed, Stored
from winpop.terms.names import Address

ALICE, BOB, CAROL, NOBODY = map(
    Address.parse, ["alice@example.com", "bob@example.com", "carol@other.example", "nobody@example.com"]
)
ROW = Content(5, b"hello", None)
BLOB = Content(5, None, "ab" * 16)


def send(database: Sqlite, *recipients: Address, content: Content = ROW, prefix: bytes = b"P") -> tuple[bool, ...]:
    with database.write() as transaction:
        return deliver(transaction, recipients, content, prefix, plain=True)


def drop(database: Sqlite, address: Address) -> Maildrop:
    return maildrops.open_maildrop(database, mailboxes.find(database, address).id)


def expunge(database: Sqlite, address: Address, *messages: int) -> Removed:
    mailbox = mailboxes.find(database, address)
    with database.write() as transaction:
        return maildrops.expunge(transaction, mailbox.id, messages)


def bodies(database: Sqlite) -> int:
    return database.number("SELECT count(*) FROM body")


def discarded(database: Sqlite) -> list[str]:
    return [str(name) for (name,) in database.all("SELECT name FROM discarded_blob ORDER BY name")]


# --- delivery ---


@pytest.mark.parametrize("content", [ROW, BLOB])
def test_one_message_to_many_is_stored_once_and_listed_by_each_under_its_own_unique_id(
    database: Sqlite, content: Content
) -> None:
    assert send(database, ALICE, BOB, CAROL, content=content) == (True, True, True)
    drops = [drop(database, address) for address in (ALICE, BOB, CAROL)]
    assert [each.listing.sizes for each in drops] == [(6,)] * 3  # the prefix counts
    assert len({each.listing.unique_ids for each in drops}) == 3
    assert [maildrops.find(database, each.messages[0]) for each in drops] == [
        Stored(
            b"P",
            True,
            content.octets,
            content.blob,
            content.size,
            content.checksum(b"P"),
            surely_plain=content.blob is not None,
        )
    ] * 3
    assert bodies(database) == 1


def test_a_mailbox_named_twice_gets_one_message(database: Sqlite) -> None:
    assert send(database, ALICE, BOB, ALICE) == (True, True, True)
    assert (len(drop(database, ALICE).messages), len(drop(database, BOB).messages)) == (1, 1)


def test_a_mailbox_that_is_gone_is_told_and_hinders_nobody(database: Sqlite) -> None:
    assert send(database, NOBODY, ALICE, NOBODY) == (False, True, False)
    assert len(drop(database, ALICE).messages) == 1


def test_a_blob_that_nobody_is_left_to_get_is_noted_for_removal(database: Sqlite) -> None:
    assert send(database, NOBODY, content=BLOB) == (False,)
    assert (discarded(database), bodies(database)) == ([BLOB.blob], 0)
    assert send(database, NOBODY, content=ROW) == (False,)
    assert bodies(database) == 0


def test_a_delivery_that_is_not_committed_never_was(database: Sqlite) -> None:
    def fail() -> None:
        with database.write() as transaction:
            deliver(transaction, [ALICE, BOB], ROW, b"", plain=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(drop(database, ALICE).listing) == bodies(database) == 0


def test_mail_for_what_is_locked_comes_in(database: Sqlite) -> None:
    with database.write() as transaction:
        mailboxes.lock(transaction, mailboxes.find(transaction, ALICE))
        domains.lock(transaction, domains.find(transaction, CAROL.domain))
    assert send(database, ALICE, CAROL) == (True, True)
    assert (len(drop(database, ALICE).listing), len(drop(database, CAROL).listing)) == (1, 1)


def test_a_listing_is_oldest_first_and_does_not_change_when_mail_arrives(database: Sqlite) -> None:
    for n in range(3):
        send(database, ALICE, prefix=b"P" * n)
    before = drop(database, ALICE)
    assert (before.listing.sizes, before.listing.octets, len(before.listing)) == ((5, 6, 7), 18, 3)
    send(database, ALICE)
    assert before.listing.sizes == (5, 6, 7)
    after = drop(database, ALICE)
    assert after.messages[:3] == before.messages
    assert after.listing.unique_ids[:3] == before.listing.unique_ids


def test_whether_dots_must_be_stuffed_is_kept(database: Sqlite) -> None:
    with database.write() as transaction:
        deliver(transaction, [ALICE], ROW, b"", plain=False)
    assert maildrops.find(database, drop(database, ALICE).messages[0]) == Stored(
        b"", False, b"hello", None, 5, hashlib.sha256(b"hello").digest()
    )


# --- removal ---


def test_exactly_the_named_messages_go_and_the_others_keep_their_unique_ids(database: Sqlite) -> None:
    for _ in range(4):
        send(database, ALICE)
    before = drop(database, ALICE)
    assert expunge(database, ALICE, before.messages[1], before.messages[3]) == Removed()
    after = drop(database, ALICE)
    assert after.messages == before.messages[::2]
    assert after.listing.unique_ids == before.listing.unique_ids[::2]
    assert maildrops.find(database, before.messages[1]) is None
    assert bodies(database) == 2


def test_a_message_of_another_mailbox_cannot_be_removed(database: Sqlite) -> None:
    send(database, ALICE)
    send(database, BOB, content=BLOB)
    bobs = drop(database, BOB).messages
    assert expunge(database, ALICE, *bobs) == Removed()
    assert drop(database, BOB).messages == bobs
    assert expunge(database, ALICE, *bobs, *drop(database, ALICE).messages) == Removed()
    assert (len(drop(database, ALICE).messages), drop(database, BOB).messages) == (0, bobs)
    assert (bodies(database), discarded(database)) == (1, [])


def test_a_shared_body_stays_until_its_last_message_goes(database: Sqlite) -> None:
    send(database, ALICE, BOB, CAROL, content=BLOB)
    for address in (BOB, ALICE):
        assert expunge(database, address, *drop(database, address).messages) == Removed()
        assert (bodies(database), discarded(database)) == (1, [])
    assert expunge(database, CAROL, *drop(database, CAROL).messages) == Removed(blobs=(str(BLOB.blob),))
    assert (bodies(database), discarded(database)) == (0, [BLOB.blob])


def test_what_is_removed_already_is_not_removed_again(database: Sqlite) -> None:
    send(database, ALICE, content=BLOB)
    messages = drop(database, ALICE).messages
    assert expunge(database, ALICE, *messages, *messages).blobs == (BLOB.blob,)
    assert expunge(database, ALICE, *messages) == Removed()
    assert expunge(database, ALICE) == Removed()


def test_more_messages_than_one_statement_takes_go_in_one_transaction(database: Sqlite) -> None:
    contents = [Content(5, None, f"{n:032x}") for n in range(600)]
    with database.write() as transaction:
        for content in contents:
            deliver(transaction, [ALICE, BOB], content, b"", plain=True)
    assert expunge(database, ALICE, *drop(database, ALICE).messages) == Removed()
    assert bodies(database) == 600
    removed = expunge(database, BOB, *reversed(drop(database, BOB).messages))
    assert sorted(removed.blobs) == discarded(database) == [content.blob for content in contents]
    assert bodies(database) == 0


def _lock_mailbox(transaction: Transaction, mailbox: Mailbox) -> None:
    mailboxes.lock(transaction, mailbox)


def _lock_domain(transaction: Transaction, mailbox: Mailbox) -> None:
    domains.lock(transaction, domains.find(transaction, mailbox.address.domain))


@pytest.mark.parametrize(("lock", "locked"), [(_lock_mailbox, "mailbox"), (_lock_domain, "domain")])
def test_nothing_is_removed_from_what_is_locked(
    database: Sqlite, lock: Callable[[Transaction, Mailbox], None], locked: str
) -> None:
    send(database, ALICE, content=BLOB)
    before = drop(database, ALICE)
    with database.write() as transaction:
        lock(transaction, mailboxes.find(transaction, ALICE))
    assert expunge(database, ALICE, *before.messages) == Removed(locked=locked)
    assert drop(database, ALICE) == before


def test_nothing_is_removed_where_the_mailbox_is_missing(database: Sqlite) -> None:
    send(database, ALICE)
    messages = drop(database, ALICE).messages
    with database.write() as transaction:
        assert maildrops.expunge(transaction, 10**9, messages) == Removed(missing=True)
    assert drop(database, ALICE).messages == messages


def test_emptying_a_mailbox_takes_all_its_mail_locked_or_not_and_nobody_elses(database: Sqlite) -> None:
    own, shared = (Content(5, None, letter * 32) for letter in "ab")
    send(database, ALICE, content=own)
    send(database, ALICE, BOB, content=shared)
    send(database, BOB)
    with database.write() as transaction:
        mailbox = mailboxes.find(transaction, ALICE)
        mailboxes.lock(transaction, mailbox)
        assert maildrops.empty(transaction, mailbox) == [own.blob]
        mailboxes.delete(transaction, mailbox)
    assert (len(drop(database, BOB).messages), bodies(database), discarded(database)) == (2, 2, [own.blob])


def test_emptying_a_domain_takes_the_mail_of_its_mailboxes_and_no_others(database: Sqlite) -> None:
    inside, across = (Content(5, None, letter * 32) for letter in "ab")
    send(database, ALICE, BOB, content=inside)
    send(database, BOB, CAROL, content=across)
    with database.write() as transaction:
        domain = domains.find(transaction, ALICE.domain)
        assert maildrops.empty_domain(transaction, domain.id) == [inside.blob]
        domains.delete(transaction, domain)
    found = maildrops.find(database, drop(database, CAROL).messages[0])
    assert found is not None
    assert (found.blob, bodies(database), discarded(database)) == (across.blob, 1, [inside.blob])


def test_a_body_lies_in_its_row_or_in_a_blob_and_never_in_both_or_neither(database: Sqlite) -> None:
    for content in (Content(5, None, None), Content(5, b"hello", "ab" * 16)):
        with pytest.raises(sqlite3.IntegrityError):
            send(database, ALICE, content=content)
    assert bodies(database) == 0


def test_totals_are_the_sums_of_what_is_listed(database: Sqlite) -> None:
    assert maildrops.totals(database) == (0, 0)
    send(database, ALICE, BOB, CAROL)
    send(database, ALICE, prefix=b"")
    alice, example = mailboxes.find(database, ALICE), domains.find(database, ALICE.domain)
    assert maildrops.totals(database) == (4, 23)
    assert maildrops.totals_of_domain(database, example.id) == (3, 17)
    assert maildrops.totals_by_mailbox(database, [alice.id])[alice.id] == (2, 11)
    everybody = [mailbox.id for mailbox in mailboxes.every(database)]
    assert len(maildrops.totals_by_mailbox(database, everybody)) == 3
