"""Backups: what they hold, what they cost, where they may lie."""

import errno
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from admin.doing import audited, bring, do, dump, invoked, refused
from cli.tool import winpop
from durability.ledger import look_inside
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store import backup_format, backup_opening
from winpop.store.blobs import SMALL, Blobs
from winpop.terms.refusals import Refusal

ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"
LARGE = b"0123456789abcde\r\n" * (SMALL // 16)


@pytest.fixture
def filled(home: Home) -> Home:
    for n in range(5):
        bring(home, ALICE, b"small %d\r\n" % n)
        bring(home, CAROL, b"other %d\r\n" % n)
    bring(home, ALICE, LARGE)
    do(home, "lock", target=BOB)
    return home


def files(directory: Path) -> dict[str, int]:
    """Return the files below a directory, with the times at which they were written."""
    return {
        str(path.relative_to(directory)): path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()
    }


def back_up(home: Home, directory: Path, **more: str) -> dict[str, object]:
    return dict(do(home, "backup", directory=str(directory), **more).data)


def test_a_backup_of_everything_and_what_it_says(filled: Home, tmp_path: Path) -> None:
    before = dump(filled)
    outcome = do(filled, "backup", directory=str(tmp_path / "kept"))
    assert outcome.complete
    assert not outcome.changed
    assert outcome.sentence == "Backed up the whole server: 11 messages in 3 mailboxes, 11 copied, 0 there already."
    size = 10 * len(b"small 0\r\n") + len(LARGE)
    assert {
        name: outcome.data[name] for name in ("domains", "mailboxes", "messages", "octets", "copied", "copied_octets")
    } == {"domains": 2, "mailboxes": 3, "messages": 11, "octets": size, "copied": 11, "copied_octets": size}
    assert dump(filled) == before
    assert [row[0] for row in audited(filled)] == ["lock", "backup"]


def test_only_the_owner_can_read_it_and_nothing_but_the_two_lie_there(filled: Home, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        back_up(filled, tmp_path / "deep" / "kept")
    finally:
        os.umask(mask)
    kept = tmp_path / "deep" / "kept"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert sorted(path.name for path in kept.iterdir()) == ["blobs", "winpop-backup.db"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.rglob("*") if path.is_file()} == {0o600}
    assert len(files(kept)) == 2


def test_a_second_backup_copies_only_what_is_new(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    before = files(kept / "blobs")
    bring(filled, BOB, b"new\r\n")
    bring(filled, ALICE, LARGE + b"2")
    do(filled, "delete", target=CAROL)
    said = back_up(filled, kept)
    counts = {name: said[name] for name in ("copied", "kept", "gone", "messages", "mailboxes", "copied_octets")}
    assert counts == {
        "copied": 2,
        "kept": 6,
        "gone": 5,
        "messages": 8,
        "mailboxes": 2,
        "copied_octets": 5 + len(LARGE) + 1,
    }
    after = files(kept / "blobs")
    assert {name: after[name] for name in before} == before
    assert len(after) == 2
    again = back_up(filled, kept)
    assert (again["copied"], again["kept"], again["gone"]) == (0, 8, 0)


def test_a_message_to_many_has_one_body_and_is_read_once(home: Home, tmp_path: Path) -> None:
    from winpop.store.blobs import Content
    from winpop.store.delivery import deliver
    from winpop.terms.names import Address

    database = Sqlite(home)
    with database.write() as transaction:
        everybody = [Address.parse(name) for name in (ALICE, BOB, CAROL)]
        deliver(transaction, everybody, Content(5, b"hello", None), b"prefix", plain=True)
    database.close()
    said = back_up(home, tmp_path / "kept")
    assert (said["copied"], said["copied_octets"]) == (3, 5)
    do(Home(tmp_path / "new"), "restore", directory=str(tmp_path / "kept"))
    database = Sqlite(Home(tmp_path / "new"))
    assert database.number("SELECT count(*) FROM message") == 3
    assert database.number("SELECT count(*) FROM body") == 1
    database.close()


def test_a_domain_or_a_mailbox_alone(filled: Home, tmp_path: Path) -> None:
    said = back_up(filled, tmp_path / "domain", target="example.com")
    assert (said["domains"], said["mailboxes"], said["messages"]) == (1, 2, 6)
    said = back_up(filled, tmp_path / "mailbox", target=CAROL)
    assert (said["domains"], said["mailboxes"], said["messages"]) == (1, 1, 5)
    assert refused(filled, "backup", directory=str(tmp_path / "x"), target="none.example").code == "no-such-domain"
    code = refused(filled, "backup", directory=str(tmp_path / "x"), target="none@example.com").code
    assert code == "no-such-mailbox"
    assert not (tmp_path / "x").exists()


def test_a_directory_belongs_to_one_installation_and_one_scope(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept, target="example.com")
    refusal = refused(filled, "backup", directory=str(kept))
    assert refusal.code == "other-backup"
    assert "the domain example.com" in refusal.sentence
    assert refused(filled, "backup", directory=str(kept), target=ALICE).code == "other-backup"
    other = Home(tmp_path / "other")
    do(other, "add", target="example.com")
    assert refused(other, "backup", directory=str(kept), target="example.com").code == "other-backup"


def test_directories_that_are_not_fit(filled: Home, tmp_path: Path) -> None:
    def code(directory: Path) -> str:
        return refused(filled, "backup", directory=str(directory)).code

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("x")
    assert code(tmp_path / "full") == "not-a-backup"
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert code(tmp_path / "open") == "unsafe-backup"
    assert code(filled.path) == "backup-inside"
    assert code(filled.mail) == "backup-inside"
    assert code(filled.mail / "deep") == "backup-inside"
    (tmp_path / "file").write_text("x")
    assert code(tmp_path / "file") == "backup-unusable"
    assert code(tmp_path / "file" / "below") == "backup-unusable"
    (tmp_path / "garbage").mkdir(mode=0o700)
    (tmp_path / "garbage" / backup_format.NAME).write_bytes(b"x" * 5000)
    assert code(tmp_path / "garbage") == "not-a-backup"
    (tmp_path / "database").mkdir(mode=0o700)
    connection = sqlite3.connect(tmp_path / "database" / backup_format.NAME)
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    assert code(tmp_path / "database") == "not-a-backup"
    (tmp_path / "taken").mkdir(mode=0o700)
    (tmp_path / "taken" / backup_format.NAME).mkdir()
    assert code(tmp_path / "taken") == "not-a-backup"
    assert (tmp_path / "full" / "something").read_text() == "x"
    with pytest.raises(Refusal) as caught:
        invoked(filled, "backup", {"directory": "nul\0"})
    assert caught.value.code == "bad-path"


def test_a_backup_of_a_newer_winpop_is_left_alone(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    connection = sqlite3.connect(kept / backup_format.NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert refused(filled, "backup", directory=str(kept)).code == "backup-newer"
    assert refused(filled, "restore", directory=str(kept)).code == "backup-newer"


def test_two_at_once_are_refused_and_a_restore_waits_too(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    said = back_up(filled, kept)
    database = Sqlite(filled)
    name = str(database.all("SELECT name FROM installation")[0][0])
    database.close()
    with backup_opening.opened(kept, make=(name, "")):
        assert refused(filled, "backup", directory=str(kept)).code == "backup-running"
        assert refused(filled, "restore", directory=str(kept)).code == "backup-running"
    with backup_opening.opened(kept):
        assert refused(filled, "backup", directory=str(kept)).code == "backup-running"
        assert do(filled, "restore", directory=str(kept)).data["kept"] == said["messages"]
    assert back_up(filled, kept)["copied"] == 0


def test_keep_removes_old_snapshots_and_what_only_they_have(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    do(filled, "delete", target=ALICE)
    back_up(filled, kept)
    assert len(files(kept / "blobs")) == 1
    assert back_up(filled, kept, keep="2")["removed_snapshots"] == 1
    assert files(kept / "blobs") == {}
    connection = sqlite3.connect(kept / backup_format.NAME)
    assert connection.execute("SELECT count(*) FROM body").fetchone() == (5,)
    assert connection.execute("SELECT count(*) FROM message").fetchone() == (5,)
    assert connection.execute("SELECT count(*) FROM mailbox").fetchone() == (2,)
    connection.close()
    assert [len(do(filled, "restore", directory=str(kept), list="").data["snapshots"])] == [2]
    for wrong in ("0", "-1", "x", "10001", ""):
        with pytest.raises(Refusal) as caught:
            invoked(filled, "backup", {"directory": str(kept), "keep": wrong})
        assert caught.value.code == "bad-number"


def test_damaged_messages_are_named_and_the_rest_is_backed_up(filled: Home, tmp_path: Path) -> None:
    database = Sqlite(filled)
    blobs = Blobs(filled.mail)
    bring(filled, BOB, LARGE + b"cut")
    bring(filled, BOB, LARGE + b"turned")
    names = [str(row[0]) for row in database.all("SELECT blob FROM body WHERE blob IS NOT NULL ORDER BY id")]
    with database.write() as transaction:
        transaction.run("UPDATE body SET content = randomblob(size) WHERE id = 1")
    blobs.path(names[0]).unlink()
    os.truncate(blobs.path(names[1]), 5)
    with blobs.path(names[2]).open("r+b") as file:
        file.write(b"x")
    outcome = do(filled, "backup", directory=str(tmp_path / "kept"))
    assert not outcome.complete
    assert outcome.data["messages"] == 9
    assert [(each["mailbox"], each["why"]) for each in outcome.data["damaged"]] == [
        (ALICE, "the checksum is wrong"),
        (ALICE, "its file is missing"),
        (BOB, f"the blob has 5 octets, not {len(LARGE) + 3}"),
        (BOB, "the checksum is wrong"),
    ]
    unique_id = database.all("SELECT unique_id FROM message WHERE body_id = 1")[0][0]
    assert outcome.data["damaged"][0]["unique_id"] == unique_id
    database.close()
    again = do(filled, "backup", directory=str(tmp_path / "kept"))
    assert len(again.data["damaged"]) == 4  # named for as long as they are
    assert not any((tmp_path / "kept" / "blobs" / "tmp").iterdir())


def test_messages_from_before_there_were_checksums(filled: Home, tmp_path: Path) -> None:
    database = Sqlite(filled)
    with database.write() as transaction:
        transaction.run("UPDATE body SET checksum = NULL")
    database.close()
    assert back_up(filled, tmp_path / "kept")["copied"] == 11
    new = Home(tmp_path / "new")
    do(new, "restore", directory=str(tmp_path / "kept"))
    assert look_inside(new) == look_inside(filled)


def test_what_the_backup_lost_is_copied_again(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    (blob,) = (path for path in (kept / "blobs").rglob("*") if path.is_file())
    blob.unlink()
    said = back_up(filled, kept)
    assert (said["copied"], said["lost"]) == (1, 0)
    do(Home(tmp_path / "new"), "restore", directory=str(kept))
    assert look_inside(Home(tmp_path / "new")) == look_inside(filled)
    do(filled, "delete", target=ALICE)
    (blob,) = (path for path in (kept / "blobs").rglob("*") if path.is_file())
    os.truncate(blob, 5)
    outcome = do(filled, "backup", directory=str(kept))
    assert outcome.data["lost"] == 1
    assert "has lost 1 message" in outcome.notes[0]


def test_a_message_that_is_expunged_meanwhile_is_no_damage(
    filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from winpop.store.backup_copying import Copier

    copy = Copier._copy

    def expunged(self: Copier, message: int, identifier: int, body: int) -> int:
        if identifier % 3 == 0:
            database = Sqlite(filled)
            with database.write() as transaction:
                transaction.run("DELETE FROM message WHERE id = ?", identifier)
            database.close()
        return copy(self, message, identifier, body)

    monkeypatch.setattr(Copier, "_copy", expunged)
    outcome = do(filled, "backup", directory=str(tmp_path / "kept"))
    assert outcome.complete
    assert outcome.data["messages"] == 8
    do(Home(tmp_path / "new"), "restore", directory=str(tmp_path / "kept"))
    assert look_inside(Home(tmp_path / "new")) == look_inside(filled)


def test_on_the_command_line(filled: Home, tmp_path: Path) -> None:
    result = winpop(filled, "backup", str(tmp_path / "kept"), "/keep", "3")
    assert (result.status, result.err) == (0, "")
    assert "11 messages in 3 mailboxes" in result.out
    document = winpop(filled, "--json", "backup", str(tmp_path / "kept"), "--keep=3").document
    assert document["kept"] == 11
    result = winpop(filled, "restore", str(tmp_path / "kept"), "/list")
    assert result.out.splitlines()[0].split() == ["TIME", "SCOPE", "DOMAINS", "MAILBOXES", "MESSAGES", "OCTETS"]
    assert len(result.out.splitlines()) == 3
    new = Home(tmp_path / "new")
    assert winpop(new, "restore", str(tmp_path / "nothing")).status == 1
    assert not new.path.exists()
    result = winpop(new, "restore", str(tmp_path / "kept"), "/at", document["snapshot"])
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("Restored the whole server as of " + document["snapshot"])
    assert winpop(new, "backup").status == 2


def corrupt(home: Home, sql: str, *values: object) -> None:
    """Change rows behind the store's back."""
    connection = sqlite3.connect(home.database)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(sql, values)
    connection.commit()
    connection.close()


def break_page(home: Home, holding: bytes) -> None:
    """Overwrite the page of the database that holds these octets."""
    connection = sqlite3.connect(home.database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    octets = bytearray(home.database.read_bytes())
    page = octets.index(holding) // size
    octets[page * size : (page + 1) * size] = b"\xee" * size
    home.database.write_bytes(octets)


@pytest.fixture
def spread(home: Home) -> Home:
    """A home with so much mail that its bodies lie in many pages."""
    for n in range(40):
        bring(home, ALICE, b"%03d:" % n + b"x" * 1500)
    return home


def test_a_damaged_page_costs_only_its_messages(spread: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    break_page(spread, b"017:xxx")
    outcome = do(spread, "backup", directory=str(kept))
    lost = len(outcome.data["damaged"])
    assert 1 <= lost <= 3
    assert (outcome.complete, outcome.data["messages"]) == (False, 40 - lost)
    assert {each["mailbox"] for each in outcome.data["damaged"]} == {ALICE}
    new = Home(tmp_path / "new")
    assert do(new, "restore", directory=str(kept)).data["messages"] == 40 - lost


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE body SET size = 'x' WHERE id = 3",
        "UPDATE body SET blob = CAST(x'ff' AS TEXT), content = NULL WHERE id = 3",
        "UPDATE message SET prefix = CAST(x'ff' AS TEXT) WHERE id = 3",
        "DELETE FROM body WHERE id = 3",
    ],
)
def test_a_row_that_makes_no_sense_costs_only_its_message(home: Home, tmp_path: Path, sql: str) -> None:
    for n in range(5):
        bring(home, ALICE, b"small %d\r\n" % n)
    corrupt(home, "UPDATE sqlite_master SET sql = replace(sql, 'STRICT', '') WHERE name IN ('body', 'message')")
    corrupt(home, sql)
    corrupt(
        home, "UPDATE sqlite_master SET sql = sql || ' STRICT' WHERE name IN ('body', 'message') AND type = 'table'"
    )
    outcome = do(home, "backup", directory=str(tmp_path / "kept"))
    assert (outcome.complete, outcome.data["messages"], len(outcome.data["damaged"])) == (False, 4, 1)


def test_a_damaged_password_hash_stops_no_backup(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    corrupt(filled, "UPDATE password SET hash = CAST(x'ff' AS TEXT) WHERE mailbox_id = 2")
    outcome = do(filled, "backup", directory=str(kept))
    assert not outcome.complete
    assert outcome.data["messages"] == 11
    (named,) = outcome.data["without_password"]
    new = Home(tmp_path / "new")
    restored = do(new, "restore", directory=str(kept))
    assert restored.data["without_password"] == [named]
    assert "changepwd" in restored.notes[-1]
    assert look_inside(new).mail == look_inside(filled).mail


def test_an_emptied_database_beside_mail_is_refused_and_nothing_is_removed(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    (kept / backup_format.NAME).write_bytes(b"")
    before = files(kept / "blobs")
    for word in ("backup", "restore"):
        assert refused(filled, word, directory=str(kept)).code == "backup-damaged"
    assert files(kept / "blobs") == before


def damage(kept: Path) -> None:
    """Change one octet of a large body and one of a small one in a backup."""
    (blob,) = (path for path in (kept / "blobs").rglob("*") if path.is_file())
    with blob.open("r+b") as file:
        file.seek(100)
        file.write(b"!")
    connection = sqlite3.connect(kept / backup_format.NAME)
    connection.execute(
        "UPDATE body SET content = randomblob(size) WHERE id = (SELECT min(id) FROM body WHERE content > 0)"
    )
    connection.commit()
    connection.close()


def test_verify_finds_what_the_disk_has_changed_and_copies_it_again(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    damage(kept)
    outcome = do(filled, "backup", directory=str(kept), verify="")
    assert outcome.complete
    assert (outcome.data["verified"], outcome.data["copied"]) == (11, 2)
    do(Home(tmp_path / "new"), "restore", directory=str(kept))
    assert look_inside(Home(tmp_path / "new")) == look_inside(filled)
    damage(kept)
    do(filled, "delete", target=ALICE)
    do(filled, "delete", target=CAROL)
    outcome = do(filled, "backup", directory=str(kept), verify="")
    assert not outcome.complete
    assert outcome.data["lost"] == len(outcome.data["damaged_in_backup"]) == 2
    assert outcome.table is not None
    assert len(outcome.table.rows) == 2


def test_thirty_runs_look_at_every_body(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    damage(kept)
    said = [back_up(filled, kept) for _ in range(30)]
    assert sum(int(str(each["verified"])) for each in said) >= 11
    assert sum(int(str(each["copied"])) for each in said) == 2
    assert back_up(filled, kept, verify="")["copied"] == 0


def test_directories_in_a_backup_that_are_missing_or_too_many(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "lost+found").mkdir(parents=True, mode=0o700)
    kept.chmod(0o700)
    back_up(filled, kept)
    empty = next(path for path in (kept / "blobs").iterdir() if path.name != "tmp" and not any(path.iterdir()))
    empty.rmdir()
    (kept / "blobs" / "tmp" / "something").mkdir()
    back_up(filled, kept)
    assert empty.is_dir()
    empty.rmdir()
    empty.write_text("x")
    assert str(empty) in refused(filled, "backup", directory=str(kept)).sentence


def test_a_disk_that_is_mounted_read_only(filled: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    back_up(filled, kept)
    error = OSError(errno.EROFS, "Read-only file system", str(kept))
    assert "mounted read-only" in backup_format.unusable(kept, error).sentence
