"""The sweep: what a crash or an expunge left behind goes, and nothing that a row names."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store import blobs as blobs_module
from winpop.store import sweep as sweeping
from winpop.store.blobs import Blobs, Draft
from winpop.store.delivery import deliver
from winpop.store.sweep import Swept, discard, sweep, unlink
from winpop.terms.names import Address

NOW = 2_000_000_000.0
DAY = 24 * 3600
OLD = NOW - 37 * 3600
YOUNG = NOW - 35 * 3600
ALICE, NOBODY = Address.parse("alice@example.com"), Address.parse("nobody@example.com")


@pytest.fixture
def blobs(home: Home, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    """A mail root in which every body is a blob."""
    monkeypatch.setattr(blobs_module, "SMALL", 0)
    made = Blobs(home.mail)
    made.make()
    return made


def draft(blobs: Blobs) -> Draft:
    begun = Draft(blobs)
    begun.write(b"hello")
    return begun


def place(blobs: Blobs, written: float) -> str:
    name = str(draft(blobs).finish().blob)
    os.utime(blobs.path(name), (written, written))
    return name


def send(database: Sqlite, blobs: Blobs, recipient: Address) -> str:
    content = draft(blobs).finish()
    with database.write() as transaction:
        deliver(transaction, [recipient], content, b"", plain=True)
    os.utime(blobs.path(str(content.blob)), (OLD, OLD))
    return str(content.blob)


def names(blobs: Blobs) -> set[str]:
    return {name for name, _ in blobs.names()}


def noted(database: Sqlite) -> int:
    return database.number("SELECT count(*) FROM discarded_blob")


def test_a_blob_that_a_row_names_is_never_touched_however_old(database: Sqlite, blobs: Blobs) -> None:
    name = send(database, blobs, ALICE)
    assert sweep(database, blobs, NOW + 10_000 * DAY) == Swept(0, 0, 0)
    assert names(blobs) == {name}


def test_a_blob_that_no_row_names_goes_30_days_after_it_was_found(database: Sqlite, blobs: Blobs) -> None:
    old = place(blobs, OLD)
    young = place(blobs, YOUNG)
    assert sweep(database, blobs, NOW) == Swept(0, 0, 0)
    assert blobs.path(old).stat().st_mode & 0o777 == 0o400
    os.utime(blobs.path(young), (NOW + 29 * DAY, NOW + 29 * DAY))
    assert sweep(database, blobs, NOW + 29 * DAY) == Swept(0, 0, 0)
    assert names(blobs) == {old, young}
    assert sweep(database, blobs, NOW + 31 * DAY) == Swept(0, 0, 1)
    assert young in names(blobs)


def test_a_database_of_yesterday_that_is_brought_back_costs_no_newer_blob(database: Sqlite, blobs: Blobs) -> None:
    newer = send(database, blobs, ALICE)
    row = database.one("SELECT id, size, plain, checksum FROM body WHERE blob = ?", newer)
    assert row is not None
    with database.write() as transaction:
        transaction.run("UPDATE body SET blob = 'away' WHERE blob = ?", newer)
    for day in range(25):
        assert sweep(database, blobs, NOW + day * DAY).unnamed == 0
    with database.write() as transaction:
        transaction.run("UPDATE body SET blob = ? WHERE blob = 'away'", newer)
    assert sweep(database, blobs, NOW + 500 * DAY).unnamed == 0
    assert blobs.has(newer)


def test_a_note_that_a_live_blob_is_to_be_removed_is_only_forgotten(database: Sqlite, blobs: Blobs) -> None:
    name = send(database, blobs, ALICE)
    with database.write() as transaction:
        transaction.run("INSERT INTO discarded_blob (name) VALUES (?)", name)
    sweep(database, blobs, time.time())
    assert blobs.has(name)
    assert noted(database) == 0


def test_a_file_of_somebody_else_is_left_alone(database: Sqlite, blobs: Blobs) -> None:
    other = blobs.root / "ab" / "ab-copy.bak"
    other.write_bytes(b"?")
    os.utime(other, (OLD, OLD))
    for day in (0, 40):
        assert sweep(database, blobs, NOW + day * DAY) == Swept(0, 0, 0)
    assert other.exists()


def test_an_unfinished_file_goes_when_nobody_can_still_write_it(database: Sqlite, blobs: Blobs) -> None:
    young, old = draft(blobs), draft(blobs)
    for written, path in zip((YOUNG, OLD), _in_order(blobs, young, old), strict=True):
        os.utime(path, (written, written))
    assert sweep(database, blobs, NOW) == Swept(0, 1, 0)
    assert len(list(blobs.tmp.iterdir())) == 1
    assert young.finish().blob in names(blobs)
    old.discard()


def _in_order(blobs: Blobs, *drafts: Draft) -> list[Path]:
    return [blobs.tmp / each._name for each in drafts]


def test_a_discarded_blob_goes_at_once_and_is_forgotten(database: Sqlite, blobs: Blobs) -> None:
    send(database, blobs, NOBODY)
    kept = send(database, blobs, ALICE)
    assert noted(database) == 1
    assert sweep(database, blobs, time.time()) == Swept(1, 0, 0)
    assert (names(blobs), noted(database)) == ({kept}, 0)
    assert sweep(database, blobs, time.time()) == Swept(0, 0, 0)


def test_a_discarded_blob_whose_file_is_gone_already_is_forgotten(database: Sqlite, blobs: Blobs) -> None:
    blobs.unlink(send(database, blobs, NOBODY))
    sweep(database, blobs, time.time())
    assert noted(database) == 0


def test_a_discarded_blob_that_cannot_be_removed_is_remembered(
    database: Sqlite, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (send(database, blobs, NOBODY) for _ in range(2))

    def refuse(_: str) -> None:
        raise PermissionError

    monkeypatch.setattr(blobs, "unlink", refuse)
    unlink(blobs, [first, second])  # in a session's thread an error is not raised
    discard(database, blobs, [first, second])
    assert noted(database) == 2
    monkeypatch.undo()
    discard(database, blobs, [first])
    assert (names(blobs), noted(database)) == ({second}, 1)


def test_nothing_to_discard_costs_no_transaction(database: Sqlite, blobs: Blobs) -> None:
    before = database.number("SELECT total_changes()")
    with database.write():
        pass
    discard(database, blobs, [])
    assert database.number("SELECT total_changes()") == before


def test_a_draft_that_is_finished_during_the_sweep_is_no_error(
    database: Sqlite, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = draft(blobs)
    listed = Path.iterdir

    def finish_meanwhile(directory: Path) -> Iterator[Path]:
        for path in list(listed(directory)):
            begun.finish()
            yield path

    monkeypatch.setattr(Path, "iterdir", finish_meanwhile)
    assert sweep(database, blobs, time.time()) == Swept(0, 0, 0)
    assert len(names(blobs)) == 1


def test_what_was_left_behind_is_older_than_any_delivery_may_take() -> None:
    assert sweeping._LEFT_BEHIND > DAY  # the longest time that the setting `datatime` allows


@pytest.mark.parametrize("jump", [-20 * 365 * DAY, 20 * 365 * DAY])
def test_a_blob_on_its_way_survives_a_sweep_whatever_the_clock_says_or_its_delivery_is_refused(
    database: Sqlite, blobs: Blobs, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    placed = draft(blobs).finish()
    assert placed.blob is not None
    name = placed.blob
    write = database.write

    def deliver_first() -> AbstractContextManager[Transaction]:
        monkeypatch.undo()
        with write() as transaction:  # the moment between the two looks of the sweep
            transaction.run("INSERT INTO body (size, plain, blob) VALUES (1, 1, ?)", name)
        return write()

    monkeypatch.setattr(database, "write", deliver_first)
    assert sweep(database, blobs, NOW + jump).unnamed == 0
    assert blobs.has(name)
