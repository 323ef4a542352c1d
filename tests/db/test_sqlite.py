"""The contract of the database: durable, all or nothing, and usable again after the engine has failed."""

import sqlite3
from collections.abc import Iterator

import pytest

from winpop.db import sqlite
from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.terms.refusals import Kind, Refusal

ADD = "INSERT INTO domain (name) VALUES (?)"
LARGE = "INSERT INTO setting (name, value) VALUES ('large', ?)", "x" * 1_000_000
FULL_SYNCHRONISATION = 2


@pytest.fixture
def other(home: Home) -> Iterator[Sqlite]:
    """Another connection to the same database."""
    opened = Sqlite(home)
    yield opened
    opened.close()


def names(database: Sqlite) -> list[str]:
    return [str(name) for (name,) in database.all("SELECT name FROM domain ORDER BY id")][2:]  # after those of `home`


def no_space_left(database: Sqlite) -> None:
    """Let this connection, until it is closed, meet a full disk."""
    pages = database.number("PRAGMA page_count")
    assert database.number(f"PRAGMA max_page_count = {pages}") == pages


def test_every_connection_synchronises_each_commit(database: Sqlite) -> None:
    assert database.one("PRAGMA journal_mode") == ("wal",)
    assert database.number("PRAGMA synchronous") == FULL_SYNCHRONISATION
    assert database.number("PRAGMA foreign_keys") == 1
    database.close()  # the next question opens another
    assert database.number("PRAGMA synchronous") == FULL_SYNCHRONISATION


def test_what_is_written_is_seen_by_others_once_it_is_committed(database: Sqlite, other: Sqlite) -> None:
    before = other.version()
    with database.write() as transaction:
        assert transaction.insert(ADD, "a.example") < transaction.insert(ADD, "b.example")
        assert transaction.run("UPDATE domain SET name = 'c.example' WHERE name = 'b.example'") == 1
        assert names(other) == []
        assert other.version() == before
    assert names(other) == ["a.example", "c.example"]
    assert other.version() != before


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), Refusal("no", "No.")])
def test_an_exception_undoes_the_whole_transaction(database: Sqlite, error: BaseException) -> None:
    def work() -> None:
        with database.write() as transaction:
            transaction.many(ADD, [("a.example",), ("b.example",)])
            raise error

    with pytest.raises(type(error)):
        work()
    assert names(database) == []
    with database.write() as transaction:
        transaction.insert(ADD, "c.example")
    assert names(database) == ["c.example"]


def test_a_part_that_fails_is_undone_alone(database: Sqlite) -> None:
    def fail(transaction: Transaction) -> None:
        with transaction.part():
            transaction.insert(ADD, "b.example")
            raise ValueError("undo")

    with database.write() as transaction:
        transaction.insert(ADD, "a.example")
        with pytest.raises(ValueError, match="undo"):
            fail(transaction)
        with transaction.part():
            transaction.insert(ADD, "c.example")
    assert names(database) == ["a.example", "c.example"]


def test_a_snapshot_sees_one_state(database: Sqlite, other: Sqlite) -> None:
    with database.snapshot() as snapshot:
        assert snapshot.number("SELECT count(*) FROM domain") == 2
        with other.write() as transaction:
            transaction.insert(ADD, "a.example")
        assert snapshot.number("SELECT count(*) FROM domain") == 2
    assert names(database) == ["a.example"]


def test_a_query_that_was_not_read_to_its_end_holds_no_snapshot(database: Sqlite, other: Sqlite) -> None:
    assert database.one("SELECT name FROM domain ORDER BY id") == ("example.com",)
    with other.write() as transaction:
        transaction.insert(ADD, "a.example")
    assert names(database) == ["a.example"]


def test_one_transaction_is_alone_in_its_time(home: Home, database: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.01)
    impatient = Sqlite(home)
    with database.write(), pytest.raises(Refusal) as caught, impatient.write():
        pass
    assert (caught.value.code, caught.value.kind) == ("database-busy", Kind.OUT_OF_REACH)
    with impatient.write() as transaction:
        transaction.insert(ADD, "a.example")
    assert names(database) == ["a.example"]
    impatient.close()


def test_a_full_disk_undoes_the_transaction_and_the_next_one_works(database: Sqlite) -> None:
    def work() -> None:
        with database.write() as transaction:
            transaction.insert(ADD, "a.example")
            transaction.insert(*LARGE)

    no_space_left(database)
    with pytest.raises(Refusal) as caught:
        work()
    assert (caught.value.code, caught.value.kind) == ("disk-full", Kind.OUT_OF_REACH)
    assert names(database) == []
    with database.write() as transaction:
        transaction.insert(*LARGE)
    assert database.number("PRAGMA synchronous") == FULL_SYNCHRONISATION


def test_after_a_failure_of_the_engine_nothing_can_be_added_to_the_lost_transaction(database: Sqlite) -> None:
    def go_on(transaction: Transaction) -> None:
        no_space_left(database)
        transaction.insert(ADD, "a.example")
        with pytest.raises(Refusal, match="full"), transaction.part():
            transaction.insert(*LARGE)
        assert transaction.number("SELECT count(*) FROM domain") == 2  # reading goes on
        with pytest.raises(Refusal, match="lost"):
            transaction.insert(ADD, "b.example")

    with pytest.raises(Refusal, match="lost") as caught, database.write() as transaction:
        go_on(transaction)
    assert caught.value.code == "database-unreachable"
    assert names(database) == []


def test_a_commit_that_fails_leaves_nothing_and_no_open_transaction(database: Sqlite) -> None:
    def work() -> None:
        with database.write() as transaction:
            transaction.run("PRAGMA defer_foreign_keys = ON")
            transaction.insert(ADD, "a.example")
            transaction.insert("INSERT INTO mailbox (domain_id, name) VALUES (999, 'a')")

    with pytest.raises(sqlite3.IntegrityError):
        work()
    assert names(database) == []
    with database.write() as transaction:
        transaction.insert(ADD, "b.example")


def test_nothing_is_changed_outside_of_a_transaction(database: Sqlite) -> None:
    with pytest.raises(Refusal, match="lost"):
        database.run("DELETE FROM domain")


def test_a_mistake_in_our_own_statement_is_no_refusal(database: Sqlite) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax error"):
        database.all("SELECT FROM")


@pytest.mark.parametrize("damage", ["DROP TABLE audit", "ALTER TABLE audit RENAME COLUMN actor TO other"])
def test_a_schema_that_somebody_has_damaged_is_told(home: Home, database: Sqlite, damage: str) -> None:
    connection = sqlite3.connect(home.database)
    connection.execute(damage)
    connection.close()
    with pytest.raises(Refusal, match="damaged") as caught:
        database.all("SELECT actor FROM audit")
    assert (caught.value.code, caught.value.kind) == ("database-unreachable", Kind.OUT_OF_REACH)


def test_a_number_is_zero_where_there_is_none(database: Sqlite) -> None:
    assert database.number("SELECT max(id) FROM audit") == 0
    assert database.number("SELECT id FROM audit") == 0
    assert database.one("SELECT id FROM audit") is None
