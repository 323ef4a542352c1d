"""The encrypted password file: three verdicts, and the lock only for who knows the password (threats.md A7)."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from auth.conformance import LAWS, Account, Law, Subject
from conftest import hash_of
from winpop.auth import passwords
from winpop.auth.contract import FILE, Method
from winpop.auth.logindelay import LoginDelay
from winpop.auth.logons import Attempt, CannotSay, Known, Logons, Memory, Stranger, Verdict
from winpop.auth.password_file import PasswordFile
from winpop.auth.remembered import Remembered
from winpop.auth.sealing import Sealing
from winpop.auth.shared import Shared
from winpop.auth.throttle import Throttle
from winpop.db.contract import Row, Transaction
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes, settings
from winpop.directory.mailboxes import Mailbox
from winpop.telemetry.log import Log
from winpop.terms.credentials import Password
from winpop.terms.endpoints import parse_peer
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal

ALICE = Address.parse("alice@example.com")
Change = Callable[[Transaction, Mailbox], None]


class NoRows:
    """A database in which nothing was ever set."""

    def all(self, *_: object) -> list[Row]:
        return []

    def one(self, *_: object) -> None:
        return None

    def number(self, *_: object) -> int:
        return 0


class Hands:
    """A worker without a network; `meanwhile` happens while a hash is computed."""

    def __init__(self, database: Sqlite, meanwhile: Callable[[], object]) -> None:
        self.reader = database
        self.settings = SETTINGS
        self.log = Log(0)
        self._meanwhile = meanwhile

    async def in_hashing_thread(self, work: Callable[[], bool], _host: str = "") -> bool:
        right = work()
        self._meanwhile()
        return right

    def submit(self, work: Callable[[Transaction], None]) -> None:
        """Make no change: what is learnt by the way is another test's affair."""


SETTINGS = replace(settings.load(NoRows()), failuredelay=0)


def ask(database: Sqlite, name: str, password: bytes, meanwhile: Callable[[], object] = lambda: None) -> Verdict:
    """Ask with nothing remembered; `meanwhile` happens while the hash is computed."""

    async def asked() -> Verdict:
        descriptor = Shared.make()
        shared = Shared(descriptor)
        try:
            hands = Hands(database, meanwhile)
            memory = Memory(Throttle(shared), Remembered(shared), LoginDelay(shared))
            methods: dict[int, Method] = {FILE: PasswordFile(hands.in_hashing_thread)}
            logons = Logons(hands, methods, memory, Sealing(Home(Path("/nonexistent"))))
            try:
                return await logons.check(Attempt(Password(name, password), parse_peer("127.0.0.1")))
            except Refusal as refusal:  # the database; a connection answers it as it does `CannotSay`
                return CannotSay(refusal.code)
            finally:
                await logons.close()
        finally:
            shared.close()
            os.close(descriptor)

    return asyncio.run(asked())


def subject() -> Subject:
    """Return the method for the laws that all methods keep."""

    async def at_once(work: Callable[[], bool], _host: str) -> bool:
        return work()

    async def too_many(_work: Callable[[], bool], _host: str) -> bool:
        raise TimeoutError

    one, other = (Account(hash_of(password), "alice@example.com", password) for password in (b"secret", b"another"))
    return Subject(
        lambda: PasswordFile(at_once), lambda: PasswordFile(too_many), one, other, hash_of(b"somebody else's")
    )


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_it_keeps(law: Law) -> None:
    asyncio.run(law(subject()))


def with_alice(database: Sqlite, change: Change) -> None:
    with database.write() as transaction:
        change(transaction, mailboxes.find(transaction, ALICE))


def lock_mailbox(transaction: Transaction, mailbox: Mailbox) -> None:
    mailboxes.lock(transaction, mailbox)


def lock_domain(transaction: Transaction, mailbox: Mailbox) -> None:
    domains.lock(transaction, domains.find(transaction, mailbox.address.domain))


def change_password(transaction: Transaction, mailbox: Mailbox) -> None:
    mailboxes.set_password(transaction, mailbox.id, passwords.make_hash(b"secret"))


def make_again(transaction: Transaction, mailbox: Mailbox) -> None:
    mailboxes.delete(transaction, mailbox)
    domain = domains.find(transaction, mailbox.address.domain)
    mailboxes.add(transaction, domain, mailbox.address, str(mailbox.password_hash))


def damage_hash(transaction: Transaction, mailbox: Mailbox) -> None:
    mailboxes.set_password(transaction, mailbox.id, "$argon2id$v=19$m=8,t=1,p=1$damaged")


@pytest.mark.parametrize("name", ["alice@example.com", "ALICE@Example.COM"])
def test_the_full_address_in_any_case_is_the_name(database: Sqlite, name: str) -> None:
    assert ask(database, name, b"secret") == Known(mailboxes.find(database, ALICE))


def test_equal_passwords_do_not_make_users_equal(database: Sqlite) -> None:
    for name in ("alice@example.com", "bob@example.com", "carol@other.example"):
        verdict = ask(database, name, b"secret")
        assert isinstance(verdict, Known)
        assert str(verdict.mailbox.address) == name


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice@example.com", b"Secret"),
        ("alice@example.com", b"secret "),
        ("alice@example.com", b""),
        ("alice@example.com", b"secret\0"),
        ("alice", b"secret"),
        ("alice@other.example", b"secret"),
        ("nobody@example.com", b"secret"),
        ("alice@nowhere.example", b"secret"),
        ("", b"secret"),
        ("../alice@example.com", b"secret"),
        ("alice@example.com\0", b"secret"),
        ("alice@\ud800.com", b"secret"),
    ],
)
def test_who_is_not_known_by_name_and_password_is_a_stranger(database: Sqlite, name: str, password: bytes) -> None:
    assert isinstance(ask(database, name, password), Stranger)


def test_a_name_that_nobody_has_is_checked_as_any_other(database: Sqlite) -> None:
    checked: list[str] = []
    for name in ("alice@example.com", "nobody@example.com", "no address"):
        ask(database, name, b"wrong", lambda name=name: checked.append(name))  # type: ignore[misc]
    assert checked == ["alice@example.com", "nobody@example.com", "no address"]


@pytest.mark.parametrize(("lock", "locked"), [(lock_mailbox, "mailbox"), (lock_domain, "domain")])
def test_only_who_knows_the_password_hears_of_a_lock(database: Sqlite, lock: Change, locked: str) -> None:
    with_alice(database, lock)
    assert isinstance(ask(database, str(ALICE), b"wrong"), Stranger)
    verdict = ask(database, str(ALICE), b"secret")
    assert isinstance(verdict, Known)
    assert verdict.mailbox.locked == locked


@pytest.mark.parametrize(("lock", "locked"), [(lock_mailbox, "mailbox"), (lock_domain, "domain")])
def test_a_lock_that_comes_while_the_hash_is_computed_holds(database: Sqlite, lock: Change, locked: str) -> None:
    verdict = ask(database, str(ALICE), b"secret", lambda: with_alice(database, lock))
    assert isinstance(verdict, Known)
    assert verdict.mailbox.locked == locked


@pytest.mark.parametrize("change", [change_password, make_again, mailboxes.delete])
def test_who_is_known_no_more_once_the_hash_is_computed_is_a_stranger(database: Sqlite, change: Change) -> None:
    assert isinstance(ask(database, str(ALICE), b"secret", lambda: with_alice(database, change)), Stranger)


def test_a_mailbox_without_a_password_lets_nobody_in(database: Sqlite) -> None:
    with database.write() as transaction:
        transaction.run("DELETE FROM password")
    assert isinstance(ask(database, str(ALICE), b"secret"), Stranger)


def ruin(home: Home) -> None:
    home.database.write_bytes(b"no database at all")


@pytest.mark.parametrize("name", ["alice@example.com", "nobody@example.com"])
def test_a_database_that_is_out_of_reach_cannot_say(home: Home, database: Sqlite, name: str) -> None:
    database.close()
    ruin(home)
    assert isinstance(ask(database, name, b"secret"), CannotSay)


def test_a_database_that_goes_away_while_the_hash_is_computed_cannot_say(home: Home, database: Sqlite) -> None:
    def go_away() -> None:
        database.close()
        ruin(home)

    assert isinstance(ask(database, str(ALICE), b"secret", go_away), CannotSay)


def test_a_damaged_hash_cannot_say(database: Sqlite) -> None:
    with_alice(database, damage_hash)
    assert isinstance(ask(database, str(ALICE), b"secret"), CannotSay)


def test_too_many_logons_at_once_cannot_say(database: Sqlite) -> None:
    def too_many() -> None:
        raise TimeoutError

    assert isinstance(ask(database, str(ALICE), b"secret", too_many), CannotSay)
