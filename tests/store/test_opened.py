"""Maildrops that are kept opened: what is given out is what is there, whatever has happened since."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admin.doing import do
from conftest import fill
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.protocol import pop3
from winpop.store import maildrops
from winpop.store.blobs import Content
from winpop.store.delivery import deliver
from winpop.store.maildrops import Maildrop, Opened, open_maildrop
from winpop.terms.credentials import Password
from winpop.terms.names import Address

NAMES = ["alice@example.com", "bob@example.com", "carol@other.example"]
LARGE = 3
"""In these tests, the messages from which on a maildrop is kept."""
MOST = 14


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    """One home for all examples; each begins with no mail."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home(Path(directory) / "home")
        fill(home, dict.fromkeys(NAMES, b"secret"))
        yield home


def said(listing: "pop3.Opened", *commands: bytes) -> list[bytes]:
    """Return what a session says to each command after the logon."""
    session = pop3.Session(pop3.Limits(), pop3.Offer(passwords=True))

    def ask(line: bytes) -> bytes:
        session.receive(line + b"\r\n")
        text = b""
        while data := session.to_send():
            text += data
        return text

    ask(b"USER alice")
    ask(b"PASS secret")
    need = session.needs()
    assert isinstance(need, pop3.Logon)
    assert isinstance(need.credentials, Password)
    session.supply(listing)
    ask(b"")
    return [ask(command) for command in commands]


def compare(database: Sqlite, opened: Opened, mailbox: int, *, utf8: bool) -> Maildrop:
    kept, fresh = opened.open(database, mailbox, utf8=utf8), open_maildrop(database, mailbox, utf8=utf8)
    assert kept == fresh
    assert kept.listing.octets == fresh.listing.octets == sum(fresh.listing.sizes)
    commands = [b"STAT", b"LIST", b"UIDL", b"LIST", b"UIDL", b"LIST 1", b"DELE 1", b"LIST", b"UIDL", b"RSET", b"UIDL"]
    assert said(pop3.Opened(kept.listing), *commands) == said(pop3.Opened(fresh.listing), *commands)
    assert said(pop3.Opened(kept.listing), *commands) == said(pop3.Opened(fresh.listing), *commands)
    return kept


def is_bounded(opened: Opened) -> bool:
    kept = [len(maildrop.messages) for _, maildrop in opened._kept.values()]
    return opened._messages == sum(kept) <= opened.most


WHO = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), WHO, st.integers(1, 6)),
        st.tuples(st.just("international"), WHO, st.integers(1, 2)),
        st.tuples(st.just("expunge"), WHO, st.integers(0, 5)),
        st.tuples(st.just("expunge last"), WHO, st.integers(1, 3)),
        st.tuples(st.just("empty"), WHO, st.just(0)),
        st.tuples(st.just("again"), WHO, st.just(0)),
        st.tuples(st.just("size"), WHO, st.integers(0, 5)),
        st.tuples(st.just("unique-id"), WHO, st.integers(0, 5)),
        st.tuples(st.just("move"), WHO, st.integers(0, 5)),
        st.tuples(st.just("renumber"), WHO, st.integers(0, 5)),
        st.tuples(st.just("open"), WHO, st.booleans()),
        st.tuples(st.just("open"), WHO, st.booleans()),
    ),
    max_size=25,
)


class World:
    """A database in which things happen to the mailboxes of `NAMES`."""

    def __init__(self, home: Home) -> None:
        self.database = Sqlite(home)
        with self.database.write() as transaction:
            transaction.run("DELETE FROM message")
            transaction.run("DELETE FROM body")
        self.count = 0

    def id_of(self, who: int) -> int:
        return mailboxes.find(self.database, Address.parse(NAMES[who])).id

    def do(self, step: str, who: int, number: int) -> None:  # noqa: C901 - a step each
        database, mailbox = self.database, self.id_of(who)
        messages = open_maildrop(database, mailbox).messages
        one = messages[number % len(messages)] if messages else 0
        self.count += 1
        with database.write() as transaction:
            match step:
                case "deliver" | "international":
                    for size in range(number):
                        body = b"x" * (self.count + size)
                        downgraded = len(body) + 7 if step == "international" else None
                        content = Content(len(body), body, None, downgraded=downgraded)
                        deliver(transaction, [Address.parse(NAMES[who])], content, b"", plain=True)
                case "expunge":
                    maildrops.expunge(transaction, mailbox, [one])
                case "expunge last":
                    maildrops.expunge(transaction, mailbox, messages[-number:])
                case "empty":
                    maildrops.expunge(transaction, mailbox, messages)
                case "again":  # the mailbox is deleted and made again
                    found = mailboxes.find(transaction, Address.parse(NAMES[who]))
                    kept = mailboxes.kept(transaction, mailbox)
                    maildrops.empty(transaction, found)
                    mailboxes.delete(transaction, found)
                    assert kept is not None
                    mailboxes.add(transaction, domains.find(transaction, found.address.domain), found.address, kept)
                case "size":
                    transaction.run("UPDATE message SET size = size + 1 WHERE id = ?", one)
                case "unique-id":
                    transaction.run("UPDATE message SET unique_id = ? WHERE id = ?", f"changed{self.count}", one)
                case "move":
                    other = mailboxes.find(transaction, Address.parse(NAMES[(who + 1) % 3])).id
                    transaction.run("UPDATE message SET mailbox_id = ? WHERE id = ?", other, one)
                case "renumber":
                    newest = transaction.number("SELECT seq FROM sqlite_sequence WHERE name = 'message'")
                    transaction.run("UPDATE message SET id = ? WHERE id = ?", newest + 1, one)
                    transaction.run("UPDATE sqlite_sequence SET seq = ? WHERE name = 'message'", newest + 1)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_what_is_opened_is_what_is_there_and_it_is_listed_as_by_a_fresh_session(
    shared_home: Home, steps: list[tuple[str, int, int]]
) -> None:
    world = World(shared_home)
    opened = Opened(MOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maildrops, "_LARGE", LARGE)
        try:
            for step, who, number in steps:
                if step == "open":
                    compare(world.database, opened, world.id_of(who), utf8=bool(number))
                else:
                    world.do(step, who, number)
                assert is_bounded(opened)
            for who in range(3):
                for utf8 in (True, False):
                    compare(world.database, opened, world.id_of(who), utf8=utf8)
                    assert is_bounded(opened)
        finally:
            world.database.close()


def test_a_maildrop_that_is_kept_is_not_read_again_and_one_that_is_small_is_not_kept(
    database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = mailboxes.find(database, Address.parse(NAMES[0])).id
    opened = Opened(1000)

    def bring(times: int) -> None:
        with database.write() as transaction:
            for _ in range(times):
                deliver(transaction, [Address.parse(NAMES[0])], Content(1, b"x", None), b"", plain=True)

    bring(maildrops._LARGE - 1)
    assert opened.open(database, mailbox) is not opened.open(database, mailbox)
    bring(1)
    first = opened.open(database, mailbox)
    assert opened.open(database, mailbox) is first
    said(pop3.Opened(first.listing), b"LIST", b"UIDL")
    assert set(first.listing.lines or ()) == {"LIST", "UIDL"}
    bring(1)
    second = opened.open(database, mailbox)
    assert second.messages[:-1] == first.messages
    assert first.listing.sizes == (1,) * maildrops._LARGE  # a session that has it is not changed
    assert len(first.listing.lines["LIST"].splitlines()) == maildrops._LARGE if first.listing.lines else False
    asked = said(pop3.Opened(second.listing), b"LIST", b"UIDL")
    monkeypatch.setattr(second.listing.__class__, "size_line", None)  # nothing of it is made anew
    monkeypatch.setattr(second.listing.__class__, "unique_id_line", None)
    assert said(pop3.Opened(second.listing), b"LIST", b"UIDL") == asked


def test_the_longest_unused_makes_room(database: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildrops, "_LARGE", 1)
    boxes = [mailboxes.find(database, Address.parse(name)).id for name in NAMES]
    with database.write() as transaction:
        for _ in range(4):
            addresses = [Address.parse(name) for name in NAMES]
            deliver(transaction, addresses, Content(1, b"x", None), b"", plain=True)
    opened = Opened(8)
    one, two = opened.open(database, boxes[0]), opened.open(database, boxes[1])
    assert opened.open(database, boxes[0]) is one
    opened.open(database, boxes[2])
    assert opened.open(database, boxes[0]) is one
    assert opened.open(database, boxes[1]) is not two
    assert is_bounded(opened)
    nothing = Opened(0)
    assert nothing.open(database, boxes[0]) is not nothing.open(database, boxes[0])


def test_a_message_that_was_brought_back_to_where_it_stood_is_opened(home: Home, database: Sqlite) -> None:
    mailbox = mailboxes.find(database, Address.parse(NAMES[0])).id
    opened = Opened(1000)
    with database.write() as transaction:
        for number in range(maildrops._LARGE + 2):
            body = b"%d" % number
            deliver(transaction, [Address.parse(NAMES[0])], Content(len(body), body, None), b"", plain=True)
    before = opened.open(database, mailbox)
    do(home, "backup", directory=str(home.path / "kept"))
    with database.write() as transaction:
        maildrops.expunge(transaction, mailbox, [before.messages[7]])
    without = opened.open(database, mailbox)
    assert len(without.messages) == len(before.messages) - 1
    assert opened.open(database, mailbox) is without  # it is kept
    do(home, "restore", directory=str(home.path / "kept"))
    assert compare(database, opened, mailbox, utf8=True) == before
