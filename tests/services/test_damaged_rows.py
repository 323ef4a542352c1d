"""Damaged rows and pages: the message or the user they belong to is told so, and nobody else notices."""

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from running import Service, asked, done
from services.test_defects import on_path
from services.wire import (
    ALICE,
    BOB,
    CAROL,
    HEADER,
    change,
    count,
    eventually,
    lock,
    logs_on,
    no_defect,
    pop3,
    refusal,
    smtp,
)
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store.blobs import PIECE, SMALL, Blobs, Draft
from winpop.store.delivery import deliver
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal

NOT_UTF_8 = "CAST(x'246172ff67' AS TEXT)"
PREFIX = b"Return-Path: <sender@elsewhere.example>\r\nX-Id: "
PERM, TEMP = b"-ERR [SYS/PERM] ", b"-ERR [SYS/TEMP] "


def text(name: str, size: int = 3000) -> bytes:
    """A body that fills most of a page, or a blob."""
    line = f"this is {name}\r\n".encode()
    return HEADER + line * (size // len(line))


def bring(home: Home, user: str, body: bytes, name: str) -> None:
    """Deliver a message as SMTP does: a prefix that no other has, and the promise about dots that is true."""
    blobs = Blobs(home.mail)
    blobs.make()
    draft = Draft(blobs)
    draft.write(body)
    database = Sqlite(home)
    plain = b"\n." not in body and not body.startswith(b".")
    prefix = PREFIX + name.encode() + b"\r\n"
    with database.write() as transaction:
        deliver(transaction, [Address.parse(user)], draft.finish(), prefix, plain=plain)
    database.close()


@pytest.fixture
def filled(home: Home) -> Home:
    """Alice has the messages 1, 2, 3 and Bob 4, all in rows."""
    for user, name in [(ALICE, "one"), (ALICE, "two"), (ALICE, "three"), (BOB, "four")]:
        bring(home, user, text(name), name)
    return home


def damage(home: Home, *statements: str, loose: str = "", stale: bool = False) -> None:
    """Do to rows what no program of ours would do.

    `loose` names a table that takes values of any type meanwhile; `stale` leaves the indexes of messages as they were.
    """
    with closing(sqlite3.connect(home.database)) as connection:
        strict = f"name = '{loose}' AND type = 'table'"
        indexes = "tbl_name = 'message' AND type = 'index' AND sql IS NOT NULL"
        sql = connection.execute(f"SELECT sql FROM sqlite_schema WHERE {strict}").fetchall()
        rows = connection.execute(f"SELECT * FROM sqlite_schema WHERE {indexes}").fetchall() if stale else []
        with schema_open(connection):
            for (text_of,) in sql:
                looser = text_of.removesuffix("STRICT")
                connection.execute(f"UPDATE sqlite_schema SET sql = ? WHERE {strict}", (looser,))
            if stale:
                connection.execute(f"DELETE FROM sqlite_schema WHERE {indexes}")
        with closing(sqlite3.connect(home.database)) as other:
            for statement in statements:
                other.execute(statement)
            other.commit()
        with schema_open(connection):
            for (text_of,) in sql:
                connection.execute(f"UPDATE sqlite_schema SET sql = ? WHERE {strict}", (text_of,))
            connection.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", rows)


@contextlib.contextmanager
def schema_open(connection: sqlite3.Connection) -> Iterator[None]:
    """Change the schema by hand, and let everybody read it anew."""
    version = connection.execute("PRAGMA schema_version").fetchone()[0]
    connection.execute("PRAGMA writable_schema = ON")
    yield
    connection.execute(f"PRAGMA schema_version = {version + 1}")
    connection.commit()
    connection.execute("PRAGMA writable_schema = OFF")


def overwrite(path: Path, page: int) -> None:
    """Destroy a page of the database."""
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(4096))


def retrieved(service: Service, user: str = ALICE) -> list[bytes]:
    """Retrieve all messages of a user in one session: of each the text, or the first words of why there is none."""
    found = []
    with pop3(service, user) as wire:
        for number in range(int(wire.ask(b"STAT").split()[1])):
            reply = wire.ask(b"RETR %d" % (number + 1))
            found.append(wire.multiline() if reply.startswith(b"+OK") else reply[: len(PERM)])
            if reply.startswith(b"-ERR"):
                assert wire.ask(b"TOP %d 0" % (number + 1)) == reply
        assert wire.ask(b"NOOP") == b"+OK"
        assert wire.ask(b"QUIT").startswith(b"+OK")
    return found


def whole(name: str) -> bytes:
    return PREFIX + name.encode() + b"\r\n" + text(name)


# --- the promise about dots ---


@pytest.mark.parametrize("kept", [True, False])
def test_a_promise_about_dots_that_is_not_true_splits_no_reply(home: Home, *, kept: bool) -> None:
    forged = b"\r\n.\r\n+OK forged\r\n"
    bodies = [b"." + text("x"), b"." + text("x", SMALL + 5000)]
    for dot in [30, PIECE - 2, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE]:
        body = text("x", dot + 3000)
        body = body[: dot - 2] + forged + body[dot - 2 :]
        assert body[dot : dot + 1] == b"."
        bodies.append(body)
    for body in bodies:
        bring(home, ALICE, body, "x")
    damage(home, "UPDATE body SET plain = 1" if kept else "UPDATE body SET plain = 1, checksum = NULL")
    with Service(home.path) as running, no_defect(running):
        assert retrieved(running) == [PREFIX + b"x\r\n" + body for body in bodies]


# --- whose message it is ---


@pytest.mark.parametrize("other", [2, 4])
def test_a_row_that_is_another_message_is_not_given_out_for_it(filled: Home, other: int) -> None:
    swap = [(1, 99), (other, 1), (99, other)]
    damage(filled, *(f"UPDATE message SET id = {new} WHERE id = {old}" for old, new in swap), stale=True)
    with Service(filled.path) as running, no_defect(running):
        expected = [PERM, PERM, whole("three")] if other == 2 else [PERM, whole("two"), whole("three")]
        assert retrieved(running) == expected
        assert retrieved(running, BOB) == ([whole("four")] if other == 2 else [PERM])
        eventually(lambda: "critical unreadable" in running.log.read_text())


# --- values that are none ---


HASHES = [NOT_UTF_8, "CAST(x'c3a4' AS TEXT)", "''", "7", "x'ff00'", "'$argon2id$v=19$m=8,t=1,p=1$damaged'"]


@pytest.mark.parametrize("value", HASHES)
def test_a_damaged_password_is_the_trouble_of_its_user_alone(home: Home, value: str) -> None:
    damage(home, f"UPDATE password SET hash = {value} WHERE mailbox_id = 1", loose="password")
    with Service(home.path) as running, no_defect(running):
        assert refusal(running, ALICE).startswith(TEMP)
        assert logs_on(running, BOB)
        running.send(ALICE, text("new"))
        assert [box["messages"] for box in asked(home.path, "list", "example.com")["mailboxes"]] == [1, 0]
        for word in ("lock", "unlock"):
            change(home, word, target=ALICE)
        change(home, "changepwd", address=ALICE, newpassword="secret")
        assert count(running) == 1


@pytest.mark.parametrize("value", HASHES)
def test_a_mailbox_with_a_damaged_password_can_be_deleted(home: Home, value: str) -> None:
    damage(home, f"UPDATE password SET hash = {value} WHERE mailbox_id = 1", loose="password")
    change(home, "delete", target=ALICE)
    assert ALICE not in done(home.path, "list", "example.com")


@pytest.mark.parametrize("value", [NOT_UTF_8, "''", "7"])
def test_a_damaged_name_of_a_mailbox_hinders_nobody_else(filled: Home, value: str) -> None:
    with Service(filled.path) as running, no_defect(running):
        with pop3(running, ALICE) as alice, pop3(running, BOB) as bob:
            damage(filled, f"UPDATE mailbox SET name = {value} WHERE id = 1", loose="mailbox")
            assert alice.ask(b"NOOP") == b"+OK"
            assert alice.ask(b"DELE 1").startswith(b"+OK")
            assert alice.ask(b"QUIT").startswith(b"+OK")
            assert BOB in done(filled.path, "list", "example.com")
            lock(running, BOB)
            assert bob.rest().startswith(b"-ERR [AUTH]")
        assert logs_on(running, CAROL)
        change(filled, "lock", target="example.com")
        change(filled, "delete", target="example.com")


@pytest.mark.parametrize("value", [NOT_UTF_8, "7"])
def test_a_damaged_name_of_a_domain_hinders_no_other(filled: Home, value: str) -> None:
    damage(filled, f"UPDATE domain SET name = {value} WHERE id = 1", loose="domain")
    with Service(filled.path) as running, no_defect(running):
        assert "other.example" in done(filled.path, "list")
        running.send(CAROL, text("new"))
        assert count(running, CAROL) == 1
        with smtp(running) as wire:
            assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
            assert wire.ask(b"RCPT TO:<bob@example.com>").startswith(b"550 ")
            assert wire.ask(b"RCPT TO:<carol@other.example>").startswith(b"250 ")


@pytest.mark.parametrize("stale", [False, True])
def test_a_damaged_unique_id_is_shown_as_such_and_its_message_given_out(home: Home, *, stale: bool) -> None:
    values = [NOT_UTF_8, "'two words'", "''", "'" + "x" * 71 + "'", "x'80'", "'\u00e4'", "'another'"]
    names = [f"{number}" for number in range(len(values) + 1)]
    for name in names:
        bring(home, ALICE, text(name), name)
    statements = [f"UPDATE message SET unique_id = {value} WHERE id = {n + 1}" for n, value in enumerate(values)]
    damage(home, *statements, loose="message", stale=stale)
    expected = [whole(name) for name in names]
    if stale:  # the listing has it as it was
        expected[6] = PERM  # since it may be the unique-id of another message
    with Service(home.path) as running, no_defect(running):
        for _ in range(2):
            assert retrieved(running) == expected
            with pop3(running, ALICE) as wire:
                shown = [wire.ask(b"UIDL %d" % (n + 1)).split()[2] for n in range(len(names))]
                assert len(shown[7]) == 22
                if not stale:
                    assert shown[:7] == [*(b"damaged-%d" % (n + 1) for n in range(6)), b"another"]


@pytest.mark.parametrize("value", [NOT_UTF_8, "'x'", "x'00'", "0.5"])
def test_a_damaged_size_is_listed_as_none_and_its_message_as_damaged(filled: Home, value: str) -> None:
    damage(filled, f"UPDATE message SET size = {value} WHERE id = 2", loose="message")
    with Service(filled.path) as running, no_defect(running):
        with pop3(running, ALICE) as wire:
            assert wire.ask(b"LIST 2") == b"+OK 2 0"
            assert wire.ask(b"STAT").split()[1:] == [b"3", b"%d" % (len(whole("one")) + len(whole("three")))]
        assert retrieved(running) == [whole("one"), PERM, whole("three")]
        assert ALICE in done(filled.path, "list", "example.com")
        done(filled.path, "stat")
        change(filled, "delete", target=ALICE)


def test_a_damaged_row_of_a_body_is_the_trouble_of_its_message_alone(home: Home) -> None:
    changes = [
        "checksum = CAST(checksum AS TEXT)",
        "checksum = substr(checksum, 1, 31)",
        "checksum = x''",
        "checksum = 7",
        "content = CAST(content || x'ff' AS TEXT)",
        "content = 7",
        "content = NULL, blob = CAST(x'ff' AS TEXT)",
        "content = NULL, blob = '../../../etc/passwd'",
        "content = NULL, blob = char(0)",
        "content = NULL, blob = 7",
        "id = 77",
    ]
    for number in range(len(changes) + 1):
        bring(home, ALICE, text(f"{number}"), f"{number}")
    damage(home, *(f"UPDATE body SET {each} WHERE id = {n + 1}" for n, each in enumerate(changes)), loose="body")
    with Service(home.path) as running, no_defect(running):
        assert retrieved(running) == [PERM] * len(changes) + [whole(f"{len(changes)}")]
        with pop3(running, ALICE) as wire:
            for number in range(len(changes)):
                assert wire.ask(b"DELE %d" % (number + 1)).startswith(b"+OK")
            assert wire.ask(b"QUIT").startswith(b"+OK")
        assert retrieved(running) == [whole(f"{len(changes)}")]


@pytest.mark.parametrize("value", ["CAST(prefix AS TEXT)", "CAST(x'ff' AS TEXT)", "7"])
def test_a_damaged_prefix_is_the_trouble_of_its_message_alone(filled: Home, value: str) -> None:
    damage(filled, f"UPDATE message SET prefix = {value} WHERE id = 2", loose="message")
    with Service(filled.path) as running, no_defect(running):
        assert retrieved(running) == [whole("one"), PERM, whole("three")]


@pytest.mark.parametrize("value", ["'x'", "7", NOT_UTF_8])
def test_a_damaged_flag_of_a_body_changes_no_octet(filled: Home, value: str) -> None:
    damage(filled, f"UPDATE body SET plain = {value} WHERE id = 2", loose="body")
    with Service(filled.path) as running, no_defect(running):
        assert retrieved(running) == [whole("one"), whole("two"), whole("three")]


# --- pages ---


def test_a_message_whose_page_is_destroyed_is_damaged_for_good_and_the_others_go_on(filled: Home) -> None:
    overwrite(filled.database, filled.database.read_bytes().index(b"this is two\r\n") // 4096)
    with Service(filled.path) as running, no_defect(running):
        assert retrieved(running) == [whole("one"), PERM, whole("three")]
        assert retrieved(running, BOB) == [whole("four")]


def test_a_recipient_that_cannot_be_looked_up_is_not_said_to_be_unknown(filled: Home) -> None:
    with closing(sqlite3.connect(filled.database)) as connection:
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_mailbox_1'"
        page = connection.execute(sql).fetchone()[0]
    overwrite(filled.database, page - 1)
    with Service(filled.path) as running, smtp(running) as wire, no_defect(running):
        assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
        assert wire.ask(b"RCPT TO:<alice@example.com>").startswith(b"451 ")
        assert wire.ask(b"NOOP").startswith(b"250 ")
        assert refusal(running, ALICE).startswith(TEMP)


# --- what nobody thought of ---


UNEXPECTED = """
from winpop.directory import mailboxes
from winpop.services import recipients
from winpop.store import maildrops

def broken(module, name, when):
    real = getattr(module, name)
    def raising(*given, **more):
        if when(*given):
            raise TypeError("CaNaRy")
        return real(*given, **more)
    setattr(module, name, raising)

broken(maildrops, "_stored", lambda row, *_: row[0] == 2)
broken(maildrops, "_listed", lambda _, mailbox: mailbox == 2)
broken(mailboxes, "look_up", lambda _, address: address.mailbox == "carol")
broken(recipients, "find_mailbox", lambda _, address: address.mailbox == "carol")
"""


def test_what_nobody_thought_of_ends_no_connection(filled: Home, tmp_path: Path) -> None:
    with Service(filled.path, PYTHONPATH=on_path(tmp_path, UNEXPECTED)) as running:
        assert retrieved(running) == [whole("one"), PERM, whole("three")]
        for user in (BOB, CAROL, BOB):  # a second time: the maildrop is free
            assert refusal(running, user).startswith(TEMP)
        with smtp(running) as wire:
            assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
            assert wire.ask(b"RCPT TO:<carol@other.example>").startswith(b"451 ")
            assert wire.ask(b"RCPT TO:<alice@example.com>").startswith(b"250 ")
        eventually(lambda: running.log.read_text().count("critical defect") >= 4)
        log = running.log.read_text()
        assert "critical unreadable" in log
        assert "CaNaRy" not in log


def test_a_text_that_cannot_be_decoded_is_a_damaged_database_and_is_not_quoted(database: Sqlite) -> None:
    with pytest.raises(Refusal, match="is damaged") as caught:
        database.one("SELECT CAST(x'436154ff' AS TEXT)")
    assert caught.value.code == "database-unreachable"
    assert "CaT" not in str(caught.value)
    assert database.number("SELECT 1") == 1
