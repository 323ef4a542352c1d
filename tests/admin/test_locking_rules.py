"""The spec's table of lock and unlock, rule by rule."""

from typing import Any

import pytest

from admin.doing import audited, bring, do, dump, refused, secret
from winpop.db.home import Home
from winpop.terms.refusals import Kind


def statuses(home: Home) -> dict[str, str]:
    mailboxes: list[dict[str, Any]] = do(home, "list", domain="example.com").data["mailboxes"]
    return {mailbox["address"].partition("@")[0]: mailbox["status"] for mailbox in mailboxes}


def test_a_locked_domain_locks_every_mailbox_with_one_row(home: Home) -> None:
    before = dump(home)
    outcome = do(home, "lock", target="Example.COM")
    assert outcome.changed
    assert outcome.data == {"domain": "example.com", "locked": True}
    assert statuses(home) == {"alice": "locked by domain", "bob": "locked by domain"}
    assert [line for line in dump(home) if line not in before] == ['INSERT INTO "domain_lock" VALUES(1);']


def test_a_domain_gives_back_the_state_from_before_its_lock(home: Home) -> None:
    do(home, "lock", target="alice@example.com")
    before = dump(home)
    do(home, "lock", target="example.com")
    do(home, "unlock", target="example.com")
    assert dump(home) == before
    assert statuses(home) == {"alice": "locked", "bob": "unlocked"}


def test_no_mailbox_of_a_locked_domain_can_be_unlocked_alone(home: Home) -> None:
    do(home, "lock", target="alice@example.com")
    do(home, "lock", target="example.com")
    for mailbox in ("alice", "bob"):
        refusal = refused(home, "unlock", target=f"{mailbox}@example.com")
        assert (refusal.code, refusal.kind) == ("domain-locked", Kind.REFUSED)
        assert "example.com is locked" in refusal.sentence
        assert "unlock the whole domain" in refusal.sentence
    assert audited(home)[-1] == ("unlock", "bob@example.com", "domain-locked")


def test_a_lock_set_inside_a_locked_domain_shows_after_the_unlock(home: Home) -> None:
    do(home, "lock", target="example.com")
    outcome = do(home, "lock", target="alice@example.com")
    assert outcome.changed
    assert "once the domain is unlocked" in outcome.notes[0]
    assert statuses(home)["alice"] == "locked, and by domain"
    do(home, "unlock", target="example.com")
    assert statuses(home) == {"alice": "locked", "bob": "unlocked"}
    do(home, "unlock", target="alice@example.com")
    assert statuses(home)["alice"] == "unlocked"


def test_a_mailbox_made_inside_a_locked_domain_is_locked_by_it(home: Home) -> None:
    do(home, "lock", target="example.com")
    outcome = do(home, "add", target="dave@example.com", createuser=secret("pw"))
    assert "locked" in outcome.notes[0]
    assert statuses(home)["dave"] == "locked by domain"
    do(home, "unlock", target="example.com")
    assert statuses(home)["dave"] == "unlocked"


@pytest.mark.parametrize("target", ["example.com", "alice@example.com"])
def test_what_is_so_already_stays_so(home: Home, target: str) -> None:
    for word in ("unlock", "lock", "lock", "unlock", "unlock"):
        before = dump(home)
        outcome = do(home, word, target=target)
        assert outcome.changed == (dump(home) != before)
        assert outcome.changed or "already; nothing was changed" in outcome.sentence
    assert [said for _, _, said in audited(home)] == ["unchanged", "done", "unchanged", "done", "unchanged"]


def test_locks_touch_no_mail(home: Home) -> None:
    bring(home, "alice@example.com", b"one\r\n")
    before = dump(home)
    for word in ("lock", "unlock"):
        do(home, word, target="example.com")
    assert dump(home) == before


def test_everything_else_can_be_done_to_a_locked_mailbox(home: Home) -> None:
    do(home, "lock", target="alice@example.com")
    assert do(home, "changepwd", address="alice@example.com", newpassword=secret("other")).changed
    assert do(home, "delete", target="alice@example.com").changed
    do(home, "add", target="alice@example.com", createuser=secret("pw"))
    assert statuses(home)["alice"] == "unlocked"  # a new mailbox, not the old lock


@pytest.mark.parametrize("word", ["lock", "unlock"])
def test_only_what_there_is_can_be_locked(home: Home, word: str) -> None:
    assert refused(home, word, target="nowhere.example").code == "no-such-domain"
    assert refused(home, word, target="nobody@example.com").code == "no-such-mailbox"
    assert refused(home, word, target="nobody@nowhere.example").code == "no-such-mailbox"
    assert [outcome for _, _, outcome in audited(home)] == ["no-such-domain", "no-such-mailbox", "no-such-mailbox"]
