"""The tests of many at once, of bad days and of long runs can fail: with a service that has a defect, they do."""

import pytest

from durability import crowd, soak
from durability.book import Book
from durability.ledger import Found, State, message
from durability.report import Extent

MAILBOX = "user0@a.example"


@pytest.mark.parametrize("which", crowd.DEFECTS)
def test_a_defect_of_the_service_is_found(which: str) -> None:
    # Until it is found, which takes some ten seconds with an unlucky seed.
    assert crowd.control(which, Extent(full=False, seed=1, seconds=90)).violations


def found(token: str, unique_id: str) -> Found:
    return Found(unique_id, b"Return-Path: <>\r\nReceived: x\r\n" + message(token, 900))


@pytest.fixture
def book() -> Book:
    made = Book()
    made.mailbox(MAILBOX, there=True)
    for token in ("there", "coming"):
        made.sending(token, message(token, 900), MAILBOX)
    made.acknowledged("there", MAILBOX)
    return made


def test_what_is_on_its_way_may_come_and_need_not(book: Book) -> None:
    without = State({MAILBOX: [found("there", "1")]}, frozenset())
    both = State({MAILBOX: [found("there", "1"), found("coming", "2")]}, frozenset())
    assert book.violations(without) == []
    assert book.violations(both) == []
    assert book.violations(without) == [f"{MAILBOX}: coming is lost"]


def test_what_did_not_come_before_a_crash_must_not_come_later(book: Book) -> None:
    book.settle()
    assert book.violations(State({MAILBOX: [found("there", "1")]}, frozenset())) == []
    both = State({MAILBOX: [found("there", "1"), found("coming", "2")]}, frozenset())
    assert book.violations(both) == [f"{MAILBOX}: coming was deleted, and is there"]


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        ([("there", "1")], []),
        ([("there", "1"), ("coming", "2")], []),
        ([], ["there is lost"]),
        ([("there", "1"), ("there", "2")], ["there is there twice", "there is there twice"]),
        ([("there", "1"), ("coming", "1")], ["coming has the unique-id of there"]),
        ([("there", "1"), ("", "2")], ["'' was never sent, or is torn"]),
    ],
)
def test_what_a_session_must_see(book: Book, seen: list[tuple[str, str]], wrong: list[str]) -> None:
    said = book.wrong_listing(MAILBOX, book.before(MAILBOX), seen)
    assert said == [f"{MAILBOX}: {sentence}" for sentence in wrong]


def test_what_was_deleted_stays_away_from_a_session(book: Book) -> None:
    book.deleted(MAILBOX, ["there"])
    said = book.wrong_listing(MAILBOX, book.before(MAILBOX), [("there", "1")])
    assert said == [f"{MAILBOX}: there was deleted, and is there"]
    assert book.forget() == 1
    said = book.wrong_listing(MAILBOX, book.before(MAILBOX), [("there", "1")])
    assert said == [f"{MAILBOX}: 'there' was never sent, or is torn"]


def test_an_acknowledgement_that_comes_after_the_deletion_brings_nothing_back(book: Book) -> None:
    before = book.before(MAILBOX)
    assert book.wrong_listing(MAILBOX, before, [("there", "1"), ("coming", "2")]) == []
    book.deleted(MAILBOX, ["there", "coming"])
    book.acknowledged("coming", MAILBOX)
    assert book.violations(State({MAILBOX: []}, frozenset())) == []


def test_memory_that_grows_is_told_from_noise() -> None:
    seconds = [float(second) for second in range(120)]
    growing = soak.Series("a worker", 0, seconds, [int(60e6 + 50_000 * second) for second in seconds])
    noisy = soak.Series("a worker", 0, seconds, [int(60e6 + 1_000_000 * (second % 2)) for second in seconds])
    assert growing.violation() == ["a worker grew by 5.7 MB in 119 s, 171.7 MB/h"]
    assert noisy.violation() == []
