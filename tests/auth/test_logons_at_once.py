"""Logons that are answered at once: only those that `check` would let in, and that owe nothing for guesses."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from conftest import kept_of
from winpop.auth.contract import FILE, Answer, Method
from winpop.auth.logindelay import LoginDelay
from winpop.auth.logons import Attempt, Known, Logons, Memory, Stranger
from winpop.auth.password_file import PasswordFile
from winpop.auth.remembered import Remembered
from winpop.auth.sealing import Sealing
from winpop.auth.shared import Shared
from winpop.auth.throttle import Throttle
from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes, settings
from winpop.telemetry.log import Log
from winpop.terms.credentials import CramMd5, Credentials, Password
from winpop.terms.endpoints import parse_peer
from winpop.terms.names import Address

ALICE, BOB = Address.parse("alice@example.com"), Address.parse("bob@example.com")
HERE, NEAR, ELSEWHERE = "192.0.2.7", "192.0.2.200", "198.51.100.7"


class Counting(PasswordFile):
    """The password file; `asked` is how often it was asked."""

    asked = 0

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        self.asked += 1
        return await super().check(account, name, password, host)


class Hands:
    """A worker without a network."""

    def __init__(self, database: Sqlite) -> None:
        self.reader = database
        self.settings = replace(settings.load(database), failuredelay=1, failuredelaymax=1, logoncache=86400)
        self.log = Log(0)

    async def in_hashing_thread(self, work: Callable[[], bool], _host: str = "") -> bool:
        await asyncio.sleep(0)
        return work()

    def submit(self, work: Callable[[Transaction], None]) -> None:
        """Make no change."""


@dataclass
class Bench:
    """One worker's logons, and the time of what all workers remember."""

    database: Sqlite
    hands: Hands
    logons: Logons
    method: Counting
    now: float = 1000.0

    def at_once(self, name: str = str(ALICE), password: bytes = b"secret", peer: str = HERE, **more: bool) -> Any:  # noqa: ANN401
        return self.logons.at_once(attempt(name, password, peer, **more))

    async def check(self, name: str = str(ALICE), password: bytes = b"secret", peer: str = HERE, **more: bool) -> Any:  # noqa: ANN401
        return await self.logons.check(attempt(name, password, peer, **more))

    def change(self, work: Callable[[Transaction], object]) -> None:
        with self.database.write() as transaction:
            work(transaction)


def attempt(name: str, password: bytes, peer: str, *, exempt: bool = False) -> Attempt:
    return Attempt(Password(name, password), parse_peer(peer), exempt)


@contextlib.asynccontextmanager
async def bench(database: Sqlite) -> AsyncIterator[Bench]:
    descriptor = Shared.make()
    shared = Shared(descriptor)
    hands = Hands(database)
    method = Counting(hands.in_hashing_thread)
    methods: dict[int, Method] = {FILE: method}
    made: Bench

    def clock() -> float:
        return made.now + asyncio.get_running_loop().time()

    memory = Memory(Throttle(shared, clock), Remembered(shared, clock), LoginDelay(shared, clock))
    made = Bench(database, hands, Logons(hands, methods, memory, Sealing(Home(Path("/nonexistent")))), method)
    try:
        yield made
    finally:
        await made.logons.close()
        shared.close()
        os.close(descriptor)


Test = Callable[[Bench], Coroutine[Any, Any, None]]


def run(database: Sqlite, test: Test) -> None:
    async def whole() -> None:
        async with bench(database) as its:
            assert its.at_once() is None  # nothing is remembered yet
            assert isinstance(await its.check(), Known)
            its.method.asked = 0
            its.now += 10  # the network's tickets are there again
            assert its.at_once() == Known(mailboxes.find(its.database, ALICE))
            assert its.at_once() == await its.check()
            assert its.method.asked == 0
            its.now += 10
            await test(its)

    asyncio.run(asyncio.wait_for(whole(), 30))


def test_who_was_let_in_a_moment_ago_is_known_at_once_under_every_spelling(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        for name in ("Alice@EXAMPLE.com", "ALICE@example.COM"):
            assert its.at_once(name) == Known(mailboxes.find(its.database, ALICE)) == await its.check(name)
            its.now += 10
        assert its.at_once(peer=ELSEWHERE) == await its.check(peer=ELSEWHERE)
        its.now += 10
        for _ in range(100):
            assert its.at_once() is not None

    run(database, test)


@pytest.mark.parametrize("password", [b"", b"Secret", b"secret\0", b"secre", b"x" * 300, b"\xff"])
def test_another_password_is_never_known_at_once(database: Sqlite, password: bytes) -> None:
    async def test(its: Bench) -> None:
        assert its.at_once(password=password) is None
        assert isinstance(await its.check(password=password), Stranger)
        assert its.at_once(password=password) is None
        its.now += 4000
        assert its.at_once(password=password) is None

    run(database, test)


@pytest.mark.parametrize(
    "name", ["", "nobody@example.com", "alice@nowhere.example", "alice", "@", "a" * 5000, "\udcff@x"]
)
def test_a_name_that_nobody_has_is_not_known(database: Sqlite, name: str) -> None:
    async def test(its: Bench) -> None:
        assert its.at_once(name) is None

    run(database, test)


def test_the_password_of_one_does_not_let_in_another(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        assert its.at_once(str(BOB)) is None  # they have the same; it was not shown
        assert isinstance(await its.check(str(BOB)), Known)
        its.now += 10
        assert its.at_once(str(BOB)) == Known(mailboxes.find(its.database, BOB))

    run(database, test)


def test_other_credentials_than_a_password_take_the_other_way(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        other: Credentials = CramMd5(str(ALICE), b"challenge", b"digest")
        assert its.logons.at_once(Attempt(other, parse_peer(HERE))) is None

    run(database, test)


def test_after_a_wrong_guess_nobody_from_that_network_is_answered_at_once(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        assert isinstance(await its.check(password=b"wrong"), Stranger)
        assert its.at_once() is None
        assert its.at_once(peer=NEAR) is None
        assert its.at_once(peer=NEAR, exempt=True) is None  # of the name and the network, all the same
        assert its.at_once(peer=ELSEWHERE) is not None  # the owner elsewhere is not delayed
        assert isinstance(await its.check(str(BOB), b"guess"), Stranger)
        its.now += 4000
        assert its.at_once() is not None  # forgiven

    run(database, test)


def test_guesses_for_one_name_hold_up_all_names_of_the_network_but_not_of_a_trusted_one(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        assert isinstance(await its.check(str(BOB), b"wrong"), Stranger)
        assert its.at_once() is None
        assert its.at_once(exempt=True) is not None

    run(database, test)


def test_while_a_guess_is_under_way_nobody_is_answered_at_once(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        under_way = asyncio.ensure_future(its.check(password=b"wrong"))
        while not its.method.asked:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        assert its.at_once() is None
        assert its.at_once(peer=NEAR) is None
        await under_way
        assert its.at_once() is None

    run(database, test)


def test_guessing_at_once_tells_nothing_and_the_pace_is_that_of_the_throttle(database: Sqlite) -> None:
    """A guesser asks both ways side by side, the right password among the wrong ones."""

    async def test(its: Bench) -> None:
        passwords = [b"guess%d" % number for number in range(6)] + [b"secret"]
        answers: list[bytes] = []

        async def guess(password: bytes) -> None:
            if its.at_once(password=password) is not None:
                answers.append(password)
                return
            await its.check(password=password)

        await asyncio.gather(*(guess(password) for password in passwords))
        assert answers == []  # the first guess holds up all others, the right one as well
        its.now += 4000
        for _ in range(3):
            assert isinstance(await its.check(password=os.urandom(4).hex().encode()), Stranger)
            before = its.method.asked
            assert its.at_once() is None
            assert its.method.asked == before

    run(database, test)


def test_no_answer_at_once_changes_what_is_owed(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        throttle, peer = its.logons._memory.throttle, parse_peer(HERE)
        for password in (b"secret", b"wrong", b""):
            its.at_once(password=password)
            assert not throttle.owed(str(ALICE), peer)
        await its.check(password=b"wrong")
        entry = throttle.pairs.get(throttle.pairs.digest(b"alice@example.com", peer.packed[:3]))
        its.at_once()
        assert throttle.pairs.get(throttle.pairs.digest(b"alice@example.com", peer.packed[:3])) == entry

    run(database, test)


def test_a_password_that_was_changed_is_forgotten_with_the_change(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        mailbox = mailboxes.find(its.database, ALICE)
        its.change(lambda tx: mailboxes.set_password(tx, mailbox.id, kept_of(b"another")))
        assert its.at_once() is None
        assert its.at_once(password=b"another") is None  # nobody has shown it
        assert isinstance(await its.check(password=b"another"), Known)
        its.now += 10
        assert its.at_once(password=b"another") is not None
        assert its.at_once() is None

    run(database, test)


def test_a_mailbox_that_was_deleted_is_not_known_nor_one_that_was_made_in_its_place(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        mailbox = mailboxes.find(its.database, ALICE)
        its.change(lambda tx: mailboxes.delete(tx, mailbox))
        assert its.at_once() is None
        its.change(lambda tx: mailboxes.add(tx, domains.find(tx, ALICE.domain), ALICE, kept_of(b"secret")))
        assert its.at_once() is None

    run(database, test)


@pytest.mark.parametrize("what", ["mailbox", "domain"])
def test_a_locked_mailbox_is_known_with_its_lock(database: Sqlite, what: str) -> None:
    async def test(its: Bench) -> None:
        def lock(transaction: Transaction) -> None:
            if what == "mailbox":
                mailboxes.lock(transaction, mailboxes.find(transaction, ALICE))
            else:
                domains.lock(transaction, domains.find(transaction, ALICE.domain))

        its.change(lock)
        verdict = its.at_once()
        assert isinstance(verdict, Known)
        assert verdict.mailbox.locked == what
        assert verdict == await its.check()

    run(database, test)


def test_with_logoncache_0_nobody_is_known_at_once(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        its.hands.settings = replace(its.hands.settings, logoncache=0)
        assert its.at_once() is None
        assert isinstance(await its.check(), Known)
        assert its.method.asked == 1
        its.now += 10
        assert its.at_once() is None

    run(database, test)


def test_what_was_remembered_is_forgotten_when_its_time_is_over(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        its.now += its.hands.settings.logoncache
        assert its.at_once() is None
        assert isinstance(await its.check(), Known)
        assert its.method.asked == 1

    run(database, test)


def test_where_more_is_to_be_kept_of_a_password_it_has_to_be_seen_once_more(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        its.hands.settings = replace(its.hands.settings, apop=1)
        assert its.at_once() is None

    run(database, test)


def test_a_method_that_is_not_there_is_not_asked_at_once(database: Sqlite) -> None:
    async def test(its: Bench) -> None:
        its.logons.methods.clear()
        assert its.at_once() is None

    run(database, test)
