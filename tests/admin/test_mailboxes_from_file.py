"""Many mailboxes from a file: bad rows are named and skipped, a second run goes on, and it is quick."""

import io
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.doing import ADMINISTRATOR, audited, do, invoked
from winpop.admin import mailboxes_from_file
from winpop.admin.contract import Secret
from winpop.admin.invoke import invoke
from winpop.admin.mailboxes_from_file import _rows, _Skipped
from winpop.admin.operations import OPERATIONS
from winpop.admin.outcomes import Outcome
from winpop.admin.place import Place
from winpop.auth import passwords
from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes
from winpop.directory.domains import Domain
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal, out_of_reach

HASH = "$argon2id$v=19$m=19456,t=2,p=1$WkFlG57QHUr9hFtGqj89Xw$lCLXYSQpcAMXe75SQ3TJJZ5kZ0xCt+lU74jew48mwSU"


def take(home: Home, text: str | bytes, **others: str | Secret) -> Outcome:
    place = Place(home)
    file = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    try:
        return invoke(place, ADMINISTRATOR, OPERATIONS["add"], {"from": file, **others})
    finally:
        place.close()


def skipped(outcome: Outcome) -> list[tuple[int, str]]:
    rows: list[dict[str, Any]] = outcome.data["skipped"]
    return [(row["line"], row["code"]) for row in rows]


@pytest.mark.parametrize("quote", ["", '"'])
def test_ten_thousand_hashed_rows(home: Home, quote: str) -> None:
    text = "address,password_hash\n" + "".join(f"user{n}@example.com,{quote}{HASH}{quote}\n" for n in range(10_000))
    start = time.perf_counter()
    outcome = take(home, text)
    print(f"10,000 rows with hashes: {time.perf_counter() - start:.2f} s")  # noqa: T201 - the figure is the point
    assert time.perf_counter() - start < 30
    assert outcome.complete
    assert (outcome.data["added"], outcome.data["present"]) == (10_000, 0)
    again = take(home, text)
    assert not again.changed
    assert again.complete
    assert (again.data["added"], again.data["present"]) == (0, 10_000)
    assert audited(home) == [("add", "500 mailboxes from a file", "done")] * 20


def test_bad_rows_are_named_and_the_rest_goes_on(home: Home) -> None:
    text = (
        "address,password\r\n"
        "dave@example.com,pw\r\n"
        "not an address,pw\r\n"
        "eve@nowhere.example,pw\r\n"
        "\r\n"
        "frank@example.com,\r\n"
        "grace@example.com,$argon2id$v=19$m=99999999,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA\r\n"
        "heidi@example.com\r\n"
        "ivan@example.com,a,b\r\n"
        "alice@example.com,pw\r\n"
        '"judy@example.com"," with, comma "\r\n'
        'unclosed@example.com,"pw\r\n'
        "pw,kim@example.com\r\n"
        "last@example.com,pw"
    )
    outcome = take(home, text)
    assert not outcome.complete
    assert (outcome.data["added"], outcome.data["present"]) == (3, 1)
    assert skipped(outcome) == [
        (3, "bad-address"),
        (4, "no-such-domain"),
        (6, "bad-password"),
        (7, "bad-password-hash"),
        (8, "bad-row"),
        (9, "bad-row"),
        (12, "bad-row"),
        (13, "bad-row"),
    ]
    database = Sqlite(home)
    judy = mailboxes.find(database, Address.parse("judy@example.com"))
    database.close()
    assert passwords.verify(judy.password_hash, b" with, comma ")


def test_a_byte_order_mark_and_other_encodings(home: Home) -> None:
    outcome = take(home, b"\xef\xbb\xbfaddress,password\ndave@example.com,p\xc3\xa4\neve@example.com,p\xe4\n")
    assert outcome.data["added"] == 1
    assert skipped(outcome) == [(3, "bad-row")]


def test_without_a_header_the_first_line_is_a_row(home: Home) -> None:
    assert take(home, f"dave@example.com,{HASH}").data["added"] == 1
    assert take(home, "").data["added"] == 0


def test_under_the_header_of_hashes_a_password_is_no_hash(home: Home) -> None:
    assert skipped(take(home, "address,password_hash\ndave@example.com,pw\n")) == [(2, "bad-password-hash")]


def test_a_line_without_end_takes_no_memory_and_is_one_bad_row(home: Home) -> None:
    outcome = take(home, b"x" * 5_000_000 + b"\ndave@example.com," + HASH.encode())
    assert skipped(outcome) == [(1, "bad-row")]
    assert outcome.data["added"] == 1


def test_a_mailbox_that_stands_twice_is_made_once(home: Home) -> None:
    outcome = take(home, f"dave@example.com,{HASH}\nDAVE@example.com,{HASH}\n")
    assert (outcome.data["added"], outcome.data["present"]) == (1, 1)


def test_passwords_of_mailboxes_that_are_there_are_not_hashed_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_password: bytes) -> str:
        raise AssertionError("hashed in vain")

    monkeypatch.setattr(passwords, "make_hash", never)
    assert take(home, "alice@example.com,pw\nx@nowhere.example,pw\n").data["present"] == 1


def test_what_was_committed_stays_when_the_disk_fills_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes_from_file, "_BATCH", 2)
    text = "".join(f"user{n}@example.com,{HASH}\n" for n in range(5))
    add = mailboxes.add

    def full(transaction: Transaction, domain: Domain, address: Address, password_hash: str) -> None:
        if address.mailbox == "user3":
            raise out_of_reach("disk-full", "Full.")
        add(transaction, domain, address, password_hash)

    monkeypatch.setattr(mailboxes, "add", full)
    with pytest.raises(Refusal, match="Full"):
        take(home, text)
    monkeypatch.setattr(mailboxes, "add", add)
    assert do(home, "stat", domain="example.com").data["mailboxes"] == 2 + 2
    outcome = take(home, text)
    assert (outcome.data["added"], outcome.data["present"]) == (3, 2)


def test_what_takes_long_to_hash_is_committed_by_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes_from_file, "_SECONDS", 0.0)
    monkeypatch.setattr(passwords, "make_hash", lambda _password: HASH)
    assert take(home, "a@example.com,pw\nb@example.com,pw\n").data["added"] == 2
    assert audited(home) == [("add", "1 mailbox from a file", "done")] * 2


def test_an_interrupt_leaves_what_was_committed_and_counts_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes_from_file, "_BATCH", 2)
    add = mailboxes.add

    def interrupted(transaction: Transaction, domain: Domain, address: Address, password_hash: str) -> None:
        if address.mailbox == "user3":
            raise KeyboardInterrupt
        add(transaction, domain, address, password_hash)

    monkeypatch.setattr(mailboxes, "add", interrupted)
    with pytest.raises(Refusal, match="Interrupted; 2 mailboxes went in") as caught:
        take(home, "".join(f"user{n}@example.com,{HASH}\n" for n in range(5)))
    assert (caught.value.code, caught.value.kind) == ("interrupted", Kind.REFUSED)
    assert do(home, "stat", domain="example.com").data["mailboxes"] == 2 + 2
    assert audited(home) == [("add", "2 mailboxes from a file", "done"), ("add", "", "interrupted")]


def test_the_audit_names_the_file(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"dave@example.com,{HASH}\n")
    with path.open("rb") as file:
        invoked(home, "add", {"from": file})
    assert audited(home) == [("add", f"1 mailbox from {path}", "done")]


def test_an_empty_file_is_told(home: Home) -> None:
    for text in ("", "address,password\n", "\n\n"):
        assert take(home, text).notes == ("There was no row in what was read.",)
    assert take(home, "alice@example.com,pw\n").notes == ()


def test_a_first_column_that_is_no_address_is_not_quoted(home: Home) -> None:
    outcome = take(home, "p@ss,alice@example.com\np%ss@example.com,alice@example.com\n")
    assert skipped(outcome) == [(1, "bad-domain"), (2, "bad-mailbox-name")]
    assert "ss" not in "".join(
        row["address"] + row["sentence"].replace("address", "") for row in outcome.data["skipped"]
    )


def test_a_file_stands_in_place_of_a_name_and_never_beside_it(home: Home) -> None:
    with pytest.raises(Refusal, match="either"):
        take(home, "", target="example.com")
    assert take(home, f"dave@example.com,{HASH}", createuser=lambda: "").data["added"] == 1


@given(st.binary(max_size=200) | st.text(alphabet='a@.,"\r\n$\0 ', max_size=60).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_are_rows_or_bad_rows(data: bytes) -> None:
    for row in _rows(io.BytesIO(data)):
        assert row.line >= 1
        assert not isinstance(row, _Skipped) or row.sentence.endswith(".")
