"""Listings by pages: together they are the whole listing, whatever is made and deleted between them."""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.doing import ADMINISTRATOR, bring, do, refused, refused_to
from conftest import fill
from winpop.admin.invoke import invoke
from winpop.admin.operations import OPERATIONS
from winpop.admin.outcomes import Outcome
from winpop.admin.place import Place
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.terms.names import DomainName

EXAMPLE = DomainName("example.com")
NAMES = st.text("ab0.-_", min_size=1, max_size=3)
OCTETS = st.binary(min_size=1, max_size=3) | st.text("abAB@", min_size=1, max_size=3).map(str.encode)
"""Names that damage may have made, too."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqlite]:
    home = Home(tmp_path_factory.mktemp("listing") / "home")
    fill(home, {"neighbour@another.example": b"secret", "alice@example.com": b"secret", "zoe@zoo.example": b"secret"})
    with contextlib.closing(Sqlite(home)) as opened:
        yield opened


def make(database: Sqlite, *names: bytes) -> None:
    domain = domains.find(database, EXAMPLE)
    with database.write() as transaction:
        transaction.many(
            "INSERT INTO mailbox (domain_id, name) VALUES (?, CAST(? AS TEXT)) ON CONFLICT DO NOTHING",
            [(domain.id, name) for name in names],
        )


def remove(database: Sqlite, *names: bytes) -> None:
    domain = domains.find(database, EXAMPLE)
    with database.write() as transaction:
        transaction.many(
            "DELETE FROM mailbox WHERE domain_id = ? AND name = CAST(? AS TEXT)", [(domain.id, name) for name in names]
        )


def begin(database: Sqlite, *names: bytes) -> None:
    """Have just these mailboxes."""
    with database.write() as transaction:
        transaction.run("DELETE FROM mailbox WHERE domain_id = (SELECT id FROM domain WHERE name = ?)", EXAMPLE.text)
    make(database, *names)


def identifier(database: Sqlite, name: bytes) -> int:
    domain = domains.find(database, EXAMPLE)
    return database.number("SELECT id FROM mailbox WHERE domain_id = ? AND name = CAST(? AS TEXT)", domain.id, name)


def listed(database: Sqlite, **given: str) -> Outcome:
    place = Place(Home(database._home.path), database)
    return invoke(place, ADMINISTRATOR, OPERATIONS["list"], {"domain": str(EXAMPLE), **given})


def addresses(outcome: Outcome) -> list[str]:
    return [entry["address"] for entry in outcome.data["mailboxes"]]


def pages(database: Sqlite, limit: int) -> Iterator[Outcome]:
    """Yield all pages, each asked for as the one before says."""
    going_on = {"limit": str(limit)}
    for _ in range(100):
        outcome = listed(database, **going_on)
        yield outcome
        if outcome.data["next_after"] is None:
            return
        going_on["after"] = outcome.data["next_after"]
    raise AssertionError("it does not come to an end")


@given(st.sets(OCTETS, max_size=12), st.integers(1, 14))
def test_pages_together_are_the_whole_listing_also_of_damaged_names(
    database: Sqlite, names: set[bytes], limit: int
) -> None:
    begin(database, *names)
    all_pages = list(pages(database, limit))
    joined = [entry for page in all_pages for entry in page.data["mailboxes"]]
    assert joined == listed(database).data["mailboxes"]
    assert len(joined) == len(names)
    assert all(len(page.data["mailboxes"]) == limit for page in all_pages[:-1])
    shown = [row for page in all_pages if page.table for row in page.table.rows]
    assert shown == [(e["address"], e["status"], e["messages"], e["octets"]) for e in joined]


@given(
    st.sets(NAMES, min_size=1, max_size=10),
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["make", "remove"]), NAMES), max_size=12),
)
def test_what_is_made_and_deleted_between_pages_repeats_and_leaves_out_nothing(
    database: Sqlite, names: set[str], limit: int, changes: list[tuple[str, str]]
) -> None:
    begin(database, *(name.encode() for name in names))
    steady, ever, waiting = set(names), set(names), iter(changes)
    shown: list[str] = []
    for page in pages(database, limit):
        shown += addresses(page)
        for change, name in itertools.islice(waiting, 2):
            if change == "make":
                make(database, name.encode())
                ever.add(name)
            else:
                remove(database, name.encode())
                steady.discard(name)
    names_shown = [address.removesuffix("@example.com") for address in shown]
    assert names_shown == sorted(set(names_shown))
    assert steady <= set(names_shown) <= ever


@given(st.sets(OCTETS, min_size=1, max_size=10), st.data())
def test_a_page_goes_on_after_the_mailbox_it_ended_with_has_gone(
    database: Sqlite, names: set[bytes], data: st.DataObject
) -> None:
    begin(database, *names)
    domain = domains.find(database, EXAMPLE)
    ordered = sorted(names)
    limit = data.draw(st.integers(1, len(names)))
    first, last = mailboxes.page(database, domain, None, limit)
    assert [each.id for each in first] == [identifier(database, name) for name in ordered[:limit]]
    assert last == (ordered[limit - 1] if limit < len(ordered) else None)
    if last is not None:
        remove(database, last)
        rest, none = mailboxes.page(database, domain, last, len(names))
        assert [each.id for each in rest] == [identifier(database, name) for name in ordered[limit:]]
        assert none is None


@pytest.mark.parametrize("limit", ["1", "2", "3"])
def test_pages_end_also_where_damage_has_made_names_that_are_no_texts(home: Home, limit: str) -> None:
    with contextlib.closing(sqlite3.connect(home.database)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        loose = "UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name = 'mailbox'"
        connection.execute(loose)
        connection.execute("PRAGMA schema_version = 1000")
        connection.commit()
    with contextlib.closing(sqlite3.connect(home.database)) as connection:
        for value in ("7", "8.5", "''", "x'ff'", "x'ff00'", "x'6200'", "CAST(x'80' AS TEXT)"):
            connection.execute(
                f"INSERT INTO mailbox (domain_id, name) SELECT domain_id, {value} FROM mailbox WHERE id = 1"
            )
        connection.commit()
    with contextlib.closing(Sqlite(home)) as database:
        assert "alice@example.com" in itertools.chain(*map(addresses, pages(database, int(limit))))
        assert len(addresses(listed(database))) == 9


@settings(max_examples=10)
@given(st.sampled_from([None, "0", "u500", "u998", "x"]), st.sampled_from([None, "1", "100"]))
def test_a_page_is_found_by_indexes_alone(database: Sqlite, after: str | None, limit: str | None) -> None:
    begin(database, *(b"u%03d" % number for number in range(1000)))
    asked: list[str] = []
    given = {name: value for name, value in (("after", after), ("limit", limit)) if value is not None}
    database._connection.set_trace_callback(asked.append)
    listed(database, **given)
    database._connection.set_trace_callback(None)
    queries = [sql for sql in asked if sql.lstrip().startswith("SELECT")]
    assert any("mailbox_lock" in sql for sql in queries)
    for sql in queries:
        steps = [str(row[3]) for row in database.all(f"EXPLAIN QUERY PLAN {sql}")]
        assert all(step.startswith("SEARCH ") for step in steps), (sql, steps)


def test_a_page_says_how_to_go_on(home: Home) -> None:
    bring(home, "bob@example.com", b"12345")
    do(home, "lock", target="bob@example.com")
    first = do(home, "list", domain="example.com", limit="1")
    assert first.data == {
        "domain": "example.com",
        "locked": False,
        "mailboxes": [
            {"address": "alice@example.com", "locked": False, "status": "unlocked", "messages": 0, "octets": 0}
        ],
        "next_after": "alice",
    }
    assert first.notes == ("There are more: winpop list example.com /after alice /limit 1",)
    for after in ("alice", "ALICE", "alice@example.com", "alice0", "b"):
        second = do(home, "list", domain="example.com", limit="1", after=after)
        assert second.table
        assert second.table.rows == (("bob@example.com", "locked", 1, 5),)
        assert (second.data["next_after"], second.notes) == (None, ())
    nobody = do(home, "list", domain="example.com", after="bob@example.com")
    assert nobody.sentence == "The domain example.com is unlocked and has no mailboxes after bob."
    assert do(home, "list", domain="example.com").data["next_after"] is None


def test_a_name_in_capitals_that_damage_has_made_is_gone_on_after(database: Sqlite) -> None:
    begin(database, b"aLice", b"aaron", b"bob")
    assert addresses(listed(database, after="aLice")) == ["aaron@example.com", "bob@example.com"]
    assert addresses(listed(database, after="AARON")) == ["bob@example.com"]


def test_a_page_that_cannot_be_is_refused(home: Home) -> None:
    for limit in ("0", "-1", "10001", "x", "", "1.5", "\u0661", "9" * 7):
        assert refused(home, "list", domain="example.com", limit=limit).code == "bad-number"
    assert refused(home, "list", domain="example.com", after="\ud800").code == "bad-mailbox-name"
    for without_domain in ({"limit": "1"}, {"after": "alice"}, {"after": "alice", "limit": "1"}):
        assert refused_to(ADMINISTRATOR, home, "list", without_domain).code == "missing-argument"
