"""Making, deleting and showing domains and mailboxes; their accounts; statistics."""

import pytest

from admin.doing import ADMINISTRATOR, bring, do, dump, invoked, refused, refused_to, secret
from winpop.admin.contract import Given, Secret
from winpop.auth import passwords
from winpop.db.home import Home
from winpop.db.leases import SERVICE, Leases
from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes
from winpop.store.blobs import SMALL, Blobs
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal

LARGE = b"x" * (SMALL + 1)


def password_works(home: Home, address: str, password: bytes) -> bool:
    database = Sqlite(home)
    mailbox = mailboxes.find(database, Address.parse(address))
    database.close()
    return passwords.verify(mailbox.password_hash, password)


def test_add_makes_the_home_the_domain_and_the_mailbox(home: Home) -> None:
    fresh = Home(home.path.parent / "fresh")
    assert do(fresh, "add", target="EXAMPLE.org").data == {"domain": "example.org"}
    outcome = do(fresh, "add", target="Alice@Example.Org", createuser=secret("pässword "))
    assert outcome.data == {"address": "alice@example.org", "domain_locked": False}
    assert password_works(fresh, "alice@example.org", "pässword ".encode())
    assert not password_works(fresh, "alice@example.org", "pässword".encode())


def test_only_add_and_set_begin_an_installation(home: Home) -> None:
    nowhere = Home(home.path.parent / "nowhere")
    readings: list[tuple[str, Given]] = [(word, {}) for word in ("list", "stat", "get", "audit")]
    for word, given in [*readings, ("lock", {"target": "example.com"})]:
        with pytest.raises(Refusal) as caught:
            invoked(nowhere, word, given)
        assert (caught.value.code, caught.value.kind) == ("no-installation", Kind.OUT_OF_REACH)
        assert "winpop add" in caught.value.sentence
        assert not nowhere.path.exists()
    do(nowhere, "set", name="autologout", values="900")
    assert nowhere.exists()


def test_add_is_refused_for_what_is_there_or_cannot_be(home: Home) -> None:
    def code(target: str, **given: Secret) -> str:
        return refused_to(ADMINISTRATOR, home, "add", {"target": target, **given}).code

    assert code("example.com") == "domain-exists"
    assert code("alice@example.com", createuser=secret("pw")) == "mailbox-exists"
    assert code("dave@example.com") == "createuser-required"
    assert code("dave@nowhere.example", createuser=secret("pw")) == "no-such-domain"
    assert code("dave@nowhere.example") == "no-such-domain"
    assert code("new.example", createuser=secret("pw")) == "createuser-needs-mailbox"
    assert code("example") == "bad-domain"
    assert code("..@example.com", createuser=secret("pw")) == "bad-mailbox-name"
    for bad in ("", "a\0b", "a\r\nb", "x" * 249):
        assert code("dave@example.com", createuser=secret(bad)) == "bad-password"


def test_a_password_is_asked_for_only_when_all_else_is_understood(home: Home) -> None:
    def never() -> str:
        raise AssertionError("asked")

    assert refused(home, "changepwd", address="nobody", newpassword=never).code == "bad-address"
    with pytest.raises(Refusal, match="no installation"):
        do(Home(home.path / "nowhere"), "changepwd", address="alice@example.com", newpassword=never)


def test_changepwd_changes_the_password(home: Home) -> None:
    assert do(home, "changepwd", address="alice@example.com", newpassword=secret("new")).changed
    assert password_works(home, "alice@example.com", b"new")
    assert not password_works(home, "alice@example.com", b"secret")
    assert password_works(home, "bob@example.com", b"secret")
    assert refused(home, "changepwd", address="nobody@example.com", newpassword=secret("x")).code == "no-such-mailbox"


def test_deleting_a_domain_takes_all_of_it_and_nothing_else(home: Home) -> None:
    untouched = dump(home)
    do(home, "add", target="gone.example")
    for name in ("a", "b"):
        do(home, "add", target=f"{name}@gone.example", createuser=secret("pw"))
        bring(home, f"{name}@gone.example", LARGE)
        bring(home, f"{name}@gone.example", b"small\r\n")
    do(home, "lock", target="a@gone.example")
    do(home, "lock", target="gone.example")
    assert len(list(Blobs(home.mail).names())) == 2
    outcome = do(home, "delete", target="gone.example")
    assert outcome.data == {"domain": "gone.example", "mailboxes": 2, "messages": 4}
    assert [line for line in dump(home) if "sqlite_sequence" not in line] == [
        line for line in untouched if "sqlite_sequence" not in line
    ]
    assert list(Blobs(home.mail).names()) == []


def test_deleting_a_mailbox_leaves_mail_that_others_have_too(home: Home) -> None:
    bring(home, "alice@example.com", LARGE)
    bring(home, "bob@example.com", LARGE)
    outcome = do(home, "delete", target="alice@example.com", deleteuser="")
    assert outcome.data == {"address": "alice@example.com", "messages": 1}
    assert "account always goes" in outcome.notes[0]
    assert len(list(Blobs(home.mail).names())) == 1
    assert do(home, "stat").data["messages"] == 1
    assert refused(home, "delete", target="alice@example.com").code == "no-such-mailbox"


def test_list_shows_domains_and_mailboxes(home: Home) -> None:
    bring(home, "alice@example.com", b"12345")
    bring(home, "alice@example.com", b"678")
    do(home, "lock", target="other.example")
    domains = do(home, "list")
    assert domains.data["domains"] == [
        {"domain": "example.com", "locked": False, "mailboxes": 2},
        {"domain": "other.example", "locked": True, "mailboxes": 1},
    ]
    assert domains.table
    assert domains.table.rows == (("example.com", "unlocked", 2), ("other.example", "locked", 1))
    shown = do(home, "list", domain="example.com")
    assert shown.table
    assert shown.table.rows == (("alice@example.com", "unlocked", 2, 8), ("bob@example.com", "unlocked", 0, 0))
    assert refused(home, "list", domain="nowhere.example").code == "no-such-domain"


def test_stat_counts_and_tells_whether_the_service_runs(home: Home) -> None:
    bring(home, "alice@example.com", b"12345")
    do(home, "lock", target="example.com")
    do(home, "lock", target="alice@example.com")
    assert do(home, "stat").data == {
        "domains": 2,
        "domains_locked": 1,
        "mailboxes": 3,
        "mailboxes_locked": 2,
        "messages": 1,
        "octets": 5,
        "service_running": False,
    }
    other = do(home, "stat", domain="other.example").data
    assert (other["mailboxes"], other["mailboxes_locked"], other["messages"]) == (1, 0, 0)
    service = Leases(home.leases)
    service.take(SERVICE)
    try:
        assert do(home, "stat").data["service_running"] is True
    finally:
        service.close()


@pytest.mark.parametrize("word", ["createquotafile"])
def test_what_comes_later_is_understood_and_refused(home: Home, word: str) -> None:
    refusal = refused(home, word, address="alice@example.com")
    assert (refusal.code, refusal.kind) == ("not-yet", Kind.REFUSED)
    assert refused(home, word, address="nobody@example.com").code == "no-such-mailbox"
    assert refused(home, word, address="example.com").code == "bad-address"


def test_a_new_domain_tells_who_gets_mail_for_its_postmaster(home: Home) -> None:
    assert "postmaster@new.example is refused" in do(home, "add", target="new.example").notes[0]
    do(home, "set", name="postmaster", values="alice@example.com")
    assert do(home, "add", target="newer.example").notes == ()
