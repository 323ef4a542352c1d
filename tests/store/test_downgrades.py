"""Messages with a header beyond ASCII: LIST, STAT and RETR agree, whoever asks (RFC 6858 §4)."""

import re
import smtplib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from admin.doing import do
from running import Service
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes
from winpop.protocol import downgrade
from winpop.store import downgrades, maildrops, sweep
from winpop.store.blobs import SMALL, Blobs, Content, Draft
from winpop.store.delivery import deliver
from winpop.store.maildrops import BlobReader, DamagedError, Stored
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal

ALICE, BOB = "alice@example.com", "bob@example.com"
HEADER = (
    'From: Zoë <zoe@x.org>\r\nSubject: höre\r\nX-Any: ü\r\nContent-Type: text/plain; charset="utf-8"\r\n\r\n'.encode()
)
TEXT = "Wörter, as they came\r\n.\r\n".encode()
LONG = b"Subject: " + "ü".encode() * 100_000 + b"\r\n\r\n"
SMALL_ONE, LARGE_ONE = HEADER + TEXT, HEADER + TEXT * (SMALL // len(TEXT) + 1)
LONG_ONE = LONG + TEXT * 3000
MESSAGES = [SMALL_ONE, LARGE_ONE, LONG_ONE]


@pytest.fixture
def blobs(home: Home) -> Blobs:
    """The mail root."""
    made = Blobs(home.mail)
    made.make()
    return made


def finished(blobs: Blobs, octets: bytes) -> Content:
    draft = Draft(blobs)
    draft.write(octets)
    return downgrades.reckon(draft.finish(), blobs)


def bring(database: Sqlite, blobs: Blobs, octets: bytes, *recipients: str) -> Content:
    content = finished(blobs, octets)
    with database.write() as transaction:
        those = [Address.parse(each) for each in recipients or (ALICE,)]
        deliver(transaction, those, content, b"Received: x\r\n", plain=False)
    return content


def given(database: Sqlite, blobs: Blobs, *, utf8: bool) -> list[tuple[int, bytes]]:
    """Return size and octets of what Alice has, as she is listed and given it."""
    mailbox = mailboxes.find(database, Address.parse(ALICE)).id
    drop = maildrops.open_maildrop(database, mailbox, utf8=utf8)
    found = []
    for message, size, unique_id in zip(drop.messages, drop.listing.sizes, drop.listing.unique_ids, strict=True):
        stored = maildrops.find(database, message, mailbox, unique_id)
        assert stored is not None
        assert stored.octets is None or not stored.damaged
        found.append((size, octets_of(blobs, stored if utf8 else stored.downgraded())))
    return found


def octets_of(blobs: Blobs, stored: Stored) -> bytes:
    if stored.octets is not None:
        assert not stored.damaged
        return stored.prefix + stored.octets
    reader, pieces, last = BlobReader(blobs, stored), [stored.prefix], False
    while not last:
        piece, last = reader.read()
        pieces.append(piece)
    reader.close()
    return b"".join(pieces)


def found_by_check(home: Home) -> set[str]:
    """Return what is wrong with the home, but for the modes of its files, which are those of the tests."""
    findings = do(home, "check").data["findings"]
    return {finding["kind"] for finding in findings} - {"permissions"}


@pytest.mark.parametrize("octets", MESSAGES, ids=["row", "blob", "long header"])
def test_each_gets_what_was_listed_and_the_body_as_it_came(database: Sqlite, blobs: Blobs, octets: bytes) -> None:
    content = bring(database, blobs, octets, ALICE, BOB)
    assert (content.blob is None) is (len(octets) <= SMALL)
    [(size, old)], [(whole, new)] = given(database, blobs, utf8=False), given(database, blobs, utf8=True)
    assert (size, whole) == (len(old), len(new))
    assert new == b"Received: x\r\n" + octets
    header, _, body = old.partition(b"\r\n\r\n")
    assert header.isascii()
    assert body == octets.partition(b"\r\n\r\n")[2]
    assert old == b"Received: x\r\n" + downgrades.downgraded(octets)
    assert database.number("SELECT count(*) FROM downgrade") == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"Subject: x\r\n\r\n" + TEXT,
        "Subject: ü".encode("latin-1") + b"\r\n\r\n",
        b"X: " + b"x" * downgrade.LIMIT + "ü".encode() + b"\r\n\r\n",
        b"\r\n" + TEXT,
        b"",
    ],
)
def test_what_has_no_other_form_is_one_for_all(database: Sqlite, blobs: Blobs, octets: bytes) -> None:
    bring(database, blobs, octets)
    assert given(database, blobs, utf8=False) == given(database, blobs, utf8=True)
    assert database.number("SELECT count(*) FROM downgrade") == 0


def test_a_message_that_is_all_header_can_become_nothing(database: Sqlite, blobs: Blobs) -> None:
    for octets in ("X-Any: ü\r\n".encode(), ("X-Any: ü" + "ä" * 100_000 + "\r\n").encode()):
        bring(database, blobs, octets)
    assert given(database, blobs, utf8=False) == [(13, b"Received: x\r\n")] * 2


def test_mail_from_before_there_were_rows_is_served_as_it_came(database: Sqlite, blobs: Blobs) -> None:
    bring(database, blobs, SMALL_ONE)
    with database.write() as transaction:
        transaction.run("DELETE FROM downgrade")
    assert given(database, blobs, utf8=False) == given(database, blobs, utf8=True)


def test_the_row_goes_with_the_body(database: Sqlite, blobs: Blobs) -> None:
    bring(database, blobs, SMALL_ONE, ALICE, BOB)
    for address, left in ((ALICE, 1), (BOB, 0)):
        mailbox = mailboxes.find(database, Address.parse(address))
        with database.write() as transaction:
            maildrops.empty(transaction, mailbox)
        assert database.number("SELECT count(*) FROM downgrade") == left


def test_a_long_maildrop_is_listed_in_order_with_both_kinds(database: Sqlite, blobs: Blobs) -> None:
    for n in range(40):
        bring(database, blobs, SMALL_ONE if n % 3 else b"Subject: x\r\n\r\n" + TEXT)
    found = given(database, blobs, utf8=False)
    assert [size for size, _ in found] == [len(octets) for _, octets in found]
    assert len({size for size, _ in found}) == 2


@pytest.mark.parametrize("octets", [SMALL_ONE, LARGE_ONE], ids=["row", "blob"])
def test_octets_that_are_damaged_are_not_given_out_in_another_form(
    home: Home, database: Sqlite, blobs: Blobs, octets: bytes
) -> None:
    content = bring(database, blobs, octets)
    if content.blob is None:
        with database.write() as transaction:
            transaction.run("UPDATE body SET content = ?", octets.replace(b"ll", b"xx").replace(b"as", b"is"))
    else:
        blobs.path(content.blob).write_bytes(octets.replace(b"as", b"is"))
    message = database.number("SELECT id FROM message")
    stored = maildrops.find(database, message)
    assert stored is not None
    assert stored.international
    if content.blob is None:
        assert stored.damaged
    else:
        with pytest.raises(DamagedError):
            BlobReader(blobs, stored.downgraded())
    assert found_by_check(home) == {"damaged"}


def test_damaged_sizes_are_listed_as_none_and_hinder_nobody(home: Home, database: Sqlite, blobs: Blobs) -> None:
    for _ in range(2):
        bring(database, blobs, SMALL_ONE)
    database.close()
    with sqlite3.connect(home.database) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'downgrade'")
    connection.close()
    with sqlite3.connect(home.database) as connection:
        connection.execute("UPDATE downgrade SET size = x'ff' WHERE body_id = 1")
    connection.close()
    mailbox = mailboxes.find(database, Address.parse(ALICE)).id
    sizes = maildrops.open_maildrop(database, mailbox, utf8=False).listing.sizes
    assert sizes[1] == len(b"Received: x\r\n" + downgrades.downgraded(SMALL_ONE))
    assert len(sizes) == 2


def test_what_cannot_be_read_is_refused(blobs: Blobs) -> None:
    with pytest.raises(Refusal) as caught:
        downgrades.reckon(Content(5, None, "ab" * 16), blobs)
    assert caught.value.code == "mailroot-unusable"


@pytest.mark.parametrize("octets", MESSAGES, ids=["row", "blob", "long header"])
def test_check_finds_nothing_and_a_restored_message_has_its_row_again(
    home: Home, database: Sqlite, blobs: Blobs, tmp_path: Path, octets: bytes
) -> None:
    bring(database, blobs, octets, ALICE, BOB)
    before = given(database, blobs, utf8=False)
    assert found_by_check(home) == set()
    do(home, "backup", directory=str(tmp_path / "kept"))
    with database.write() as transaction:
        maildrops.empty(transaction, mailboxes.find(transaction, Address.parse(ALICE)))
        gone = maildrops.empty(transaction, mailboxes.find(transaction, Address.parse(BOB)))
    sweep.discard(database, blobs, gone)
    assert database.number("SELECT count(*) FROM downgrade") == 0
    do(home, "restore", directory=str(tmp_path / "kept"))
    assert given(database, blobs, utf8=False) == before
    assert database.number("SELECT count(*) FROM downgrade") == 1
    assert found_by_check(home) == set()


def test_a_mended_message_has_its_row_again(home: Home, database: Sqlite, blobs: Blobs, tmp_path: Path) -> None:
    bring(database, blobs, SMALL_ONE)
    before = given(database, blobs, utf8=False)
    do(home, "backup", directory=str(tmp_path / "kept"))
    with database.write() as transaction:
        transaction.run("UPDATE body SET content = zeroblob(size)")
    do(home, "restore", directory=str(tmp_path / "kept"), mend="")
    assert given(database, blobs, utf8=False) == before
    assert database.number("SELECT count(*) FROM downgrade") == 1


@pytest.fixture
def over_smtp(home: Home, database: Sqlite) -> Callable[[bytes], None]:
    """What brings a message to Alice as others do."""

    def send(octets: bytes) -> None:
        with (
            Service(home.path, "--workers", "0") as service,
            smtplib.SMTP("127.0.0.1", service.ports["smtp"], timeout=20) as client,
        ):
            client.sendmail("zoe@x.org", ALICE, octets, ["BODY=8BITMIME"])
        assert database.number("SELECT count(*) FROM message") == 1

    return send


@pytest.mark.parametrize("octets", MESSAGES, ids=["row", "blob", "long header"])
def test_the_service_notes_at_delivery_what_old_clients_get(
    database: Sqlite, blobs: Blobs, over_smtp: Callable[[bytes], None], octets: bytes
) -> None:
    over_smtp(octets)
    [(size, old)], [(whole, new)] = given(database, blobs, utf8=False), given(database, blobs, utf8=True)
    assert (size, whole) == (len(old), len(new))
    assert new.endswith(octets)
    assert old.endswith(downgrades.downgraded(octets))
    assert re.search(rb"^Subject: =\?UTF-8\?B\?", old, re.MULTILINE)
