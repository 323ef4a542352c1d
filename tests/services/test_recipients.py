"""Recipients are remembered for as long as nothing changes in the directory, and never that there is none."""

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from admin.doing import do
from running import Service
from services.wire import change, smtp
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.protocol.smtp import Accepted, Foreign, Unknown
from winpop.services import recipients
from winpop.services.recipients import Recipients
from winpop.store.delivery import find_mailbox
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal

if TYPE_CHECKING:
    from winpop.services.world import World

ALICE, BOB = Address.parse("alice@example.com"), Address.parse("bob@example.com")


class Counted:
    """A database that counts the questions."""

    def __init__(self, database: Sqlite) -> None:
        self.database = database
        self.questions = 0

    def one(self, sql: str, *parameters: Any) -> Any:  # noqa: ANN401 - as the database has it
        self.questions += 1
        return self.database.one(sql, *parameters)

    def number(self, sql: str, *parameters: Any) -> int:  # noqa: ANN401
        self.questions += 1
        return self.database.number(sql, *parameters)


class Hands:
    """A worker's world, with a clock that the test sets."""

    def __init__(self, database: Sqlite) -> None:
        self.now = 0.0
        self.loop = SimpleNamespace(time=lambda: self.now)
        self.settings = SimpleNamespace(postmaster=None)
        self.reader = Counted(database)
        self.recipients = Recipients(cast("World", self))

    def changes(self) -> int:
        return self.reader.number("SELECT max(id) FROM audit")

    def find(self, mailbox: str, domain: str = "example.com") -> Accepted | Unknown | Foreign:
        return self.recipients.find(mailbox, domain)

    def later(self) -> None:
        self.now += 0.1


@pytest.fixture
def hands(database: Sqlite) -> Hands:
    """The world of one worker on the home."""
    return Hands(database)


def test_who_was_found_is_not_looked_up_again(hands: Hands, database: Sqlite) -> None:
    assert hands.find("alice") == hands.find("alice") == Accepted(ALICE)
    before = hands.reader.questions
    assert hands.find("alice") == Accepted(ALICE)
    assert hands.reader.questions == before
    hands.later()
    assert hands.find("alice") == Accepted(ALICE)
    assert hands.reader.questions == before + 1  # whether something has changed
    assert hands.recipients.mailboxes([ALICE]) == (find_mailbox(database, ALICE),)
    assert hands.recipients.mailboxes([ALICE, BOB]) is None


def test_names_are_found_in_any_case(hands: Hands) -> None:
    assert hands.find("ALICE", "Example.COM") == Accepted(ALICE)


@pytest.mark.parametrize(
    ("mailbox", "domain", "answer"),
    [
        ("nobody", "example.com", Unknown()),
        ("al ice", "example.com", Unknown()),
        ("a@b", "example.com", Unknown()),
        ("alice", "elsewhere.example", Foreign()),
        ("alice", "other.example", Unknown()),
        ("al ice", "elsewhere.example", Foreign()),
        ("alice", "[192.0.2.1]", Foreign()),
        ("postmaster", "", Unknown()),
        ("postmaster", "example.com", Unknown()),
    ],
)
def test_what_is_not_there_is_looked_up_each_time(
    hands: Hands, mailbox: str, domain: str, answer: Unknown | Foreign
) -> None:
    for _ in range(2):
        assert hands.find(mailbox, domain) == answer
    assert not hands.recipients._accepted


def test_a_mailbox_that_is_made_is_seen_at_once_and_one_that_is_deleted_soon(home: Home, hands: Hands) -> None:
    assert hands.find("dora") == Unknown()
    do(home, "add", target="dora@example.com", createuser="secret")
    assert hands.find("dora") == Accepted(Address.parse("dora@example.com"))
    do(home, "delete", target="dora@example.com")
    hands.later()
    assert hands.find("dora") == Unknown()
    assert hands.recipients.mailboxes([Address.parse("dora@example.com")]) is None


def test_one_that_is_made_again_is_another(home: Home, hands: Hands, database: Sqlite) -> None:
    assert hands.find("bob") == Accepted(BOB)
    before = hands.recipients.mailboxes([BOB])
    do(home, "delete", target="bob@example.com")
    do(home, "add", target="bob@example.com", createuser="secret")
    hands.later()
    assert hands.find("bob") == Accepted(BOB)
    assert before != hands.recipients.mailboxes([BOB]) == (find_mailbox(database, BOB),)


def test_a_lock_does_not_matter(home: Home, hands: Hands) -> None:
    do(home, "lock", target="alice@example.com")
    do(home, "lock", target="example.com")
    assert hands.find("alice") == Accepted(ALICE)


def test_the_postmaster_is_who_the_settings_say(hands: Hands) -> None:
    for postmaster in (ALICE, BOB):
        hands.settings = SimpleNamespace(postmaster=postmaster)  # new ones, as a worker takes them
        assert hands.find("Postmaster", "") == Accepted(postmaster)
        assert hands.find("PostMaster", "other.example") == Accepted(postmaster)
    assert hands.find("postmaster", "elsewhere.example") == Foreign()


def test_so_many_are_remembered_and_no_more(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipients, "_MOST", 3)
    for name in ("alice", "Alice", "aLice", "alIce", "aliCe"):
        assert hands.find(name) == Accepted(ALICE)
        assert len(hands.recipients._accepted) <= 3
    assert hands.recipients.mailboxes([ALICE]) is not None


def test_an_engine_that_fails_is_told_and_nothing_of_it_remembered(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise Refusal("database-unreachable", "Away.")

    with monkeypatch.context() as patch:
        patch.setattr(recipients, "find_mailbox", broken)
        with pytest.raises(Refusal, match="Away"):
            hands.find("alice")
    assert hands.find("alice") == Accepted(ALICE)


def test_a_running_service_forgets_who_was_deleted(home: Home) -> None:
    with Service(home.path, "--workers", "1") as running, smtp(running) as wire:
        for _ in range(2):
            assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
            assert wire.ask(b"RCPT TO:<bob@example.com>").startswith(b"250 ")
            assert wire.ask(b"RSET").startswith(b"250 ")
        change(home, "delete", target="bob@example.com")
        time.sleep(2 * recipients._HOLDS)
        assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
        assert wire.ask(b"RCPT TO:<alice@example.com>").startswith(b"250 ")
        assert wire.ask(b"RCPT TO:<bob@example.com>").startswith(b"550 ")
