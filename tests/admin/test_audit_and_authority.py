"""Every change leaves its row in the same transaction; what is not permitted is refused."""

import json
import sqlite3

import pytest

from admin.doing import audited, do, invoked, refused, refused_to, secret
from winpop.admin import audit as audit_rows
from winpop.admin.authority import Actor
from winpop.admin.operations import OPERATIONS
from winpop.db.home import Home
from winpop.terms.refusals import Kind, Refusal

CANARY = "CaNaRy-w8rd"


def test_each_change_moves_the_change_feed(home: Home) -> None:
    changes: list[tuple[str, dict[str, str]]] = [
        ("lock", {"target": "example.com"}),
        ("unlock", {"target": "example.com"}),
        ("set", {"name": "autologout", "values": "900"}),
        ("delete", {"target": "alice@example.com"}),
    ]
    for count, (word, given) in enumerate(changes, start=1):
        invoked(home, word, given)
        assert len(audited(home)) == count
    do(home, "list")
    do(home, "get")
    assert len(audited(home)) == len(changes)


def test_a_change_whose_row_cannot_be_written_does_not_happen(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Refusal("disk-full", "Full.", Kind.OUT_OF_REACH)

    monkeypatch.setattr(audit_rows, "write", fail)
    with pytest.raises(Refusal):
        do(home, "lock", target="example.com")
    monkeypatch.undo()
    assert do(home, "list").data["domains"][0]["locked"] is False


def test_who_is_a_stranger_may_do_nothing(home: Home) -> None:
    stranger = Actor("mallory\x1b[2J")
    for operation in OPERATIONS.values():
        given = {argument.name: "alice@example.com" for argument in operation.arguments if not argument.secret}
        given |= {"name": "autologout"} if "name" in given else {}
        given |= {"domain": "example.com"} if "domain" in given else {}
        given |= {"count": "5"} if "count" in given else {}
        refusal = refused_to(stranger, home, operation.word, given)
        assert (refusal.code, refusal.kind) == ("not-permitted", Kind.NOT_PERMITTED)
        assert "\x1b" not in refusal.sentence
    assert {outcome for _, _, outcome in audited(home)} == {"not-permitted"}
    assert len(audited(home)) == sum(operation.changes for operation in OPERATIONS.values())


def test_secrets_never_reach_the_audit(home: Home) -> None:
    do(home, "add", target="dave@example.com", createuser=secret(CANARY))
    do(home, "changepwd", address="dave@example.com", newpassword=secret(CANARY))
    with pytest.raises(Refusal):  # the password where the address should be
        do(home, "changepwd", address=CANARY, newpassword=secret("dave@example.com"))
    connection = sqlite3.connect(home.database)
    assert CANARY not in "\n".join(connection.iterdump())
    connection.close()


def test_audit_shows_the_last_rows_with_the_newest_last(home: Home) -> None:
    assert do(home, "audit").sentence == "Nothing has been changed yet."
    for _ in range(15):
        do(home, "lock", target="example.com")
        do(home, "unlock", target="example.com")
    rows = do(home, "audit").data["audit"]
    assert len(rows) == audit_rows.DEFAULT_COUNT
    assert [row["operation"] for row in do(home, "audit", count="2").data["audit"]] == ["lock", "unlock"]
    assert rows[-1] | {"time": ""} == {
        "time": "",
        "actor": "root (sudo by alice)",
        "operation": "unlock",
        "target": "example.com",
        "outcome": "done",
    }
    for bad in ("0", "-1", "x", "10001", "99999999999"):
        assert refused(home, "audit", count=bad).code == "bad-number"


def test_what_operations_say_is_json(home: Home) -> None:
    for outcome in (do(home, "list"), do(home, "list", domain="example.com"), do(home, "stat"), do(home, "get")):
        assert json.loads(json.dumps(outcome.data)) == outcome.data
