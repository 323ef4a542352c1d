"""Restoring: everything comes back as it was, and nothing newer is lost."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from admin.doing import audited, bring, do, invoked, refused, secret
from admin.test_backup import break_page
from durability.ledger import State, look_inside
from running import winpop
from winpop.db.contract import Row
from winpop.db.home import Home
from winpop.db.leases import RESTORE, Leases
from winpop.db.sqlite import Sqlite
from winpop.store import backup_format, backup_opening
from winpop.store.blobs import SMALL, Blobs
from winpop.terms.refusals import Refusal

ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"
LARGE = b"0123456789abcde\r\n" * (SMALL // 16)


@pytest.fixture
def kept(tmp_path: Path) -> str:
    return str(tmp_path / "kept")


@pytest.fixture
def filled(home: Home) -> Home:
    for n in range(5):
        bring(home, ALICE, b"small %d\r\n" % n)
        bring(home, CAROL, b"other %d\r\n" % n)
        bring(home, ALICE, LARGE + b"%d" % n)
    do(home, "lock", target=BOB)
    do(home, "lock", target="other.example")
    do(home, "set", name="autologout", values="900")
    do(home, "set", name="socket", values="2000 5000 20 20")
    return home


def drop(home: Home, address: str, *numbers: int) -> None:
    """Delete messages of a mailbox, counted from 0, as a session does."""
    from winpop.directory import mailboxes
    from winpop.store import maildrops, sweep
    from winpop.terms.names import Address

    database = Sqlite(home)
    with database.write() as transaction:
        mailbox = mailboxes.find(transaction, Address.parse(address))
        there = maildrops.open_maildrop(transaction, mailbox.id).messages
        blobs = maildrops._remove(transaction, [there[n] for n in numbers])
    sweep.discard(database, Blobs(home.mail), blobs)
    database.close()


def passwords(home: Home) -> dict[str, str]:
    database = Sqlite(home)
    sql = (
        "SELECT mailbox.name || '@' || domain.name, hash FROM password JOIN mailbox ON mailbox.id = mailbox_id "
        "JOIN domain ON domain.id = domain_id"
    )
    found = {str(name): str(value) for name, value in database.all(sql)}
    database.close()
    return found


def rows(home: Home, address: str) -> list[Row]:
    """Return row identifier and unique-id of a mailbox's messages in their order."""
    database = Sqlite(home)
    found = database.all(
        "SELECT message.id, unique_id FROM message JOIN mailbox ON mailbox.id = mailbox_id "
        "JOIN domain ON domain.id = domain_id WHERE mailbox.name || '@' || domain.name = ? ORDER BY message.id",
        address,
    )
    database.close()
    return found


def blobs_and_rows_agree(home: Home) -> bool:
    database = Sqlite(home)
    named = {str(row[0]) for row in database.all("SELECT blob FROM body WHERE blob IS NOT NULL")}
    left = database.number("SELECT count(*) FROM discarded_blob")
    orphans = database.number("SELECT count(*) FROM body WHERE id NOT IN (SELECT body_id FROM message)")
    there = {name for name, _ in Blobs(home.mail).names()}
    whole = database.all("PRAGMA integrity_check") == [("ok",)] and database.all("PRAGMA foreign_key_check") == []
    database.close()
    return named == there and not left and not orphans and whole


def test_into_a_new_home_comes_everything(filled: Home, tmp_path: Path, kept: str) -> None:
    do(filled, "backup", directory=kept)
    new = Home(tmp_path / "new")
    outcome = do(new, "restore", directory=kept)
    assert outcome.sentence.endswith("2 domains and 3 mailboxes made, 15 messages added, 0 there already, 0 mended."), (
        outcome.sentence
    )
    assert look_inside(new) == look_inside(filled)
    assert look_inside(new).locked == {BOB, "other.example"}
    assert passwords(new) == passwords(filled)
    shown = {each["name"]: each["value"] for each in do(new, "get").data["settings"]}
    assert (shown["autologout"], shown["socketmax"], shown["socketmin"]) == ("900", "5000", "20")
    assert blobs_and_rows_agree(new)
    said = [(operation, outcome) for operation, _, outcome in audited(new)]
    assert said == [("restore", "done")] * 3
    assert "autologout" in audited(new)[0][1]
    again = do(new, "restore", directory=kept)
    assert not again.changed
    assert (again.data["messages"], again.data["kept"]) == (0, 15)


def test_where_its_mail_lay_is_not_taken_along(filled: Home, tmp_path: Path, kept: str) -> None:
    do(filled, "set", name="mailroot", values=str(tmp_path / "elsewhere"))
    do(filled, "backup", directory=kept)
    new = Home(tmp_path / "new")
    outcome = do(new, "restore", directory=kept)
    assert "mailroot" in outcome.notes[0]
    assert (tmp_path / "elsewhere").exists()
    assert blobs_and_rows_agree(new)
    assert [found.octets for found in look_inside(new).mail[ALICE]] == [
        found.octets for found in look_inside(filled).mail[ALICE]
    ]


def test_a_deleted_mailbox_and_a_deleted_domain_come_back_with_their_locks(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    before, hashes = look_inside(filled), passwords(filled)
    do(filled, "delete", target=BOB)
    do(filled, "delete", target="other.example")
    do(filled, "delete", target=ALICE)
    outcome = do(filled, "restore", directory=kept)
    assert (outcome.data["domains"], outcome.data["mailboxes"]) == (1, 3)
    assert look_inside(filled) == before
    assert passwords(filled) == hashes
    assert blobs_and_rows_agree(filled)


def test_deleted_messages_come_back_where_they_were(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    before, state = rows(filled, ALICE), look_inside(filled)
    drop(filled, ALICE, 0, 1, 4, 5)
    bring(filled, ALICE, b"newer\r\n")
    newer = rows(filled, ALICE)[-1]
    outcome = do(filled, "restore", directory=kept)
    assert (outcome.data["messages"], outcome.data["kept"]) == (4, 11)
    assert rows(filled, ALICE) == [*before, newer]
    assert look_inside(filled).mail[ALICE][:-1] == state.mail[ALICE]
    assert blobs_and_rows_agree(filled)
    bring(filled, ALICE, b"last\r\n")
    assert rows(filled, ALICE)[-2] == newer


def test_into_another_installation_they_come_behind_what_is_there(filled: Home, tmp_path: Path, kept: str) -> None:
    do(filled, "backup", directory=kept)
    other = Home(tmp_path / "other")
    do(other, "add", target="example.com")
    do(other, "add", target=ALICE, createuser=secret("another"))
    bring(other, ALICE, b"its own\r\n")
    own, hashes = look_inside(other).mail[ALICE], passwords(other)
    do(other, "restore", directory=kept)
    assert look_inside(other).mail[ALICE] == [*own, *look_inside(filled).mail[ALICE]]
    assert passwords(other)[ALICE] == hashes[ALICE]
    assert passwords(other)[BOB] == passwords(filled)[BOB]


def test_what_is_newer_stays(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    do(filled, "unlock", target=BOB)
    do(filled, "lock", target="example.com")
    do(filled, "unlock", target="other.example")
    do(filled, "changepwd", address=ALICE, newpassword=secret("changed"))
    do(filled, "set", name="autologout", values="1200")
    bring(filled, BOB, b"newer\r\n")
    do(filled, "add", target="new.example")
    do(filled, "add", target="eve@new.example", createuser=secret("secret"))
    before, hashes, settings = look_inside(filled), passwords(filled), do(filled, "get").data
    outcome = do(filled, "restore", directory=kept)
    assert not outcome.changed
    assert (look_inside(filled), passwords(filled), do(filled, "get").data) == (before, hashes, settings)


@pytest.mark.parametrize(("target", "back"), [(None, 15), ("example.com", 10), (ALICE, 10), (CAROL, 5), (BOB, 0)])
def test_a_part_of_a_backup(filled: Home, tmp_path: Path, kept: str, target: str | None, back: int) -> None:
    do(filled, "backup", directory=kept)
    new = Home(tmp_path / "new")
    outcome = do(new, "restore", directory=kept, **({"target": target} if target else {}))
    assert outcome.data["messages"] == back
    whole, part = look_inside(filled), look_inside(new)
    of = {name: mail for name, mail in whole.mail.items() if target is None or name.endswith(target)}
    assert part.mail == of
    assert (part.locked >= {"other.example"}) == (target in (None, CAROL))
    autologout = do(new, "get", name="autologout").data["settings"][0]["value"]
    assert autologout == ("900" if target is None else "610")


def test_a_backup_of_a_part(filled: Home, tmp_path: Path) -> None:
    do(filled, "backup", directory=str(tmp_path / "one"), target="example.com")
    do(filled, "backup", directory=str(tmp_path / "two"), target=CAROL)
    new = Home(tmp_path / "new")
    do(new, "restore", directory=str(tmp_path / "one"))
    do(new, "restore", directory=str(tmp_path / "two"))
    assert look_inside(new) == look_inside(filled)
    assert do(new, "get", name="autologout").data["settings"][0]["value"] == "610"
    refusal = refused(new, "restore", directory=str(tmp_path / "one"), target="other.example")
    assert refusal.code == "not-in-backup"
    assert "it has example.com." in refusal.sentence
    refusal = refused(new, "restore", directory=str(tmp_path / "one"), target="eve@example.com")
    assert f"it has {ALICE}, {BOB}." in refusal.sentence


def test_the_snapshot_of_a_time(filled: Home, tmp_path: Path, kept: str) -> None:
    states: list[State] = []
    for n in range(3):
        do(filled, "backup", directory=kept)
        states.append(look_inside(filled))
        bring(filled, BOB, b"later %d\r\n" % n)
        drop(filled, ALICE, 0)
    shown = do(filled, "restore", directory=kept, list="").data["snapshots"]
    assert [(each["scope"], each["mailboxes"], each["messages"]) for each in shown] == [("server", 3, 15)] * 3
    times = [each["time"] for each in shown]
    assert times == sorted(set(times))
    for state, moment in zip(states, times, strict=True):
        new = Home(tmp_path / moment)
        do(new, "restore", directory=kept, at=moment)
        assert look_inside(new) == state
    new = Home(tmp_path / "day")
    do(new, "restore", directory=kept, at="2999-12-31")
    assert look_inside(new) == states[-1]
    refusal = refused(new, "restore", directory=kept, at="2001-01-01")
    assert refusal.code == "no-snapshot"
    assert times[0] in refusal.sentence
    for wrong in ("yesterday", "", "2026-13-01", "99999999999"):
        with pytest.raises(Refusal) as caught:
            invoked(new, "restore", {"directory": kept, "at": wrong})
        assert caught.value.code == "bad-time"


def test_silent_damage_is_mended(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    before = look_inside(filled)
    bring(filled, ALICE, LARGE + b"newer")
    database, blobs = Sqlite(filled), Blobs(filled.mail)
    names = [str(row[0]) for row in database.all("SELECT blob FROM body WHERE blob IS NOT NULL ORDER BY id")]
    with database.write() as transaction:
        transaction.run("UPDATE body SET content = randomblob(size) WHERE id = 1")
        transaction.run("UPDATE body SET checksum = randomblob(32) WHERE id = 2")
        transaction.run("UPDATE message SET prefix = x'00' WHERE id = 4")
        transaction.run("UPDATE body SET checksum = NULL WHERE id = 5")
        transaction.run("UPDATE body SET content = randomblob(size), checksum = NULL WHERE id = 7")
    database.close()
    blobs.path(names[0]).unlink()
    os.truncate(blobs.path(names[1]), 5)
    with blobs.path(names[2]).open("r+b") as file:
        file.write(b"x")
    blobs.path(names[-1]).write_bytes(b"x")  # that one is newer than the backup
    outcome = do(filled, "restore", directory=kept)
    assert len(outcome.data["mended"]) == 7
    assert (outcome.data["messages"], outcome.data["kept"]) == (0, 8)
    assert outcome.complete
    assert outcome.changed
    assert "whole again" in outcome.notes[0]
    after = look_inside(filled)
    assert after.mail[ALICE][:-1] == before.mail[ALICE]
    assert after.mail[ALICE][-1].trouble
    assert after.mail[CAROL] == before.mail[CAROL]
    assert blobs_and_rows_agree(filled)


def test_what_is_damaged_in_the_backup_is_named_and_skipped(filled: Home, tmp_path: Path, kept: str) -> None:
    do(filled, "backup", directory=kept)
    files = sorted(path for path in (Path(kept) / "blobs").rglob("*") if path.is_file())
    files[0].unlink()
    os.truncate(files[1], 5)
    with files[2].open("r+b") as file:
        file.write(b"x")
    with backup_opening.opened(Path(kept)) as archive:
        archive.run("COMMIT")
        archive.run(
            "UPDATE body SET content = randomblob(size) WHERE id = (SELECT min(id) FROM body WHERE content > 0)"
        )
    new = Home(tmp_path / "new")
    outcome = do(new, "restore", directory=kept)
    assert not outcome.complete
    assert outcome.data["messages"] == 11
    assert sorted(each["why"] for each in outcome.data["damaged"]) == [
        "its file is missing",
        "its file was cut short",
        "the checksum is wrong",
        "the checksum is wrong",
    ]
    assert not any(found.trouble for mail in look_inside(new).mail.values() for found in mail)
    assert blobs_and_rows_agree(new)
    assert not any(Blobs(new.mail).tmp.iterdir())
    assert do(filled, "restore", directory=kept).complete  # what is whole here needs nothing of it


def test_nothing_that_is_no_backup_is_restored(filled: Home, tmp_path: Path) -> None:
    def code(directory: Path) -> str:
        return refused(filled, "restore", directory=str(directory)).code

    assert code(tmp_path / "missing") == "not-a-backup"
    assert code(filled.path) == "not-a-backup"
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / backup_format.NAME).touch()
    assert code(tmp_path / "begun") == "not-a-backup"
    new = Home(tmp_path / "new")
    with pytest.raises(Refusal):
        do(new, "restore", directory=str(tmp_path / "missing"))
    assert not new.path.exists()


def test_a_backup_can_be_copied_as_it_is_and_read_where_it_cannot_be_written(
    filled: Home, tmp_path: Path, kept: str
) -> None:
    do(filled, "backup", directory=kept)
    shutil.move(kept, tmp_path / "archive")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "archive").rglob("*")}
    new = Home(tmp_path / "new")
    do(new, "restore", directory=str(tmp_path / "archive"))
    assert look_inside(new) == look_inside(filled)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "archive").rglob("*")} == before


def test_one_restore_at_a_time(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    leases = Leases(filled.leases)
    leases.take(RESTORE)
    try:
        assert refused(filled, "restore", directory=kept).code == "restore-running"
    finally:
        leases.close()


def test_a_mailbox_that_is_deleted_meanwhile(filled: Home, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from winpop.store.backup_restoring import Restorer

    do(filled, "backup", directory=kept)
    do(filled, "delete", target=CAROL)
    drop(filled, ALICE, 0, 1)
    insert = Restorer._insert

    def deleted(self: Restorer, transaction: Sqlite) -> object:
        transaction.run("DELETE FROM mailbox WHERE name = 'carol'")
        return insert(self, transaction)

    monkeypatch.setattr(Restorer, "_insert", deleted)
    outcome = do(filled, "restore", directory=kept)
    assert outcome.data["vanished"] == [CAROL]
    assert outcome.data["messages"] == 2
    assert not outcome.complete
    assert blobs_and_rows_agree(filled)


def test_a_backup_goes_on_after_a_restore(filled: Home, tmp_path: Path, kept: str) -> None:
    do(filled, "backup", directory=kept)
    state = look_inside(filled)
    do(filled, "delete", target="example.com")
    do(filled, "backup", directory=kept)
    first = do(filled, "restore", directory=kept, list="").data["snapshots"][0]["time"]
    do(filled, "restore", directory=kept, at=first)
    said = do(filled, "backup", directory=kept).data
    assert (said["copied"], said["copied_octets"], said["kept"]) == (10, 0, 5)
    assert do(filled, "backup", directory=kept, keep="1").data["removed_snapshots"] == 3
    new = Home(tmp_path / "new")
    do(new, "restore", directory=kept)
    assert look_inside(new) == state


def test_what_may_only_be_read_can_be_restored_from(
    filled: Home, tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(filled, "backup", directory=kept)
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode == os.R_OK or not str(path).startswith(kept))
    new = Home(tmp_path / "new")
    do(new, "restore", directory=kept)
    assert look_inside(new) == look_inside(filled)


@pytest.mark.parametrize("words", [("/list",), ("/at", "2001-01-01"), ("nobody@nowhere.example",)])
def test_what_restores_nothing_begins_no_installation(
    filled: Home, kept: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    do(filled, "backup", directory=kept)
    winpop(tmp_path / "new", "restore", kept, *words)
    assert not (tmp_path / "new").exists()


def change(home: Home, sql: str) -> None:
    """Change rows behind the store's back, where foreign keys hold nothing."""
    connection = sqlite3.connect(home.database)
    connection.execute(sql)
    connection.commit()
    connection.close()


def test_a_body_whose_row_is_missing_comes_back(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    state = look_inside(filled)
    change(filled, "DELETE FROM body WHERE id = 1")
    outcome = do(filled, "restore", directory=kept)
    assert (len(outcome.data["mended"]), outcome.data["messages"]) == (1, 0)
    assert look_inside(filled) == state
    assert blobs_and_rows_agree(filled)


def test_messages_in_a_damaged_page_are_mended(home: Home, kept: str) -> None:
    for n in range(40):
        bring(home, ALICE, b"%03d:" % n + b"x" * 1500)
    do(home, "backup", directory=kept)
    state = look_inside(home)
    break_page(home, b"017:xxx")
    outcome = do(home, "restore", directory=kept)
    assert 1 <= len(outcome.data["mended"]) <= 3
    assert outcome.complete
    assert look_inside(home) == state


def test_a_shared_body_is_mended_for_all_who_have_it(home: Home, kept: str) -> None:
    from winpop.store.blobs import Content
    from winpop.store.delivery import deliver
    from winpop.terms.names import Address

    database = Sqlite(home)
    with database.write() as transaction:
        deliver(
            transaction, [Address.parse(name) for name in (ALICE, BOB)], Content(5, b"hello", None), b"", plain=True
        )
    database.close()
    do(home, "backup", directory=kept)
    state = look_inside(home)
    change(home, "UPDATE body SET content = x'0000000000'")
    assert len(do(home, "restore", directory=kept, target=ALICE).data["mended"]) == 1
    assert look_inside(home).mail[ALICE] == state.mail[ALICE]
    assert look_inside(home).mail[BOB][0].trouble
    assert len(do(home, "restore", directory=kept).data["mended"]) == 1
    assert look_inside(home) == state
    assert blobs_and_rows_agree(home)


def test_mend_gives_bodies_back_and_nothing_else(filled: Home, tmp_path: Path, kept: str) -> None:
    do(filled, "backup", directory=kept)
    drop(filled, ALICE, 1, 2)
    do(filled, "delete", target=BOB)
    state = look_inside(filled)
    change(filled, "UPDATE body SET content = randomblob(size) WHERE id = 1")
    do(filled, "set", name="autologout", values="default")
    outcome = do(filled, "restore", directory=kept, mend="")
    assert (len(outcome.data["mended"]), outcome.data["messages"], outcome.data["mailboxes"]) == (1, 0, 0)
    assert (outcome.data["settings"], outcome.complete) == ([], True)
    assert look_inside(filled) == state
    assert refused(filled, "restore", directory=kept, target=BOB, mend="").code == "no-such-mailbox"
    assert "[no-installation]" in winpop(tmp_path / "new", "restore", kept, "/mend").stderr
    assert not (tmp_path / "new").exists()


def test_a_mailbox_that_was_made_again_gets_its_former_owners_mail_only_by_name(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    do(filled, "delete", target=ALICE)
    do(filled, "add", target=ALICE, createuser=secret("another"))
    bring(filled, ALICE, b"its own\r\n")
    state = look_inside(filled)
    for target in ({}, {"target": "example.com"}):
        outcome = do(filled, "restore", directory=kept, **target)
        assert outcome.data["skipped"] == [ALICE]
        assert ALICE in outcome.notes[0]
        assert look_inside(filled) == state
    assert do(filled, "restore", directory=kept, target=ALICE).data["messages"] == 10
    assert do(filled, "restore", directory=kept).data["skipped"] == []


def test_a_mailbox_that_a_restore_has_made_again_is_the_same(filled: Home, kept: str) -> None:
    do(filled, "backup", directory=kept)
    state = look_inside(filled)
    do(filled, "delete", target=ALICE)
    do(filled, "restore", directory=kept)
    drop(filled, ALICE, 0, 1)
    do(filled, "changepwd", address=ALICE, newpassword=secret("another"))
    assert do(filled, "restore", directory=kept).data["messages"] == 2
    assert {found.unique_id for found in look_inside(filled).mail[ALICE]} == {
        found.unique_id for found in state.mail[ALICE]
    }
    drop(filled, ALICE, *range(10))
    do(filled, "delete", target=ALICE)
    do(filled, "restore", directory=kept)
    drop(filled, ALICE, *range(10))
    assert do(filled, "restore", directory=kept).data["messages"] == 10
