"""What a mailbox is logged on to with goes into a backup and comes back; backups of the format before go on."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from admin.doing import bring, do
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes
from winpop.directory.mailboxes import Kept
from winpop.store import backup_opening, backup_reading, clock
from winpop.store.backup_format import SCHEMA
from winpop.terms.names import Address

ALICE, BOB, CAROL = map(Address.parse, ["alice@example.com", "bob@example.com", "carol@other.example"])
SHA_1, SHA_256 = "SCRAM-SHA-1$4096:c2FsdA==$a:b", "SCRAM-SHA-256$4096:c2FsdA==$c:d"
EARLIER = Path(__file__).parent / "archives" / "1.sql"


@pytest.fixture
def filled(home: Home) -> Home:
    """A home in which Alice has SCRAM keys and a sealed secret, and Carol an account of Active Directory."""
    database = Sqlite(home)
    with database.write() as transaction:
        alice, carol = (mailboxes.find(transaction, address) for address in (ALICE, CAROL))
        mailboxes.set_password(transaction, alice.id, Kept(str(alice.password_hash), SHA_1, SHA_256, b"sealed"))
        mailboxes.set_account(transaction, carol.id, 2, "S-1-5-21-1")
        mailboxes.forget_password(transaction, carol.id)
        transaction.run("INSERT INTO setting (name, value) VALUES (?, '[1, 2, []]')", clock.NAME)
    database.close()
    bring(home, str(ALICE), b"Subject: x\r\n\r\n")
    return home


def logons(home: Home) -> dict[str, tuple[object, ...]]:
    """Return hash, keys, secret, method and account of each mailbox."""
    with contextlib.closing(sqlite3.connect(home.database)) as connection:
        rows = connection.execute(
            "SELECT name, hash, scram_sha_1, scram_sha_256, secret, method, identifier FROM mailbox "
            "LEFT JOIN password ON password.mailbox_id = mailbox.id "
            "LEFT JOIN account ON account.mailbox_id = mailbox.id"
        ).fetchall()
    return {str(name): tuple(values) for name, *values in rows}


def change(home: Home, sql: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(home.database)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(sql, values)


def earlier(directory: Path) -> Path:
    """Make the backup that the winpop before made."""
    with backup_opening.opened(directory, make=("", "")):
        pass
    directory.joinpath("winpop-backup.db").unlink()
    with contextlib.closing(sqlite3.connect(directory / "winpop-backup.db")) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.executescript(EARLIER.read_text())
    return directory


def format_of(directory: Path) -> int:
    with contextlib.closing(sqlite3.connect(directory / "winpop-backup.db")) as connection:
        number: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return number


def test_keys_and_accounts_come_back_and_secrets_do_not(filled: Home, tmp_path: Path) -> None:
    before = logons(filled)
    assert before["carol"] == (None, None, None, None, 2, "S-1-5-21-1")
    do(filled, "backup", directory=str(tmp_path / "kept"))
    new = Home(tmp_path / "new")
    notes = do(new, "restore", directory=str(tmp_path / "kept")).notes
    assert not any(clock.NAME in note for note in notes)
    after = logons(new)
    assert after["alice"] == (before["alice"][0], SHA_1, SHA_256, None, None, None)
    assert (after["bob"], after["carol"]) == (before["bob"], before["carol"])
    for file in (tmp_path / "kept").rglob("*.db"):
        assert b"sealed" not in file.read_bytes()


def test_what_a_mailbox_has_stays_and_an_account_is_no_two_mailboxes(filled: Home, tmp_path: Path) -> None:
    do(filled, "backup", directory=str(tmp_path / "kept"))
    change(
        filled, "UPDATE password SET hash = 'another', scram_sha_1 = NULL, scram_sha_256 = NULL WHERE mailbox_id = 1"
    )
    change(filled, "UPDATE account SET identifier = 'S-1-5-21-2'")
    now = logons(filled)
    do(filled, "restore", directory=str(tmp_path / "kept"), target=str(ALICE))
    do(filled, "restore", directory=str(tmp_path / "kept"), target=str(CAROL))
    assert logons(filled) == now
    change(filled, "DELETE FROM account")
    change(filled, "INSERT INTO account VALUES (2, 2, 'S-1-5-21-1', 1, 0)")
    change(filled, "DELETE FROM password WHERE mailbox_id = (SELECT mailbox_id FROM account)")
    do(filled, "restore", directory=str(tmp_path / "kept"), target=str(CAROL))
    assert logons(filled)["carol"] == (None,) * 6


def test_keys_that_are_new_are_in_the_next_snapshot_and_not_in_the_one_before(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    change(filled, "UPDATE password SET scram_sha_1 = NULL, scram_sha_256 = NULL")
    do(filled, "backup", directory=str(kept))
    change(filled, "UPDATE password SET scram_sha_256 = ? WHERE mailbox_id = 1", SHA_256)
    do(filled, "backup", directory=str(kept))
    first, last = do(filled, "restore", directory=str(kept), list="").data["snapshots"]
    for snapshot, key in ((first, None), (last, SHA_256)):
        new = Home(tmp_path / f"new-{key is None}")
        do(new, "restore", directory=str(kept), at=snapshot["time"])
        assert logons(new)["alice"][2] == key


def test_a_backup_of_the_format_before_is_restored_as_it_is(home: Home, tmp_path: Path) -> None:
    kept, new = earlier(tmp_path / "kept"), Home(tmp_path / "new")
    outcome = do(new, "restore", directory=str(kept))
    assert outcome.complete
    assert (outcome.data["mailboxes"], outcome.data["messages"]) == (2, 2)
    assert {hashed[1:] for hashed in logons(new).values()} == {(None,) * 5}
    assert all(str(hashed[0]).startswith("$argon2id$") for hashed in logons(new).values())
    assert format_of(kept) == 1
    database = Sqlite(new)
    assert mailboxes.find(database, BOB).locked == "mailbox"
    assert database.number("SELECT count(*) FROM downgrade") == 1  # höre
    database.close()
    assert home.exists()


def test_a_backup_of_the_format_before_is_brought_up_by_the_next_backup(tmp_path: Path) -> None:
    kept, new = earlier(tmp_path / "kept"), Home(tmp_path / "new")
    do(new, "restore", directory=str(kept))
    with contextlib.closing(sqlite3.connect(kept / "winpop-backup.db")) as connection:
        [installation] = connection.execute("SELECT installation FROM origin").fetchone()
    change(new, "UPDATE installation SET name = ?", installation)
    change(new, "UPDATE password SET scram_sha_1 = ?, scram_sha_256 = ?", SHA_1, SHA_256)
    said = do(new, "backup", directory=str(kept)).data
    assert (said["copied"], said["kept"]) == (0, 2)
    assert format_of(kept) == SCHEMA
    first, last = do(new, "restore", directory=str(kept), list="").data["snapshots"]
    for snapshot, keys in ((first, (None, None)), (last, (SHA_1, SHA_256))):
        other = Home(tmp_path / f"other-{keys[0] is None}")
        do(other, "restore", directory=str(kept), at=snapshot["time"])
        assert {values[1:3] for values in logons(other).values()} == {keys}


@pytest.mark.parametrize("column", ["scram_sha_1", "scram_sha_256", "identifier"])
def test_what_cannot_be_read_stops_no_backup(filled: Home, tmp_path: Path, column: str) -> None:
    table, address = ("account", CAROL) if column == "identifier" else ("password", ALICE)
    change(filled, f"UPDATE {table} SET {column} = CAST(x'ff' AS TEXT) WHERE mailbox_id IN (1, 3)")
    database = Sqlite(filled)
    found = {mailboxes.find(database, address).id}
    assert backup_reading.unreadable_logons(database) >= found
    database.close()
    outcome = do(filled, "backup", directory=str(tmp_path / "kept"))
    assert str(address) in str(outcome.notes)
