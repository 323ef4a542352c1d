"""Mail that expires: what was announced, and nothing a day earlier (RFC 2449 §6.7)."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from admin.doing import do
from running import Service
from services.wire import eventually
from winpop.db.home import Home
from winpop.db.leases import Leases, mailbox_number
from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes, settings
from winpop.services.housekeeping import Expiry
from winpop.store import blobs as blobs_module
from winpop.store import expiry
from winpop.store.blobs import Blobs, Draft
from winpop.store.clock import DAY
from winpop.store.delivery import deliver
from winpop.store.expiry import Expired, expire
from winpop.terms.names import Address

ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"
NOW = 0
"""The time at which a test began."""


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NOW", int(time.time()))


@pytest.fixture
def blobs(home: Home, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    """A mail root in which every body is a blob."""
    monkeypatch.setattr(blobs_module, "SMALL", 0)
    made = Blobs(home.mail)
    made.make()
    return made


@pytest.fixture
def leases(home: Home) -> Iterator[Leases]:
    """The leases of whoever removes."""
    with contextlib.closing(Leases(home.leases)) as made:
        yield made


def bring(database: Sqlite, blobs: Blobs, age: int, *recipients: str) -> None:
    """Deliver a message that is so many seconds old."""
    draft = Draft(blobs)
    draft.write(b"Subject: x\r\n\r\nbody\r\n")
    content = draft.finish()
    with database.write() as transaction:
        deliver(transaction, [Address.parse(each) for each in recipients], content, b"", plain=True)
        transaction.run("UPDATE message SET received = ? WHERE body_id = (SELECT max(id) FROM body)", NOW - age)


def left(database: Sqlite, address: str) -> list[int]:
    """Return the ages of what a mailbox has."""
    mailbox = mailboxes.find(database, Address.parse(address))
    rows = database.all("SELECT received FROM message WHERE mailbox_id = ? ORDER BY id", mailbox.id)
    return [NOW - int(str(received)) for (received,) in rows]


def left_of(database: Sqlite, lease: int) -> int:
    """Return how many messages the mailbox has whose maildrop this lease is."""
    return sum(mailbox_number(int(str(row[0]))) == lease for row in database.all("SELECT mailbox_id FROM message"))


def names(blobs: Blobs) -> set[str]:
    return {name for name, _ in blobs.names()}


def test_what_is_older_goes_with_its_blob_and_the_rest_stays(database: Sqlite, blobs: Blobs, leases: Leases) -> None:
    for age in (8 * DAY, 7 * DAY + 1, 7 * DAY, DAY, 0, -5 * DAY):
        bring(database, blobs, age, ALICE)
    bring(database, blobs, 9 * DAY, BOB, CAROL)
    assert expire(database, blobs, leases, 7, NOW) == Expired(messages=4, mailboxes=3)
    assert left(database, ALICE) == [7 * DAY, DAY, 0, -5 * DAY]
    assert left(database, BOB) == left(database, CAROL) == []
    assert len(names(blobs)) == 4
    assert database.number("SELECT count(*) FROM body") == 4
    assert database.number("SELECT count(*) FROM discarded_blob") == 0
    assert expire(database, blobs, leases, 7, NOW) == Expired()
    assert expire(database, blobs, leases, 7, NOW + DAY) == Expired(messages=1, mailboxes=1)


def test_a_delivery_and_a_migration_give_the_time_and_a_row_without_one_stays(
    database: Sqlite, blobs: Blobs, leases: Leases
) -> None:
    bring(database, blobs, NOW, ALICE)  # 1970
    bring(database, blobs, NOW + 5, ALICE)
    assert expire(database, blobs, leases, 1, NOW) == Expired()
    draft = Draft(blobs)
    draft.write(b"x")
    content = draft.finish()
    with database.write() as transaction:
        deliver(transaction, [Address.parse(BOB)], content, b"", plain=True)
    assert -60 < left(database, BOB)[0] <= 0


@pytest.mark.parametrize("target", [ALICE, "example.com"])
def test_nothing_goes_of_what_is_locked_and_after_the_unlock_the_days_count_anew(
    database: Sqlite, blobs: Blobs, leases: Leases, home: Home, target: str
) -> None:
    bring(database, blobs, 100 * DAY, ALICE)
    bring(database, blobs, 100 * DAY, CAROL)
    do(home, "lock", target=target)
    assert expire(database, blobs, leases, 7, NOW) == Expired(messages=1, mailboxes=1)  # Carol's
    assert len(left(database, ALICE)) == 1
    do(home, "unlock", target=target)
    assert expire(database, blobs, leases, 7, NOW) == Expired()
    assert expire(database, blobs, leases, 7, NOW + 7 * DAY - 5) == Expired()
    assert expire(database, blobs, leases, 7, NOW + 7 * DAY + 60) == Expired(messages=1, mailboxes=1)


def test_an_unlock_that_was_refused_or_of_somebody_else_keeps_nothing(
    database: Sqlite, blobs: Blobs, leases: Leases, home: Home
) -> None:
    bring(database, blobs, 100 * DAY, ALICE)
    do(home, "unlock", target=ALICE)  # unchanged: it was not locked
    do(home, "lock", target=BOB)
    do(home, "unlock", target=BOB)
    assert expire(database, blobs, leases, 7, NOW).messages == 1


@pytest.mark.parametrize("words", [["lock"], ["lock", "unlock"]])
def test_a_lock_or_unlock_in_the_middle_of_a_round_is_not_too_late(
    home: Home, database: Sqlite, blobs: Blobs, words: list[str]
) -> None:
    bring(database, blobs, 100 * DAY, ALICE)
    bring(database, blobs, 100 * DAY, CAROL)

    class Late(Leases):
        """Leases that are asked for after everything was looked up."""

        def take(self, number: int) -> bool:
            while words:
                do(home, words.pop(0), target=ALICE)
            return super().take(number)

    with contextlib.closing(Late(home.leases)) as leases:
        assert expire(database, blobs, leases, 7, NOW) == Expired(messages=1, mailboxes=1)
    assert len(left(database, ALICE)) == 1


def test_what_somebody_is_logged_on_to_waits_for_the_next_round(
    database: Sqlite, blobs: Blobs, leases: Leases, home: Home
) -> None:
    """The sessions' leases are another object, in another process or in this one."""
    bring(database, blobs, 100 * DAY, ALICE)
    bring(database, blobs, 100 * DAY, BOB)
    number = mailbox_number(mailboxes.find(database, Address.parse(ALICE)).id)
    with contextlib.closing(Leases(home.leases)) as sessions:
        assert sessions.take(number)
        assert expire(database, blobs, leases, 7, NOW) == Expired(messages=1, mailboxes=1, in_use=1)
        assert len(left(database, ALICE)) == 1
        sessions.free(number)
        assert expire(database, blobs, leases, 7, NOW) == Expired(messages=1, mailboxes=1)
        assert sessions.take(number), "the round has kept the maildrop"


def test_many_go_in_batches_each_a_transaction_of_its_own(
    home: Home, database: Sqlite, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_BATCH", 3)
    monkeypatch.setattr(expiry, "_LOOKED_AT", 2)
    for _ in range(7):
        bring(database, blobs, 100 * DAY, ALICE, BOB)
    version = Sqlite(home)
    before = version.version()
    taken: list[int] = []

    class Watched(Leases):
        """Leases that look whether there was a commit since they were last asked."""

        def free(self, number: int) -> None:
            nonlocal before
            taken.append(left_of(version, number))
            assert version.version() != before
            before = version.version()
            super().free(number)

    with contextlib.closing(Watched(home.leases)) as leases:
        assert expire(database, blobs, leases, 7, NOW) == Expired(messages=14, mailboxes=2)
    version.close()
    assert taken == [4, 1, 0] * 2
    assert names(blobs) == set()


def test_seconds_that_do_not_count_keep_mail_longer(database: Sqlite, blobs: Blobs, leases: Leases) -> None:
    bring(database, blobs, 10 * DAY, ALICE)
    assert expire(database, blobs, leases, 7, NOW, uncounted=4 * DAY) == Expired()
    assert expire(database, blobs, leases, 7, NOW, uncounted=2 * DAY).messages == 1


def test_restored_mail_counts_from_its_restoring(home: Home, database: Sqlite, blobs: Blobs, leases: Leases) -> None:
    bring(database, blobs, 100 * DAY, ALICE)
    do(home, "backup", directory=str(home.path / "kept"))
    assert expire(database, blobs, leases, 7, NOW).messages == 1
    do(home, "restore", directory=str(home.path / "kept"))
    [age] = left(database, ALICE)
    assert -60 < age <= 0
    assert expire(database, blobs, leases, 7, NOW + DAY) == Expired()


# --- the rounds of a service ---


def keep(database: Sqlite, days: str) -> settings.Settings:
    with database.write() as transaction:
        settings.store(transaction, {"expire": days})
    return settings.load(database)


def test_a_round_a_week_after_the_clock_jumped_ten_years_is_the_first_that_removes(
    home: Home, database: Sqlite, blobs: Blobs
) -> None:
    """A clock ten years ahead, and set right again after that (threats.md, M12)."""
    wanted, rounds, year = keep(database, "7"), Expiry(home), 365 * DAY
    bring(database, blobs, DAY, ALICE)
    assert rounds.is_due(0)
    assert rounds.round(wanted, NOW, 0) == Expired()
    assert not rounds.is_due(3599)
    assert rounds.is_due(3600)
    assert rounds.round(wanted, NOW + 10 * year, 3600) == Expired()
    assert Expiry(home).round(wanted, NOW + 10 * year + 60, 0) == Expired()  # another process does not forget it
    assert rounds.round(wanted, NOW + 7200, 7200) == Expired()
    assert rounds.round(wanted, NOW - 3 * DAY, 10800) == Expired()
    assert len(left(database, ALICE)) == 1
    assert rounds.round(wanted, NOW + 8 * DAY, 10800 + 11 * DAY).messages == 1


def test_mail_that_is_kept_for_ever_is_kept_and_the_clock_looked_at(home: Home, database: Sqlite, blobs: Blobs) -> None:
    bring(database, blobs, 1000 * DAY, ALICE)
    rounds = Expiry(home)
    assert rounds.round(keep(database, "never"), NOW, 0) == Expired()
    assert rounds.round(keep(database, "never"), NOW + DAY, DAY) == Expired()
    assert rounds.round(keep(database, "999"), NOW + 2 * DAY, 2 * DAY).messages == 1


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_service_removes_what_is_old_and_not_from_under_a_session(
    home: Home, database: Sqlite, blobs: Blobs, workers: str
) -> None:
    with Service(home.path, "--workers", workers) as service:
        client = service.log_on(ALICE)
        bring(database, blobs, 100 * DAY, ALICE)
        bring(database, blobs, DAY, BOB)
        with database.write() as transaction:
            transaction.run("DELETE FROM setting WHERE name = 'clock'")
        assert Expiry(home).round(keep(database, "7"), NOW, 0) == Expired(in_use=1)
        assert len(left(database, ALICE)) == 1
        client.quit()
    with Service(home.path, "--workers", workers) as service:
        eventually(lambda: left(database, ALICE) == [])
        assert left(database, BOB) == [DAY]
        eventually(lambda: "expired" in service.log.read_text())
    assert len(names(blobs)) == 1
