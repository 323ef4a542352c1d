"""`winpop check`: everything that can be wrong with a store is found and named, and a repair touches no body."""

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admin.doing import audited, do
from running import asked, done, winpop
from winpop.admin import check_report
from winpop.admin.outcomes import Outcome
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes
from winpop.store.blobs import SMALL, Blobs, Draft
from winpop.store.delivery import deliver
from winpop.store.inspection import Inspection, files, identifiers, rows
from winpop.store.inspection import bodies as body_inspection
from winpop.store.inspection.octets import Octets
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal

ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"
SMALL_BODY = b"Subject: small\r\n\r\n" + b"a line of a small message\r\n" * 40
LARGE_BODY = b"Subject: large\r\n\r\n" + b"a line of a large message, again and again\r\n" * 4000
PREFIX = b"Return-Path: <sender@elsewhere.example>\r\n"
OLD = time.time() - 40 * 3600
assert len(LARGE_BODY) > SMALL


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files as the tool makes them, and no long wait for what is discarded."""
    monkeypatch.setattr(files, "DISCARDED_WAIT", 0.3)
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def filled(home: Home, private: None) -> Home:  # noqa: ARG001 - the umask comes first
    """Alice: small, large, small; Bob: large, and with Carol one in common, large."""
    brought(home, [ALICE], SMALL_BODY)
    brought(home, [ALICE], LARGE_BODY)
    brought(home, [ALICE], SMALL_BODY.replace(b"small", b"third"))
    brought(home, [BOB], LARGE_BODY.replace(b"large", b"bob's"))
    brought(home, [BOB, CAROL], LARGE_BODY.replace(b"large", b"joint"))
    return home


def brought(home: Home, recipients: list[str], octets: bytes, *, plain: bool = True) -> None:
    """Deliver a message, with a prefix."""
    blobs = Blobs(home.mail)
    blobs.make()
    draft = Draft(blobs)
    draft.write(octets)
    content = draft.finish()
    database = Sqlite(home)
    with database.write() as transaction:
        deliver(transaction, [Address.parse(one) for one in recipients], content, PREFIX, plain=plain)
    database.close()


def change(home: Home, sql: str, *parameters: object) -> None:
    """Do to the database what nothing of ours would do."""
    with closing(sqlite3.connect(home.database)) as connection:
        connection.execute(sql, parameters)
        connection.commit()


def blob_of(home: Home, body: int) -> Path:
    with closing(sqlite3.connect(home.database)) as connection:
        (name,) = connection.execute("SELECT blob FROM body WHERE id = ?", (body,)).fetchone()
    return Blobs(home.mail).path(name)


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        octet = file.read(1)[0]
        file.seek(place)
        file.write(bytes([octet ^ 1]))


def found(home: Home) -> list[tuple[str, str]]:
    """Check; return what is said of each finding: its code and where."""
    outcome = do(home, "check")
    assert not outcome.changed
    return pairs(outcome)


def pairs(outcome: Outcome) -> list[tuple[str, str]]:
    """Return code and place of each finding: mailbox and number of a message, or the name of a file or row."""
    findings = outcome.data["findings"]
    assert outcome.complete == all(one["repaired"] for one in findings)
    assert outcome.table is not None
    assert len(outcome.table.rows) == len(findings)
    assert all(text.isprintable() for row in outcome.table.rows for text in map(str, row))
    return [
        (one["kind"], f"{one['mailbox']} {one['number'] or '-'}" if one["mailbox"] else one["where"])
        for one in findings
    ]


def mended(home: Home, *kinds: str) -> None:
    """Repair; all that was found is of these kinds and mended, no body is touched, and nothing is found afterwards."""
    before = bodies(home)
    outcome = do(home, "check", repair="")
    assert [one["kind"] for one in outcome.data["findings"]] == list(kinds)
    assert outcome.complete
    assert outcome.changed == bool(kinds)
    assert bodies(home) == before
    assert found(home) == []
    if kinds:
        assert {row[1].partition(":")[0] for row in audited(home) if row[0] == "check"} >= set(kinds)


def left(home: Home, *kinds: str) -> None:
    """Repair; what was found is of these kinds and is still there."""
    before = bodies(home)
    outcome = do(home, "check", repair="")
    assert sorted(one["kind"] for one in outcome.data["findings"]) == sorted(kinds)
    assert not any(one["repaired"] for one in outcome.data["findings"])
    assert not outcome.complete
    assert bodies(home) == before


def bodies(home: Home) -> dict[str, str]:
    """Return a digest of each file of the mail root and each body in the database."""
    files = {str(path): path.read_bytes() for path in home.mail.rglob("*") if path.is_file()}
    with closing(sqlite3.connect(home.database)) as connection:
        rows = dict(connection.execute("SELECT 'body ' || id, content FROM body WHERE content IS NOT NULL"))
    return {name: hashlib.sha256(octets).hexdigest() for name, octets in (files | rows).items()}


def test_a_store_that_is_in_order(filled: Home) -> None:
    outcome = do(filled, "check")
    assert outcome.complete
    assert outcome.data["findings"] == []
    assert outcome.sentence.startswith("6 messages and ")
    assert outcome.sentence.endswith(" octets read: everything is in order.")
    assert outcome.data["read"]["messages"] == 6
    assert outcome.data["read"]["bodies"] == 5
    assert outcome.data["read"]["blobs"] == 3
    assert [row for row in audited(filled) if row[0] == "check"] == []  # a look changes nothing, not even the audit
    mended(filled)


def test_a_home_without_mail_root_and_mail_is_in_order(home: Home) -> None:
    assert not home.mail.exists()
    mended(home)


# --- octets ---


def test_one_octet_of_a_large_body(filled: Home) -> None:
    flip(blob_of(filled, 2), 100_000)
    assert found(filled) == [("damaged", f"{ALICE} 2")]
    assert "winpop restore DIR USER@DOMAIN" in do(filled, "check").data["findings"][0]["finding"]
    left(filled, "damaged")


def test_a_body_of_two_is_named_with_both(filled: Home) -> None:
    flip(blob_of(filled, 5), 0)
    assert found(filled) == [("damaged", f"{BOB} 2"), ("damaged", f"{CAROL} 1")]


def test_one_octet_of_a_small_body_in_the_database(filled: Home) -> None:
    place = filled.database.read_bytes().index(b"third message\r\n")
    flip(filled.database, place)
    assert found(filled) == [("damaged", f"{ALICE} 3")]
    left(filled, "damaged")


def test_one_octet_of_a_prefix(filled: Home) -> None:
    change(filled, "UPDATE message SET prefix = ? WHERE id = 6", PREFIX.replace(b"sender", b"fender"))
    assert found(filled) == [("damaged", f"{CAROL} 1")]


def test_a_body_that_was_cut_or_grew(filled: Home) -> None:
    os.truncate(blob_of(filled, 2), 1000)
    with blob_of(filled, 4).open("ab") as file:
        file.write(b"more\r\n")
    assert found(filled) == [("damaged", f"{ALICE} 2"), ("damaged", f"{BOB} 1")]
    left(filled, "damaged", "damaged")


@pytest.mark.parametrize("instead", ["nothing", "directory", "link", "pipe"])
def test_a_body_that_is_gone(filled: Home, instead: str) -> None:
    path = blob_of(filled, 5)
    path.rename(filled.path.parent / "elsewhere")
    match instead:
        case "directory":
            path.mkdir(0o700)
        case "link":
            path.symlink_to(filled.path.parent / "elsewhere")
        case "pipe":
            os.mkfifo(path)
    missing = [("body-missing", f"{BOB} 2"), ("body-missing", f"{CAROL} 1")]
    assert found(filled) == [*([] if instead == "nothing" else [("foreign-file", str(path))]), *missing]


def test_names_of_files_are_never_paths(filled: Home, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(LARGE_BODY)
    change(filled, "UPDATE body SET blob = ? WHERE id = 2", f"../../{tmp_path.name}/outside")
    assert ("body-missing", f"{ALICE} 2") in found(filled)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_octet_of_any_message_is_found_and_named(filled: Home, data: st.DataObject) -> None:
    number, where = data.draw(st.sampled_from([(1, "body"), (2, "body"), (3, "body"), (1, "prefix"), (2, "prefix")]))
    bit = 1 << data.draw(st.integers(0, 7))
    column = "content" if where == "body" else "prefix"
    if where == "body" and number == 2:
        path = blob_of(filled, 2)
        before = path.read_bytes()
        place = data.draw(st.integers(0, len(before) - 1))
        path.write_bytes(before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :])
    else:
        # In the file of the database, at the place where these octets are: nothing of SQLite's is in between.
        with closing(sqlite3.connect(filled.database)) as connection:
            table = "body" if column == "content" else "message"
            (octets,) = connection.execute(f"SELECT {column} FROM {table} WHERE id = ?", (number,)).fetchone()
        path, before = filled.database, filled.database.read_bytes()
        starts = [n for n in range(len(before)) if before.startswith(octets, n)]
        place = starts[-number if where == "prefix" else 0] + data.draw(st.integers(0, len(octets) - 1))
        flip_bit = before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :]
        path.write_bytes(flip_bit)
    named = found(filled)
    path.write_bytes(before)
    if where == "body":
        assert named == [("damaged", f"{ALICE} {number}")]
    else:
        assert len(named) == 1
        assert named[0][0] == "damaged"
    assert found(filled) == []


# --- rows ---


def test_sizes(filled: Home) -> None:
    change(filled, "UPDATE body SET size = size + 1 WHERE id IN (1, 2)")
    change(filled, "UPDATE message SET size = 7 WHERE id = 3")
    assert found(filled) == [("body-size", f"{ALICE} 1"), ("body-size", f"{ALICE} 2"), ("message-size", f"{ALICE} 3")]
    mended(filled, "body-size", "body-size", "message-size")


def test_a_size_that_nothing_proves_is_left(filled: Home) -> None:
    change(filled, "UPDATE body SET size = size + 1, checksum = NULL WHERE id = 2")
    left(filled, "body-size")
    assert do(filled, "check").data["without_checksum"] == 0  # it is not one to be taken as it is


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("line", [b".", b".x\r\n"])
def test_a_line_with_a_dot_that_the_row_denies(home: Home, line: bytes, *, large: bool) -> None:
    text = LARGE_BODY if large else SMALL_BODY
    brought(home, [ALICE], line + b"\r\n" + text)
    brought(home, [ALICE], text + line)
    brought(home, [ALICE], text + line, plain=False)
    brought(home, [ALICE], text, plain=False)  # nothing is promised
    assert found(home) == [("plain-flag", f"{ALICE} 1"), ("plain-flag", f"{ALICE} 2")]
    mended(home, "plain-flag", "plain-flag")


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"\r\n."]), max_size=12))
def test_what_is_told_of_octets_does_not_depend_on_cuts(pieces: list[bytes]) -> None:
    cut, whole = Octets(), Octets()
    text = b"".join(pieces)
    for piece in pieces:
        cut.feed(piece)
    whole.feed(text)
    assert cut.dotted == whole.dotted == (b"\r\n." in b"\r\n" + text)
    left_over = text.replace(b"\r\n", b"")
    assert cut.bare == whole.bare == (b"\r" in left_over or b"\n" in left_over)
    assert cut.size == len(text)
    assert cut.checksum(b"x") == hashlib.sha256(text + b"x").digest()


@pytest.mark.parametrize("bare", [b"x\ny\r\n", b"x\ry\r\n", b"x\n\ry\r\n"])
def test_bare_line_ends(home: Home, bare: bytes) -> None:
    brought(home, [ALICE], SMALL_BODY + bare)
    brought(home, [BOB], LARGE_BODY + bare)
    assert found(home) == [("bare-newline", f"{ALICE} 1"), ("bare-newline", f"{BOB} 1")]
    left(home, "bare-newline", "bare-newline")


def test_bodies_from_before_there_were_checksums(filled: Home) -> None:
    change(filled, "UPDATE body SET checksum = NULL")
    outcome = do(filled, "check")
    assert outcome.complete
    assert outcome.data["without_checksum"] == 5
    assert any("/repair takes those as they are" in note for note in outcome.notes)
    before = bodies(filled)
    outcome = do(filled, "check", repair="")
    assert outcome.complete
    assert outcome.changed
    assert outcome.data["checksums_taken"] == 5
    assert any("they were taken as they are" in note for note in outcome.notes)
    assert bodies(filled) == before
    assert do(filled, "check").data["without_checksum"] == 0
    flip(blob_of(filled, 5), 9)
    assert found(filled) == [("damaged", f"{BOB} 2"), ("damaged", f"{CAROL} 1")]


def test_a_flag_is_mended_before_there_is_a_checksum_too(home: Home) -> None:
    brought(home, [ALICE], SMALL_BODY + b".\r\n")
    change(home, "UPDATE body SET checksum = NULL")
    mended(home, "plain-flag")


def test_messages_of_a_body_that_differ_get_no_checksum(filled: Home) -> None:
    change(filled, "UPDATE body SET checksum = NULL WHERE id = 5")
    change(filled, "UPDATE message SET prefix = CAST('x' AS BLOB), size = size - 40 WHERE id = 6")
    outcome = do(filled, "check", repair="")
    assert outcome.data["without_checksum"] == 1
    assert not outcome.changed


def test_unique_ids(filled: Home) -> None:
    change(filled, "UPDATE message SET unique_id = ? WHERE id = 1", "two words\x1b[2J")
    change(filled, "UPDATE message SET unique_id = 'same' WHERE id IN (2, 3, 4)")
    change(filled, "UPDATE message SET unique_id = ? WHERE id = 5", "x" * 71)
    change(filled, "UPDATE message SET unique_id = CAST(x'ff00' AS TEXT) WHERE id = 6")
    assert found(filled) == [
        ("unique-id-bad", f"{ALICE} 1"),
        ("unique-id-twice", f"{ALICE} 3"),  # the same in another mailbox is no matter
        ("unique-id-bad", f"{BOB} 2"),
        ("unique-id-bad", f"{CAROL} 1"),
    ]
    mended(filled, "unique-id-bad", "unique-id-twice", "unique-id-bad", "unique-id-bad")
    with closing(sqlite3.connect(filled.database)) as connection:
        now = [row[0] for row in connection.execute("SELECT unique_id FROM message ORDER BY id")]
    assert now[1] == now[3] == "same"
    assert len(set(now)) == 5


def test_unique_ids_are_compared_in_parts_of_bounded_size(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "_IDS_AT_ONCE", 1)
    monkeypatch.setattr(rows, "_ROWS", 2)
    change(filled, "UPDATE message SET unique_id = 'same' WHERE id IN (1, 3)")
    change(filled, "UPDATE message SET unique_id = '' WHERE id = 2")
    assert found(filled) == [("unique-id-bad", f"{ALICE} 2"), ("unique-id-twice", f"{ALICE} 3")]


@pytest.mark.parametrize(
    "sql", ["UPDATE sqlite_sequence SET seq = 1 WHERE name = ?", "DELETE FROM sqlite_sequence WHERE name = ?"]
)
def test_counters_that_would_give_an_identifier_twice(filled: Home, sql: str) -> None:
    change(filled, sql, "message")
    change(filled, sql, "body")
    assert found(filled) == [("sequence", "table body"), ("sequence", "table message")]
    mended(filled, "sequence", "sequence")
    change(filled, "DELETE FROM message WHERE id = 6")
    brought(filled, [CAROL], SMALL_BODY)
    database = Sqlite(filled)
    assert database.number("SELECT max(id) FROM message") == 7
    database.close()


def test_bodies_without_messages_and_messages_without_bodies(filled: Home) -> None:
    change(filled, "DELETE FROM message WHERE body_id = 1")
    change(filled, "DELETE FROM body WHERE id = 5")
    path = next(path for path in filled.mail.rglob("*") if path.is_file() and b"joint" in path.read_bytes()[:100])
    assert found(filled) == [("body-unnamed", "body 1"), ("body-missing", f"{BOB} 2"), ("body-missing", f"{CAROL} 1")]
    assert do(filled, "check").data["under_way"] == 1
    os.utime(path, (OLD, OLD))
    assert found(filled)[0] == ("blob-unnamed", str(path))
    left(filled, "body-unnamed", "body-missing", "body-missing", "blob-unnamed")


def test_rows_that_refer_to_nothing(filled: Home) -> None:
    change(filled, "DELETE FROM mailbox WHERE id = 3")
    assert ("foreign-key", "message row 6") in found(filled)
    assert ("foreign-key", "password row 3") in found(filled)


def test_settings_names_and_passwords(filled: Home) -> None:
    change(filled, "INSERT INTO setting (name, value) VALUES ('autologout', 'soon'), ('unknown', 'x')")
    change(filled, "UPDATE password SET hash = 'plain text' WHERE mailbox_id = 1")
    change(filled, "DELETE FROM password WHERE mailbox_id = 2")
    change(filled, "UPDATE mailbox SET name = 'ca\x1brol' WHERE id = 3")
    assert found(filled) == [
        ("setting", "setting autologout"),
        ("password", ALICE),
        ("password", BOB),
        ("name", "ca\\x1brol@other.example"),
    ]
    left(filled, "setting", "password", "password", "name")


# --- files ---


def test_files_that_nothing_names(filled: Home) -> None:
    root = filled.mail
    names = [f"{n:032x}" for n in range(4)]
    for name in names[:2]:
        (root / "00" / name).write_bytes(b"x")
    for name in names[2:]:
        (root / "tmp" / name).write_bytes(b"x")
    os.utime(root / "00" / names[1], (OLD, OLD))
    os.utime(root / "tmp" / names[3], (OLD, OLD))
    (root / "notes.txt").write_bytes(b"mine")
    (root / "00" / ("f" * 32)).write_bytes(b"in the wrong place")
    (root / "01" / "directory").mkdir(0o700)
    assert sorted(found(filled)) == [
        ("blob-unnamed", str(root / "00" / names[1])),
        ("foreign-file", str(root / "00" / ("f" * 32))),
        ("foreign-file", str(root / "01" / "directory")),
        ("foreign-file", str(root / "notes.txt")),
        ("unfinished", str(root / "tmp" / names[3])),
    ]
    assert do(filled, "check").data["under_way"] == 2
    left(filled, "blob-unnamed", "foreign-file", "foreign-file", "foreign-file", "unfinished")


def test_discarded_files(filled: Home) -> None:
    waits, gone = f"{1:032x}", f"{2:032x}"
    (filled.mail / "00" / waits).write_bytes(b"x")
    os.utime(filled.mail / "00" / waits, (OLD, OLD))
    change(filled, "INSERT INTO discarded_blob (name) VALUES (?), (?)", waits, gone)
    assert found(filled) == [
        ("discarded-file", str(filled.mail / "00" / waits)),
        ("discarded-row", f"discarded file {gone}"),
    ]
    assert not do(filled, "check", repair="").complete
    assert found(filled) == [("discarded-file", str(filled.mail / "00" / waits))]


def test_a_missing_directory_of_the_mail_root(filled: Home) -> None:
    empty = next(path for path in filled.mail.iterdir() if path.name != "tmp" and not any(path.iterdir()))
    empty.rmdir()
    assert found(filled) == [("directory-missing", str(empty))]
    mended(filled, "directory-missing")


@pytest.mark.parametrize("instead", ["nothing", "file"])
def test_a_mail_root_that_is_away(filled: Home, instead: str) -> None:
    filled.mail.rename(filled.path.parent / "away")
    if instead == "file":
        filled.mail.write_bytes(b"")
    change(filled, "INSERT INTO discarded_blob (name) VALUES (?)", f"{1:032x}")
    assert found(filled)[0] == ("mail-root", str(filled.mail))
    assert {where for _, where in found(filled)} >= {f"{ALICE} 2", f"{BOB} 1", f"{BOB} 2", f"{CAROL} 1"}
    assert not do(filled, "check", repair="").changed  # what is noted to be removed is still noted when it is back
    if instead == "file":
        filled.mail.unlink()
    (filled.path.parent / "away").rename(filled.mail)
    assert found(filled) == [("discarded-row", f"discarded file {1:032x}")]


@pytest.mark.skipif(os.name != "posix", reason="there are no such modes")
def test_permissions(filled: Home) -> None:
    (filled.path / "leases").touch()
    opened = [
        filled.database,
        filled.path / "leases",
        filled.mail,
        filled.mail / "00",
        filled.mail / "tmp",
        blob_of(filled, 2),
    ]
    filled.path.chmod(0o755)
    for path in opened:
        path.chmod(path.stat().st_mode | 0o044)
    wanted = {str(filled.path), *map(str, opened)}
    assert {where for kind, where in found(filled) if kind == "permissions"} >= wanted
    outcome = do(filled, "check", repair="")
    assert outcome.complete
    assert found(filled) == []
    assert filled.path.stat().st_mode & 0o777 == 0o750
    assert all(path.stat().st_mode & 0o077 == 0 for path in opened)


@pytest.mark.skipif(
    os.name != "posix" or (os.geteuid() != 0 and not os.environ.get("CI")), reason="only root can give files away"
)
def test_owners(filled: Home) -> None:
    for path in (blob_of(filled, 2), filled.mail / "00"):
        os.chown(path, 12345, -1)
    assert sorted(found(filled)) == sorted([("owner", str(filled.mail / "00")), ("owner", str(blob_of(filled, 2)))])
    mended(filled, "owner", "owner")


@pytest.mark.skipif(os.name != "posix", reason="there are no such modes")
@pytest.mark.parametrize("which", ["root", "directory"])
def test_what_is_behind_a_directory_is_read_once_that_is_mended(
    filled: Home, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    def unreadable(path: Path | str) -> bool:
        return not (Path(path).stat().st_mode & 0o400 and filled.mail.stat().st_mode & 0o400)

    def denying(real: Callable[[Path], object]) -> Callable[[Path], object]:
        def wrapped(path: Path, *rest: object) -> object:
            if unreadable(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *rest)

        return wrapped

    monkeypatch.setattr(os, "scandir", denying(os.scandir))  # root, who may run this, may read everything
    monkeypatch.setattr(Path, "iterdir", denying(Path.iterdir))
    closed = filled.mail if which == "root" else blob_of(filled, 2).parent
    closed.chmod(0)
    assert found(filled) == [("permissions", str(closed)), ("mail-root", str(closed))]
    outcome = do(filled, "check", repair="")
    assert pairs(outcome) == [("permissions", str(closed))]
    assert outcome.complete
    assert found(filled) == []


def test_what_cannot_be_mended_is_said_to_be_left(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", denied)
    os.chmod(filled.mail, 0o755)  # noqa: PTH101 - the other is what is denied
    left(filled, "permissions")


# --- the engine ---


def test_a_database_with_any_page_destroyed(filled: Home, tmp_path: Path) -> None:
    for n in range(30):  # more than one leaf to each table
        brought(filled, [ALICE, BOB, CAROL], SMALL_BODY * (1 + n % 3))
    whole = filled.database.read_bytes()
    refused, kinds, read = 0, set[str](), []
    for page in range(len(whole) // 4096):
        copy = Home(tmp_path / f"copy{page}")
        copy.path.mkdir(0o700)
        copy.mail.symlink_to(filled.mail)
        damaged = whole[: page * 4096] + os.urandom(4096) + whole[(page + 1) * 4096 :]
        copy.database.write_bytes(damaged)
        try:
            outcome = do(copy, "check", repair="")
        except Refusal as refusal:
            assert refusal.kind is Kind.OUT_OF_REACH  # noqa: PT017 - it may as well not be raised
            refused += 1
        else:
            kinds |= {kind for kind, _ in pairs(outcome)}
            assert not outcome.changed
            assert any("nothing was repaired" in note for note in outcome.notes) or outcome.complete
            named = [one["mailbox"] for one in outcome.data["findings"]]
            read.append((page, outcome.complete, outcome.data["read"]["messages"], len(named)))
        assert copy.database.read_bytes() == damaged
        shutil.rmtree(copy.path)
    assert refused < len(whole) // 4096 / 3
    assert kinds >= {"engine", "unreadable"}
    assert any(not complete and messages >= 90 for _, complete, messages, _ in read)


def test_a_database_that_is_none(filled: Home) -> None:
    filled.database.write_bytes(b"not a database" * 1000)
    result = winpop(filled.path, "check")
    assert result.returncode == 4
    assert result.stderr.endswith("[database-unreachable]\n")


# --- as a person and a script see it ---


def test_the_command(filled: Home) -> None:
    assert "everything is in order." in done(filled.path, "check")
    flip(blob_of(filled, 2), 0)
    change(filled, "UPDATE message SET size = 1 WHERE id = 1")
    result = winpop(filled.path, "check")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[0].endswith("2 findings.")
    assert lines[1].split() == ["WHAT", "WHERE", "FINDING"]
    assert lines[2].startswith(f"message-size  {ALICE} message 1 ")
    assert lines[3].startswith(f"damaged       {ALICE} message 2 ")
    result = winpop(filled.path, "check", "/repair")
    assert result.returncode == 1
    assert "2 findings, 1 repaired." in result.stdout
    assert "Repaired: It has " in result.stdout
    assert winpop(filled.path, "--json", "check", "--repair").returncode == 1
    flip(blob_of(filled, 2), 0)
    document = asked(filled.path, "check", "--repair")
    assert document["findings"] == []
    assert document["read"]["messages"] == 6


def test_what_is_shown_is_bounded_and_what_is_mended_is_not(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_report, "SHOWN", 2)
    monkeypatch.setattr(check_report, "_TOGETHER", 2)
    change(filled, "UPDATE message SET size = 1")
    outcome = do(filled, "check")
    assert outcome.data["counts"] == {"message-size": 6}
    assert len(outcome.data["findings"]) == 2
    assert outcome.data["more"] == 4
    assert outcome.notes[0] == "4 further findings not shown."
    outcome = do(filled, "check", repair="")
    assert outcome.data["repaired"] == {"message-size": 6}
    assert outcome.complete
    assert found(filled) == []


def test_a_flaw_that_is_gone_at_the_second_look_is_none(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is deleted between the look at its row and the look at its file."""
    read_octets = body_inspection.read_octets
    meanwhile: list[Callable[[], None]] = [lambda: removed(filled)]

    def removed(home: Home) -> None:
        path = blob_of(home, 2)
        change(home, "DELETE FROM message WHERE body_id = 2")
        change(home, "DELETE FROM body WHERE id = 2")
        path.unlink()

    def watched(inspection: Inspection, body: rows.Body, octets: Octets) -> tuple[str, str]:
        if body.id == 2:
            meanwhile.pop()()
        return read_octets(inspection, body, octets)

    monkeypatch.setattr(body_inspection, "read_octets", watched)
    assert found(filled) == []
    assert meanwhile == []


def test_mailboxes_are_still_named_after_the_password_is_mended(filled: Home) -> None:
    change(filled, "UPDATE password SET hash = 'x' WHERE mailbox_id = 1")
    database = Sqlite(filled)
    with database.write() as transaction:
        mailboxes.set_password(transaction, 1, "$argon2id$v=19$m=19456,t=2,p=1$WkFlG57QHUr9hFtGqj89Xw$" + "A" * 43)
    database.close()
    assert found(filled) == []


def test_a_mailbox_whose_rows_all_name_nonsense_is_no_endless_loop(filled: Home) -> None:
    with closing(sqlite3.connect(filled.database)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        table = "WHERE name = 'message' AND type = 'table'"
        strict = connection.execute(f"SELECT sql FROM sqlite_schema {table}").fetchone()[0]
        version = connection.execute("PRAGMA schema_version").fetchone()[0]
        for n, (sql, change) in enumerate(
            [(strict.removesuffix("STRICT"), "UPDATE message SET body_id = 'x'"), (strict, "")]
        ):
            connection.execute(f"UPDATE sqlite_schema SET sql = ? {table}", (sql,))
            connection.execute(f"PRAGMA schema_version = {version + 1 + n}")
            connection.commit()
            with closing(sqlite3.connect(filled.database)) as again:
                again.execute(change)
                again.commit()
    assert do(filled, "check").complete is False
