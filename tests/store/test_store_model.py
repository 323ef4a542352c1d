"""The store against a model: after every step both tell the same (durability.md, I1, I2, I4, I5)."""

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.store import maildrops, sweep
from winpop.store.blobs import Blobs, Content, Draft
from winpop.store.delivery import deliver
from winpop.store.maildrops import BlobReader, Removed
from winpop.terms.names import Address

SMALL = 20
LATER = 10.0**10  # a time at which everything is old
NAMES = ["alice@example.com", "bob@example.com", "carol@other.example"]
UNIQUE_ID = re.compile(r"[\x21-\x7e]{1,70}")
names = st.sampled_from(NAMES)
some_names = st.lists(st.sampled_from([*NAMES, "nobody@example.com"]), min_size=1, max_size=5)
texts = st.binary(max_size=SMALL) | st.binary(min_size=SMALL + 1, max_size=3 * SMALL)  # rows and blobs
picks = st.sets(st.integers(0, 9))


class Message:
    """What the model knows of one message. Those of one delivery share their body."""

    def __init__(self, prefix: bytes, body: list[bytes]) -> None:
        self.prefix = prefix
        self.body = body
        self.unique_id = ""  # as the store said it first


class Store(RuleBasedStateMachine):
    """The store, and beside it the model: a list of messages for each mailbox that exists."""

    @initialize()
    def open(self) -> None:
        self.small = patch("winpop.store.blobs.SMALL", SMALL)
        self.small.start()
        self.directory = tempfile.TemporaryDirectory()
        self.home = Home(Path(self.directory.name) / "home")
        self.home.make()
        self.blobs = Blobs(self.home.mail)
        self.blobs.make()
        self.database = Sqlite(self.home)
        self.model: dict[str, list[Message]] = {}
        self.locked: set[str] = set()
        self.left_behind = 0  # blobs that a delivery placed and never committed
        self.used: set[str] = set()
        with self.database.write() as transaction:
            for name in ("example.com", "other.example"):
                domains.add(transaction, Address.parse(f"a@{name}").domain)
        for name in NAMES:
            self.make(name)

    def teardown(self) -> None:
        self.database.close()
        self.directory.cleanup()
        self.small.stop()

    # --- steps ---

    def place(self, text: bytes) -> Content:
        draft = Draft(self.blobs)
        for start in range(0, len(text), 7):
            draft.write(text[start : start + 7])
        return draft.finish()

    @rule(recipients=some_names, prefix=st.binary(max_size=3), text=texts)
    def deliver(self, recipients: list[str], prefix: bytes, text: bytes) -> None:
        body = [text]
        with self.database.write() as transaction:
            addresses = [Address.parse(name) for name in recipients]
            told = deliver(transaction, addresses, self.place(text), prefix, plain=True)
        assert told == tuple(name in self.model for name in recipients)
        for name in set(recipients) & set(self.model):
            self.model[name].append(Message(prefix, body))

    @rule(recipients=some_names, text=texts)
    def crash_before_the_commit_of_a_delivery(self, recipients: list[str], text: bytes) -> None:
        with pytest.raises(KeyboardInterrupt):
            self._deliver_and_crash(recipients, text)
        self.database.close()  # the next question opens it again
        self.left_behind += len(text) > SMALL

    def _deliver_and_crash(self, recipients: list[str], text: bytes) -> None:
        with self.database.write() as transaction:
            addresses = [Address.parse(name) for name in recipients]
            deliver(transaction, addresses, self.place(text), b"", plain=True)
            raise KeyboardInterrupt

    @rule(text=texts, length=st.integers(0, 3 * SMALL))
    def begin_and_drop(self, text: bytes, length: int) -> None:
        draft = Draft(self.blobs)
        draft.write(text[:length])
        draft.write(text[length:])
        draft.discard()

    @rule(name=names, marked=picks, unlink=st.booleans())
    def expunge(self, name: str, marked: set[int], *, unlink: bool) -> None:
        mailbox = mailboxes.look_up(self.database, Address.parse(name))
        if mailbox is None:
            return
        listed = maildrops.open_maildrop(self.database, mailbox.id).messages
        wanted = [listed[index] for index in marked if index < len(listed)]
        with self.database.write() as transaction:
            removed = maildrops.expunge(transaction, mailbox.id, wanted)
        if name in self.locked:
            assert removed == Removed(locked="mailbox")
        else:
            self.model[name] = [each for index, each in enumerate(self.model[name]) if index not in marked]
        if unlink:  # else the process ended between the commit and this
            sweep.discard(self.database, self.blobs, removed.blobs)

    @rule(name=names, other=names, marked=picks)
    def expunge_what_is_anothers(self, name: str, other: str, marked: set[int]) -> None:
        mine, theirs = (mailboxes.look_up(self.database, Address.parse(each)) for each in (name, other))
        if name != other and mine and theirs:
            listed = maildrops.open_maildrop(self.database, theirs.id).messages
            with self.database.write() as transaction:
                removed = maildrops.expunge(transaction, mine.id, [listed[i] for i in marked if i < len(listed)])
            assert removed.blobs == ()

    @rule(name=names)
    def lock_or_unlock(self, name: str) -> None:
        if name in self.model:
            with self.database.write() as transaction:
                mailbox = mailboxes.find(transaction, Address.parse(name))
                (mailboxes.unlock if name in self.locked else mailboxes.lock)(transaction, mailbox)
            self.locked ^= {name}

    @rule(name=names)
    def delete(self, name: str) -> None:
        if name in self.model:
            with self.database.write() as transaction:
                mailbox = mailboxes.find(transaction, Address.parse(name))
                maildrops.empty(transaction, mailbox)
                mailboxes.delete(transaction, mailbox)
            del self.model[name]
            self.locked.discard(name)

    @rule(name=names)
    def make(self, name: str) -> None:
        if name not in self.model:
            address = Address.parse(name)
            with self.database.write() as transaction:
                mailboxes.add(transaction, domains.find(transaction, address.domain), address, "hash")
            self.model[name] = []

    @rule()
    def empty_a_domain(self) -> None:
        with self.database.write() as transaction:
            domain = domains.find(transaction, Address.parse(NAMES[0]).domain)
            maildrops.empty_domain(transaction, domain.id)
        for name in NAMES[:2]:
            if name in self.model:
                self.model[name] = []

    @rule()
    def sweep_soon(self) -> None:
        swept = sweep.sweep(self.database, self.blobs, time.time())
        assert (swept.unfinished, swept.unnamed) == (0, 0)

    @precondition(lambda self: self.left_behind)
    @rule()
    def sweep_much_later(self) -> None:
        assert sweep.sweep(self.database, self.blobs, LATER).unnamed == 0
        assert sweep.sweep(self.database, self.blobs, LATER + 40 * 86400).unnamed == self.left_behind
        self.left_behind = 0

    # --- what always holds ---

    def stored(self, name: str) -> Iterator[tuple[bytes, int, str]]:
        mailbox = mailboxes.find(self.database, Address.parse(name))
        drop = maildrops.open_maildrop(self.database, mailbox.id)
        for message, size, unique_id in zip(drop.messages, drop.listing.sizes, drop.listing.unique_ids, strict=True):
            found = maildrops.find(self.database, message)
            assert found is not None
            octets = found.octets
            if found.blob is not None:
                reader = BlobReader(self.blobs, found)
                octets, last = reader.read()
                reader.close()
                assert last
            assert octets is not None
            yield found.prefix + octets, size, unique_id

    @invariant()
    def every_mailbox_holds_what_the_model_holds(self) -> None:
        for name, messages in self.model.items():
            stored = list(self.stored(name))
            assert [octets for octets, _, _ in stored] == [each.prefix + each.body[0] for each in messages]
            assert [size for _, size, _ in stored] == [len(octets) for octets, _, _ in stored]
            for (_, _, unique_id), message in zip(stored, messages, strict=True):
                if not message.unique_id:
                    assert UNIQUE_ID.fullmatch(unique_id)
                    assert unique_id not in self.used
                    self.used.add(unique_id)
                    message.unique_id = unique_id
                assert unique_id == message.unique_id

    @invariant()
    def there_is_one_body_for_each_delivery_and_a_file_for_each_large_one(self) -> None:
        bodies = {id(each.body): each.body[0] for messages in self.model.values() for each in messages}
        assert self.database.number("SELECT count(*) FROM body") == len(bodies)
        assert self.database.number("SELECT count(*) FROM message") == sum(map(len, self.model.values()))
        files = {name for name, _ in self.blobs.names()}
        named = {name for (name,) in self.database.all("SELECT blob FROM body WHERE blob IS NOT NULL")}
        noted = {name for (name,) in self.database.all("SELECT name FROM discarded_blob")}
        assert len(named) == sum(len(body) > SMALL for body in bodies.values())
        assert named | noted <= files
        assert not named & noted
        assert len(files - named - noted) == self.left_behind
        assert list(self.blobs.tmp.iterdir()) == []


Store.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStore = Store.TestCase
