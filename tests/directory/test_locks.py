"""Domains, mailboxes and their locks as rows (the documented rules are in pop3-service.md)."""

import re
import sqlite3
from collections.abc import Callable

import pytest

from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.directory.domains import Domain
from winpop.directory.mailboxes import Mailbox
from winpop.store.blobs import Content
from winpop.store.delivery import deliver
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal

ALICE, BOB, CAROL = map(Address.parse, ["alice@example.com", "bob@example.com", "carol@other.example"])
EXAMPLE = ALICE.domain


def domain(database: Sqlite) -> Domain:
    return domains.find(database, EXAMPLE)


def mailbox(database: Sqlite, address: Address = ALICE) -> Mailbox:
    return mailboxes.find(database, address)


def add(database: Sqlite, text: str) -> Mailbox:
    address = Address.parse(text)
    with database.write() as transaction:
        mailboxes.add(transaction, domains.find(transaction, address.domain), address, "hash")
    return mailboxes.find(database, address)


def change(database: Sqlite, *steps: Callable[[Transaction], None]) -> None:
    for step in steps:
        with database.write() as transaction:
            step(transaction)


def lock_domain(transaction: Transaction) -> None:
    domains.lock(transaction, domains.find(transaction, EXAMPLE))


def unlock_domain(transaction: Transaction) -> None:
    domains.unlock(transaction, domains.find(transaction, EXAMPLE))


def lock_alice(transaction: Transaction) -> None:
    mailboxes.lock(transaction, mailboxes.find(transaction, ALICE))


def unlock_alice(transaction: Transaction) -> None:
    mailboxes.unlock(transaction, mailboxes.find(transaction, ALICE))


def delete_alice(transaction: Transaction) -> None:
    mailboxes.delete(transaction, mailboxes.find(transaction, ALICE))


def delete_domain(transaction: Transaction) -> None:
    domains.delete(transaction, domains.find(transaction, EXAMPLE))


# --- locks ---


def test_a_locked_domain_locks_its_mailboxes_and_no_others(database: Sqlite) -> None:
    change(database, lock_domain)
    assert [mailbox(database, address).locked for address in (ALICE, BOB, CAROL)] == ["domain", "domain", None]
    assert [domain.locked for domain in domains.every(database)] == [True, False]


def test_a_locked_mailbox_locks_nothing_else(database: Sqlite) -> None:
    change(database, lock_alice)
    assert [mailbox(database, address).locked for address in (ALICE, BOB, CAROL)] == ["mailbox", None, None]
    assert not domain(database).locked


@pytest.mark.parametrize(
    ("steps", "locked"),
    [
        ([lock_domain, unlock_domain], None),
        ([lock_alice, unlock_alice], None),
        ([lock_alice, lock_domain], "domain"),
        ([lock_alice, lock_domain, unlock_domain], "mailbox"),
        ([lock_domain, lock_alice, unlock_domain], "mailbox"),
        ([lock_domain, lock_alice, unlock_alice], "domain"),
        ([lock_domain, lock_alice, unlock_alice, unlock_domain], None),
        ([unlock_domain, unlock_alice], None),
    ],
)
def test_a_mailboxs_own_lock_and_its_domains_do_not_touch_one_another(
    database: Sqlite, steps: list[Callable[[Transaction], None]], locked: str | None
) -> None:
    change(database, *steps)
    assert mailbox(database).locked == locked


def test_a_mailbox_made_inside_a_locked_domain_is_locked_by_it(database: Sqlite) -> None:
    change(database, lock_domain)
    assert add(database, "new@example.com").locked == "domain"
    change(database, unlock_domain)
    assert mailbox(database, Address.parse("new@example.com")).locked is None


def test_locking_a_domain_is_one_row_however_many_mailboxes_it_holds(database: Sqlite) -> None:
    before = database.number("SELECT total_changes()")
    change(database, lock_domain)
    change(database, unlock_domain)
    assert database.number("SELECT total_changes()") - before == 2
    assert database.number("SELECT count(*) FROM mailbox_lock") == 0


def test_locks_survive_a_restart(home: Home, database: Sqlite) -> None:
    change(database, lock_domain, lock_alice)
    database.close()
    again = Sqlite(home)
    assert (mailbox(again).domain_locked, mailbox(again).own_lock) == (True, True)
    again.close()


def test_a_lock_goes_with_what_it_locks(database: Sqlite) -> None:
    change(database, lock_domain, lock_alice, delete_domain)
    assert database.number("SELECT count(*) FROM domain_lock") == 0
    assert database.number("SELECT count(*) FROM mailbox_lock") == 0
    change(database, lambda transaction: domains.add(transaction, EXAMPLE))
    assert add(database, "alice@example.com").locked is None


# --- domains and mailboxes ---


def test_a_mailbox_that_is_made_again_is_another_with_another_password(database: Sqlite) -> None:
    before = mailbox(database)
    change(database, lock_alice, delete_alice)
    after = add(database, str(ALICE))
    assert after.id > before.id
    assert (after.password_hash, after.locked) == ("hash", None)
    assert mailboxes.by_id(database, [before.id]) == {}


def test_an_identifier_is_not_used_again_when_it_was_the_highest(database: Sqlite) -> None:
    highest = mailbox(database, CAROL).id
    change(database, lambda transaction: mailboxes.delete(transaction, mailboxes.find(transaction, CAROL)))
    assert add(database, "dave@example.com").id > highest


@pytest.mark.parametrize("delete", [delete_alice, delete_domain])
def test_nothing_that_has_mail_can_be_deleted_over_it(database: Sqlite, delete: Callable[[Transaction], None]) -> None:
    change(database, _receive)
    with pytest.raises(sqlite3.IntegrityError):
        change(database, delete)
    assert mailbox(database).address == ALICE


def _receive(transaction: Transaction) -> None:
    deliver(transaction, [ALICE], Content(1, b"x", None), b"", plain=True)


def test_deleting_a_domain_takes_its_mailboxes_and_passwords(database: Sqlite) -> None:
    change(database, delete_domain)
    assert [str(domain.name) for domain in domains.every(database)] == ["other.example"]
    assert database.number("SELECT count(*) FROM mailbox") == 1
    assert database.number("SELECT count(*) FROM password") == 1
    assert mailboxes.look_up(database, ALICE) is None


def test_what_is_there_cannot_be_added_again(database: Sqlite) -> None:
    with pytest.raises(Refusal) as caught:
        change(database, lambda transaction: domains.add(transaction, EXAMPLE))
    assert caught.value.code == "domain-exists"
    with pytest.raises(Refusal) as caught:
        add(database, str(ALICE))
    assert caught.value.code == "mailbox-exists"


def test_one_mailbox_name_in_two_domains_is_two_mailboxes(database: Sqlite) -> None:
    assert add(database, "alice@other.example").id != mailbox(database).id


def test_what_is_not_there_is_refused_by_name(database: Sqlite) -> None:
    with pytest.raises(Refusal, match=re.escape("nowhere.example")) as caught:
        domains.find(database, DomainName("nowhere.example"))
    assert caught.value.code == "no-such-domain"
    for absent in ("dave@example.com", "alice@other.example", "alice@nowhere.example"):
        with pytest.raises(Refusal, match=re.escape(absent)) as caught:
            mailboxes.find(database, Address.parse(absent))
        assert caught.value.code == "no-such-mailbox"
    assert not domains.exists(database, DomainName("nowhere.example"))


def test_a_password_takes_the_place_of_the_one_before(database: Sqlite) -> None:
    change(database, lambda transaction: mailboxes.set_password(transaction, mailbox(database).id, "other"))
    assert mailbox(database).password_hash == "other"
    assert mailbox(database, BOB).password_hash != "other"


def test_lists_are_by_name(database: Sqlite) -> None:
    change(database, lambda transaction: domains.add(transaction, DomainName("a.example")))
    add(database, "aaron@example.com")
    assert [str(each.name) for each in domains.every(database)] == ["a.example", "example.com", "other.example"]
    names = [each.address.mailbox for each in mailboxes.of_domain(database, domain(database))]
    assert names == ["aaron", "alice", "bob"]


def test_more_mailboxes_than_one_query_takes_are_found_by_their_identifiers(database: Sqlite) -> None:
    rows = [(domain(database).id, f"m{number}") for number in range(1200)]
    change(database, lambda transaction: transaction.many("INSERT INTO mailbox (domain_id, name) VALUES (?, ?)", rows))
    wanted = [each.id for each in mailboxes.of_domain(database, domain(database))]
    found = mailboxes.by_id(database, [*wanted, 10**9])
    assert sorted(found) == sorted(wanted)
    assert len(found) == 1202
    assert found[mailbox(database).id] == mailbox(database)


def test_mailboxes_are_counted_with_those_that_a_lock_holds(database: Sqlite) -> None:
    change(database, lock_alice)
    assert mailboxes.count(database) == (3, 1)
    assert mailboxes.count(database, domain(database)) == (2, 1)
    change(database, lock_domain)
    assert mailboxes.count(database) == (3, 2)
    assert domains.mailbox_counts(database) == {1: 2, 2: 1}
