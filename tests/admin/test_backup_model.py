"""Backups against a model: what a restore leaves is the snapshot and what is newer, in the order in which it came."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from admin.doing import do
from admin.test_backup_restore import blobs_and_rows_agree
from durability.ledger import look_inside
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.store import maildrops, sweep
from winpop.store.blobs import Blobs, Draft
from winpop.store.delivery import deliver
from winpop.terms.names import Address, DomainName

SMALL = 20
NAMES = ["alice@example.com", "bob@example.com", "carol@other.example"]
DOMAINS = ["example.com", "other.example"]
names = st.sampled_from(NAMES)
texts = st.binary(max_size=SMALL) | st.binary(min_size=SMALL + 1, max_size=3 * SMALL)  # rows and blobs
anything = st.sampled_from([*DOMAINS, *NAMES])


class Model:
    """Domains and mailboxes with what each has: a lock; a lock, a password and mail by the order in which it came."""

    def __init__(self) -> None:
        self.domains: dict[str, bool] = {}
        self.boxes: dict[str, tuple[bool, str]] = {}
        self.mail: dict[str, dict[int, tuple[str, bytes]]] = {}
        self.made: dict[str, int] = {}
        """Which mailbox it is that has this name: one that was deleted and made again is another."""

    def copy(self) -> "Model":
        made = Model()
        made.domains, made.boxes = dict(self.domains), dict(self.boxes)
        made.mail = {name: dict(mail) for name, mail in self.mail.items()}
        made.made = dict(self.made)
        return made

    def is_same(self, snapshot: "Model", name: str) -> bool:
        """Tell whether a mailbox may get the mail that it had in a snapshot without being named."""
        if name not in self.boxes or self.made[name] == snapshot.made[name]:
            return True
        known = {unique_id for unique_id, _ in snapshot.mail[name].values()}
        return self.boxes[name][1] == snapshot.boxes[name][1] or any(
            unique_id in known for unique_id, _ in self.mail[name].values()
        )

    def restore(self, snapshot: "Model", target: str | None) -> None:
        """Take what is missing from a snapshot."""

        def wanted(name: str) -> bool:
            return target is None or name == target or name.endswith(f"@{target}")

        for domain, locked in snapshot.domains.items():
            if wanted(domain) or (target or "").endswith(f"@{domain}"):
                self.domains.setdefault(domain, locked)
        for name, box in snapshot.boxes.items():
            if wanted(name) and (name == target or self.is_same(snapshot, name)):
                self.boxes.setdefault(name, box)
                self.mail[name] = snapshot.mail[name] | self.mail.get(name, {})


class Backups(RuleBasedStateMachine):
    """An installation with a backup, and beside it the model of both."""

    @initialize()
    def begin(self) -> None:
        self.small = patch("winpop.store.blobs.SMALL", SMALL)
        self.small.start()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.home, self.kept = Home(self.path / "home"), str(self.path / "kept")
        self.home.make()
        Sqlite(self.home).close()
        Blobs(self.home.mail).make()
        self.model, self.snapshots, self.counter, self.homes = Model(), list[tuple[str, Model]](), 0, 0
        for name in NAMES:
            self.make(name, "first")

    def teardown(self) -> None:
        self.directory.cleanup()
        self.small.stop()

    def write(self, work: Callable[[Sqlite], None]) -> None:
        database = Sqlite(self.home)
        with database.write():
            work(database)
        database.close()

    # --- what administrators and users do ---

    @rule(name=names, password=st.sampled_from(["one", "two"]))
    def make(self, name: str, password: str) -> None:
        address = Address.parse(name)

        def work(transaction: Sqlite) -> None:
            if not domains.exists(transaction, address.domain):
                domains.add(transaction, address.domain)
            if mailboxes.look_up(transaction, address) is None:
                mailboxes.add(transaction, domains.find(transaction, address.domain), address, password)
            mailboxes.set_password(transaction, mailboxes.find(transaction, address).id, password)

        self.write(work)
        self.model.domains.setdefault(str(address.domain), False)
        locked, _ = self.model.boxes.get(name, (False, ""))
        self.model.boxes[name] = (locked, password)
        self.model.mail.setdefault(name, {})
        self.know_again()

    def know_again(self) -> None:
        database = Sqlite(self.home)
        self.model.made = {name: mailboxes.find(database, Address.parse(name)).id for name in self.model.boxes}
        database.close()

    @rule(some=st.sets(names, min_size=1), text=texts)
    def deliver(self, some: set[str], text: bytes) -> None:
        blobs = Blobs(self.home.mail)
        draft = Draft(blobs)
        draft.write(text)
        content = draft.finish()
        recipients = sorted(some)
        addresses = [Address.parse(name) for name in recipients]

        def work(transaction: Sqlite) -> None:
            deliver(transaction, addresses, content, b"", plain=True)

        self.write(work)
        state = look_inside(self.home)
        for name in recipients:
            if name in self.model.boxes:
                self.counter += 1
                self.model.mail[name][self.counter] = (state.mail[name][-1].unique_id, text)
        database = Sqlite(self.home)
        sweep.sweep(database, blobs, 0)
        database.close()

    @rule(name=names, picks=st.sets(st.integers(0, 5)))
    def delete_messages(self, name: str, picks: set[int]) -> None:
        if name not in self.model.boxes:
            return
        ordered = sorted(self.model.mail[name])
        gone = [number for number in picks if number < len(ordered)]
        database = Sqlite(self.home)
        with database.write() as transaction:
            mailbox = mailboxes.find(transaction, Address.parse(name))
            there = maildrops.open_maildrop(transaction, mailbox.id).messages
            unused = maildrops._remove(transaction, [there[number] for number in gone])
        sweep.discard(database, Blobs(self.home.mail), unused)
        database.close()
        for number in gone:
            del self.model.mail[name][ordered[number]]

    @rule(what=anything)
    def delete(self, what: str) -> None:
        if what not in self.model.boxes and what not in self.model.domains:
            return
        do(self.home, "delete", target=what)
        self.model.domains.pop(what, None)
        for name in [name for name in self.model.boxes if name == what or name.endswith(f"@{what}")]:
            del self.model.boxes[name], self.model.mail[name]

    @rule(what=anything, locked=st.booleans())
    def lock(self, what: str, locked: bool) -> None:  # noqa: FBT001 - hypothesis gives it by name
        model, domain = self.model, what.partition("@")[2]
        if what in model.domains:
            model.domains[what] = locked
        elif what in model.boxes and not (not locked and model.domains[domain]):
            model.boxes[what] = (locked, model.boxes[what][1])
        else:
            return
        do(self.home, "lock" if locked else "unlock", target=what)

    # --- backups ---

    @rule(keep=st.sampled_from([None, None, 1, 2]))
    def back_up(self, keep: int | None) -> None:
        outcome = do(self.home, "backup", directory=self.kept, **({"keep": str(keep)} if keep else {}))
        self.snapshots.append((outcome.data["snapshot"], self.model.copy()))
        if keep:
            del self.snapshots[:-keep]
        assert outcome.data["messages"] == sum(map(len, self.model.mail.values()))

    @precondition(lambda self: self.snapshots)
    @rule(what=st.none() | anything, pick=st.integers(0, 5))
    def restore(self, what: str | None, pick: int) -> None:
        moment, snapshot = self.snapshots[pick % len(self.snapshots)]
        if what is None or what in snapshot.domains or what in snapshot.boxes:
            do(self.home, "restore", directory=self.kept, at=moment, **({"target": what} if what else {}))
            self.model.restore(snapshot, what)
            self.know_again()

    @precondition(lambda self: self.snapshots)
    @rule(pick=st.integers(0, 5))
    def restore_elsewhere(self, pick: int) -> None:
        moment, snapshot = self.snapshots[pick % len(self.snapshots)]
        self.homes += 1
        new = Home(self.path / f"new-{self.homes}")
        do(new, "restore", directory=self.kept, at=moment)
        self.check(new, snapshot)

    # --- the judgement ---

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        if hasattr(self, "model"):
            self.check(self.home, self.model)

    def check(self, home: Home, model: Model) -> None:
        state = look_inside(home)
        for name, found in state.mail.items():
            assert not any(each.trouble for each in found)
            kept = model.mail[name]
            assert [(each.unique_id, each.octets) for each in found] == [kept[number] for number in sorted(kept)]
        locks = {name for name, locked in model.domains.items() if locked}
        assert state.locked == locks | {name for name, (locked, _) in model.boxes.items() if locked}
        database = Sqlite(home)
        assert [str(each.name) for each in domains.every(database)] == sorted(model.domains)
        passwords = {
            str(box.address): box.password_hash
            for domain in domains.every(database)
            for box in mailboxes.of_domain(database, domains.find(database, DomainName(str(domain.name))))
        }
        database.close()
        assert passwords == {name: password for name, (_, password) in model.boxes.items()}
        assert blobs_and_rows_agree(home)


Backups.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, suppress_health_check=list(HealthCheck), deadline=None
)


TestBackups = pytest.mark.timeout(600)(Backups.TestCase)
