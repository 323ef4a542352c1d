"""Whether SCRAM can be offered: asked every few seconds, of however many mailboxes."""

import itertools

import pytest

from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes

KEYS = list(itertools.product([None, "key"], repeat=2))


@pytest.mark.parametrize("account", [False, True])
@pytest.mark.parametrize("bob", KEYS)
@pytest.mark.parametrize("alice", KEYS)
def test_all_have_scram_keys_when_each_has_both_and_none_is_elsewhere(
    database: Sqlite, alice: tuple[str | None, ...], bob: tuple[str | None, ...], *, account: bool
) -> None:
    with database.write() as transaction:
        for identifier, keys in ((1, alice), (2, bob)):
            transaction.run(
                "UPDATE password SET scram_sha_1 = ?, scram_sha_256 = ? WHERE mailbox_id = ?", *keys, identifier
            )
        if account:
            mailboxes.set_account(transaction, 1, 2, "an account in Active Directory")
    assert mailboxes.all_have_scram_keys(database) == (alice == bob == ("key", "key") and not account)


def test_it_costs_nothing_to_ask(database: Sqlite) -> None:
    asked: list[str] = []
    database._connection.set_trace_callback(asked.append)
    assert mailboxes.all_have_scram_keys(database)
    database._connection.set_trace_callback(None)
    (query,) = asked
    steps = [str(row[3]) for row in database.all(f"EXPLAIN QUERY PLAN {query}")]
    assert "SCAN password USING INDEX password_without_scram" in steps  # which is empty when the answer is yes
    assert "SCAN password" not in steps
