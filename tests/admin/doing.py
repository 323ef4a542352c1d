"""Operations as a face invokes them, on a real database, and what is left of them there."""

import sqlite3

import pytest

from winpop.admin.authority import Actor
from winpop.admin.contract import Given, Secret
from winpop.admin.invoke import invoke
from winpop.admin.operations import OPERATIONS
from winpop.admin.outcomes import Outcome
from winpop.admin.place import Place
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store.blobs import Blobs, Draft
from winpop.store.delivery import deliver
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal

ADMINISTRATOR = Actor("root (sudo by alice)", of_the_system=True)


def do(home: Home, word: str, **given: str | Secret) -> Outcome:
    return invoked(home, word, given)


def invoked(home: Home, word: str, given: Given, actor: Actor = ADMINISTRATOR) -> Outcome:
    place = Place(home)
    try:
        return invoke(place, actor, OPERATIONS[word.lower()], given)
    finally:
        place.close()


def refused(home: Home, word: str, **given: str | Secret) -> Refusal:
    """Do what must be refused and must change nothing; return the refusal."""
    return refused_to(ADMINISTRATOR, home, word, given)


def refused_to(actor: Actor, home: Home, word: str, given: Given) -> Refusal:
    before = dump(home)
    with pytest.raises(Refusal) as caught:
        invoked(home, word, given, actor)
    assert dump(home) == before
    assert caught.value.sentence.endswith((".", "?"))
    return caught.value


def secret(text: str) -> Secret:
    return lambda: text


def dump(home: Home) -> list[str]:
    """Return the whole database but the audit."""
    connection = sqlite3.connect(home.database)
    lines = [line for line in connection.iterdump() if "audit" not in line]
    connection.close()
    return lines


def audited(home: Home) -> list[tuple[str, ...]]:
    """Return operation, target and outcome of all audit rows."""
    connection = sqlite3.connect(home.database)
    rows: list[tuple[str, ...]] = connection.execute(
        "SELECT operation, target, outcome FROM audit ORDER BY id"
    ).fetchall()
    connection.close()
    return rows


def bring(home: Home, address: str, octets: bytes, root: str = "") -> None:
    """Deliver a message; a large one lies in the mail root."""
    blobs = Blobs(home.mail_root(root))
    blobs.make()
    draft = Draft(blobs)
    draft.write(octets)
    content = draft.finish()
    database = Sqlite(home)
    with database.write() as transaction:
        deliver(transaction, [Address.parse(address)], content, b"", plain=True)
    database.close()
