"""The word `certificate`, as it is typed and as other faces invoke it."""

import io
import json
import re
import sqlite3
import time
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519

from admin.doing import ADMINISTRATOR as ROOT
from admin.doing import audited, dump, invoked, refused_to
from auth.authorities import blocks, issued, odd, root_of, rsa_key, written
from cli.tool import Result, winpop
from winpop.admin.authority import Actor
from winpop.admin.certificates import ensure
from winpop.auth.certificates import Pair, facts, make_self_signed
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import certificates
from winpop.directory import settings as settings_table
from winpop.services.tls import Tls
from winpop.telemetry.log import Log
from winpop.terms import files
from winpop.terms.files import File
from winpop.terms.refusals import Kind


@pytest.fixture
def named(database: Sqlite) -> None:
    """The server calls itself mail.example.com."""
    with database.write() as transaction:
        settings_table.store(transaction, {"hostname": "mail.example.com"})


pytestmark = pytest.mark.usefixtures("named")


def take(home: Home, directory: Path, pair: Pair, *switches: str) -> Result:
    """Type the command that takes a pair; it must work."""
    result = winpop(home, "certificate", *written(directory, pair), *switches, "--json")
    assert result.status == 0, result
    return result


def shown(home: Home) -> list[tuple[str, bool]]:
    """Return names and default of what is listed, the oldest first."""
    document = winpop(home, "certificate", "--json").document
    return [(",".join(one["names"]), one["default"]) for one in document["certificates"]]


def refuses(home: Home, *typed: str) -> str:
    """Type what must be refused in one sentence and change nothing; return the code."""
    before = dump(home)
    result = winpop(home, "certificate", *typed)
    assert dump(home) == before
    assert result.status in {1, 2, 3}
    assert result.out == ""
    said = re.fullmatch(r"winpop: (.*[.?]) \[([a-z-]+)\]\n", result.err)
    assert said is not None, result.err
    return said[2]


# --- taking pairs ---


def test_the_first_is_the_default_and_the_others_are_not(home: Home, tmp_path: Path) -> None:
    first = take(home, tmp_path, issued("mail.example.com")).document
    assert (first["changed"], first["default"], first["replaced"], first["notes"]) == (True, True, False, [])
    assert first["names"] == ["mail.example.com"]
    assert first["days_left"] == 89
    take(home, tmp_path, issued("mail.example.org", "*.example.org"))
    assert shown(home) == [("mail.example.com", True), ("mail.example.org,*.example.org", False)]
    take(home, tmp_path, issued("third.example"), "/default")
    assert [default for _, default in shown(home)] == [False, False, True]


def test_the_same_names_take_the_place_and_the_role(home: Home, tmp_path: Path) -> None:
    take(home, tmp_path, issued("a.example", "b.example"))
    take(home, tmp_path, issued("c.example"))
    result = take(home, tmp_path, issued("b.example", "a.example")).document
    assert (result["replaced"], result["default"]) == (True, True)
    assert shown(home) == [("c.example", False), ("b.example,a.example", True)]
    assert audited(home)[-1] == ("certificate", "b.example, a.example", "done")


def test_what_is_there_already_changes_nothing(home: Home, tmp_path: Path) -> None:
    pair, other = issued("mail.example.com"), issued("other.example")
    take(home, tmp_path, pair)
    take(home, tmp_path, other)
    before = dump(home)
    assert not take(home, tmp_path, pair).document["changed"]
    assert not take(home, tmp_path, pair, "/default").document["changed"]
    assert not take(home, tmp_path, other).document["changed"]
    assert dump(home) == before
    assert audited(home)[-1] == ("certificate", "other.example", "unchanged")
    assert take(home, tmp_path, other, "/default").document["changed"]
    assert shown(home) == [("mail.example.com", False), ("other.example", True)]


def test_a_self_signed_one_gives_way_to_a_real_one(home: Home, database: Sqlite, tmp_path: Path) -> None:
    ensure(database, "mail.example.com")
    take(home, tmp_path, issued("other.example"))
    assert shown(home) == [("other.example", True)]  # what was made for want of another is gone
    assert winpop(home, "certificate", "/remove", "other.example").status == 0
    take(home, tmp_path, odd(subject="own.example"))
    take(home, tmp_path, odd(subject="two.example"))
    take(home, tmp_path, issued("mail.example.com"))
    assert shown(home) == [("own.example", False), ("two.example", False), ("mail.example.com", True)]


def test_one_file_may_hold_both(home: Home, tmp_path: Path) -> None:
    pair = issued("mail.example.com")
    (tmp_path / "both.pem").write_text(pair.private_key + pair.chain)
    both = str(tmp_path / "both.pem")
    assert winpop(home, "certificate", both, both).status == 0
    assert winpop(home, "certificate", "-", both, given=pair.chain.encode()).out.count("already") == 1


def test_what_a_person_may_not_expect_is_said(home: Home, tmp_path: Path) -> None:
    [cover, soon] = take(home, tmp_path, issued("a.example", "b.example", days=13.5)).document["notes"]
    assert "No certificate here covers mail.example.com" in cover
    assert "13 more days" in soon
    [again, overlap] = take(home, tmp_path, issued("a.example")).document["notes"]
    assert "a.example, b.example is still there" in overlap
    assert again == cover
    assert take(home, tmp_path, issued("*.example.com")).document["notes"] == []
    assert take(home, tmp_path, issued("c.example")).document["notes"] == []  # another covers the host


# --- refusals ---


def bad_pairs() -> dict[str, tuple[Pair, str]]:
    good, other, root = issued("mail.example.com"), issued("mail.example.com"), trustme.CA()
    deep = issued("mail.example.com", by=root.create_child_ca())
    old, new = issued("mail.example.com", since=-9, days=-1), issued("mail.example.com", since=1)
    weak = odd(key=rsa_key(1024))
    return {
        "no-certificate": (Pair(good.private_key, good.private_key), "chain"),
        "not-pem": (Pair(good.chain, "nonsense"), "key"),
        "no-key": (Pair(good.chain, good.chain), "key"),
        "several-keys": (Pair(good.chain, good.private_key + other.private_key), "key"),
        "key-mismatch": (Pair(good.chain, other.private_key), "key"),
        "expired": (old, "chain"),
        "not-yet-valid": (new, "chain"),
        "chain-broken": (Pair(good.chain + root_of(root), good.private_key), "chain"),
        "chain-order": (Pair("".join(reversed(blocks(deep.chain))), deep.private_key), "chain"),
        "too-weak": (weak, "chain"),
        "no-names": (odd(subject="Alice Smith"), "chain"),
    }  # fmt: skip


def test_a_refused_pair_leaves_the_old_one(home: Home, tmp_path: Path) -> None:
    take(home, tmp_path, issued("mail.example.com"))
    for code, (pair, which) in bad_pairs().items():
        paths = written(tmp_path, pair, "bad")
        assert refuses(home, *paths) == code
        result = winpop(home, "certificate", *paths, "--json")
        assert result.document["error"]["code"] == code
        assert f"bad.{which}.pem" in result.document["error"]["message"]
        assert audited(home)[-1] == ("certificate", " ".join(paths), code)
        assert not any(line in result.out + result.err for line in pair.private_key.splitlines()[1:-1])
    assert shown(home) == [("mail.example.com", True)]


def test_files_that_cannot_be_read(home: Home, tmp_path: Path) -> None:
    chain, key = written(tmp_path, issued("mail.example.com"))
    assert refuses(home, chain, str(tmp_path / "missing.pem")) == "no-such-file"
    assert refuses(home, str(tmp_path), key) == "no-such-file"
    assert refuses(home, "a\0b", key) == "no-such-file"
    (tmp_path / "large.pem").write_bytes(b"x" * (files.LONGEST + 1))
    assert refuses(home, str(tmp_path / "large.pem"), key) == "file-too-large"
    (tmp_path / "large.pem").write_bytes(b"x" * files.LONGEST)
    assert refuses(home, str(tmp_path / "large.pem"), key) == "not-pem"
    assert refuses(home, "/dev/zero", key) == "file-too-large"


def test_a_file_that_one_may_not_read_is_not_read_as_somebody_else(home: Home, tmp_path: Path) -> None:
    chain, key = written(tmp_path, issued("mail.example.com"))
    real = Path.open

    def opened(self: Path, mode: str = "r") -> io.BufferedReader:
        if str(self) == key:
            raise PermissionError(13, "Permission denied")
        return real(self, mode)  # type: ignore[return-value]  # it is opened for octets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        assert refuses(home, chain, key) == "not-permitted"


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("CHAIN", "missing-argument"),
        ("/default", "missing-argument"),
        ("CHAIN KEY CHAIN", "too-many-arguments"),
        ("CHAIN KEY /remove x", "too-many-arguments"),
        ("CHAIN KEY /clients none", "too-many-arguments"),
        ("/remove x /clients CHAIN", "too-many-arguments"),
        ("/remove", "missing-value"),
        ("/clients", "missing-value"),
        ("/remove nowhere.example", "no-such-certificate"),
        ("/remove ,", "no-such-certificate"),
        ("/clients CHAIN", "no-authority"),
    ],
)
def test_what_cannot_be_meant_is_refused(home: Home, tmp_path: Path, typed: str, code: str) -> None:
    chain, key = written(tmp_path, issued("mail.example.com"))
    assert refuses(home, *[{"CHAIN": chain, "KEY": key}.get(word, word) for word in typed.split()]) == code


def test_only_administrators_may(home: Home) -> None:
    pair = issued("mail.example.com")
    given = {"chainfile": File("c", pair.chain.encode()), "keyfile": File("k", pair.private_key.encode())}
    refusal = refused_to(Actor("mallory"), home, "certificate", given)
    assert (refusal.code, refusal.kind) == ("not-permitted", Kind.NOT_PERMITTED)
    assert audited(home)[-1] == ("certificate", "c k", "not-permitted")
    assert invoked(home, "certificate", given, ROOT).changed


# --- showing ---


def test_a_list_shows_what_matters_and_no_key(home: Home, database: Sqlite, tmp_path: Path) -> None:
    assert "no certificate yet" in winpop(home, "certificate").out
    pair = issued("mail.example.com", "*.example.com", days=30.5)
    take(home, tmp_path, pair)
    take(home, tmp_path, odd(subject="own.example", key=ed25519.Ed25519PrivateKey.generate()))
    until = time.strftime("%Y-%m-%d", time.gmtime(facts(pair.chain)[0].not_after))
    lines = winpop(home, "certificate").out.splitlines()
    assert re.split(r"  +", lines[0]) == ["NAMES", "ISSUER", "UNTIL", "DAYS LEFT", "DEFAULT", "SELF-SIGNED"]
    assert re.split(r"  +", lines[1])[0] == "mail.example.com, *.example.com"
    assert re.split(r"  +", lines[1])[2:] == [until, "30", "yes", "no"]
    assert re.split(r"  +", lines[2])[4:] == ["no", "yes"]
    count = len(audited(home))
    document = winpop(home, "certificate", "--json")
    assert len(audited(home)) == count  # who looks changes nothing
    assert set(document.document["certificates"][0]) == {
        "names", "issuer", "not_before", "not_after", "days_left", "default", "self_signed", "damaged",
    }  # fmt: skip
    for stored in certificates.every(database, certificates.SERVER):
        assert "PRIVATE" in stored.private_key
        for line in stored.private_key.splitlines()[1:-1]:
            assert line not in document.out + "\n".join(lines) + repr(stored)
    assert "PRIVATE" not in document.out


def test_a_damaged_row_is_shown_and_can_be_removed(home: Home, database: Sqlite, tmp_path: Path) -> None:
    with database.write() as transaction:
        transaction.run(
            "INSERT INTO certificate (use, chain, private_key, is_default) "
            "VALUES ('server', CAST(x'ff00' AS TEXT), '', 1)"
        )
    assert "damaged" in winpop(home, "certificate").out
    assert winpop(home, "certificate", "--json").document["certificates"][0]["damaged"]
    take(home, tmp_path, issued("mail.example.com"))
    assert shown(home) == [("", False), ("mail.example.com", True)]
    assert winpop(home, "certificate", "/remove", "damaged").status == 0
    assert shown(home) == [("mail.example.com", True)]


# --- removing ---


def test_removing_by_name_and_by_all_names(home: Home, tmp_path: Path) -> None:
    for names in (["a.example"], ["a.example", "b.example"], ["a.example", "b.example", "c.example"]):
        take(home, tmp_path, issued(*names))
    assert refuses(home, "/remove", "b.example") == "several-certificates"
    assert winpop(home, "certificate", "/remove", "C.example.").status == 0
    assert winpop(home, "certificate", "/remove", "a.example").status == 0  # just this name
    assert shown(home) == [("a.example,b.example", True)]
    take(home, tmp_path, issued("b.example", "c.example"))
    assert winpop(home, "certificate", "/remove:b.example,a.example").status == 0
    assert shown(home) == [("b.example,c.example", True)]
    assert audited(home)[-1][1] == "remove b.example,a.example"


def test_there_is_always_one_left(home: Home, tmp_path: Path) -> None:
    take(home, tmp_path, issued("a.example"))
    result = winpop(home, "certificate", "/remove", "a.example")
    assert "made for mail.example.com" in result.out
    assert shown(home) == [("mail.example.com,localhost", True)]
    before = dump(home)
    assert winpop(home, "certificate", "/remove", "localhost").status == 0
    assert shown(home) == [("mail.example.com,localhost", True)]
    assert dump(home) != before  # with another key


# --- clients ---


def test_the_authority_of_clients_is_taken_replaced_and_removed(home: Home, database: Sqlite, tmp_path: Path) -> None:
    one, two = tmp_path / "one.pem", tmp_path / "two.pem"
    one.write_text(root_of(trustme.CA(organization_name="One")))
    two.write_text(root_of(trustme.CA(organization_name="Two")))
    assert "signed by 'One" in winpop(home, "certificate", "/clients", str(one)).out
    assert "already" in winpop(home, "certificate", f"/clients:{one}").out
    assert winpop(home, "certificate", "--json").document["clients"][0]["name"].startswith("One")
    winpop(home, "certificate", "--clients", str(two))
    [stored] = certificates.every(database, certificates.CLIENTS)
    assert (stored.private_key, facts(stored.chain)[0].subject[:3]) == ("", "Two")
    assert winpop(home, "certificate", "/clients", "NONE", "--json").document["changed"]
    assert not winpop(home, "certificate", "/clients", "none", "--json").document["changed"]
    assert certificates.every(database, certificates.CLIENTS) == []
    assert [outcome for word, _, outcome in audited(home) if word == "certificate"] == [
        "done", "unchanged", "done", "done", "unchanged",
    ]  # fmt: skip


# --- at the start of the service ---


def test_the_service_makes_one_where_there_is_none(home: Home, database: Sqlite, tmp_path: Path) -> None:
    assert ensure(database, "mail.example.com")
    assert not ensure(database, "mail.example.com")
    assert shown(home) == [("mail.example.com,localhost", True)]
    assert audited(home) == [("certificate", "self-signed for mail.example.com", "done")]
    assert database.one("SELECT actor FROM audit") == ("winpop",)
    take(home, tmp_path, issued("a.example"))
    assert not ensure(database, "mail.example.com")


def test_a_row_and_its_audit_are_one_transaction(home: Home, database: Sqlite) -> None:
    with database.write() as transaction:
        transaction.run("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    before = dump(home)
    with pytest.raises(sqlite3.IntegrityError):
        ensure(database, "mail.example.com")
    assert dump(home) == before


def test_workers_take_what_was_typed(home: Home, database: Sqlite, tmp_path: Path) -> None:
    lines: list[str] = []
    tls, contexts = Tls(Log(write=lines.append)), []
    ensure(database, "mail.example.com")
    for pair in (issued("mail.example.com"), issued("mail.example.com")):
        tls.take(database)
        contexts.append(tls.context)
        take(home, tmp_path, pair)
    tls.take(database)
    contexts.append(tls.context)
    assert len({context.end_point for context in contexts if context}) == 3
    assert not lines


def test_the_pair_of_a_place_is_kept_as_it_was_made(database: Sqlite) -> None:
    pair = make_self_signed("localhost", time.time())
    with database.write() as transaction:
        certificates.add(transaction, pair.chain, pair.private_key, default=True)
    [stored] = certificates.every(database, certificates.SERVER)
    assert Pair(stored.chain, stored.private_key) == pair
    assert pair.private_key.splitlines()[1] not in json.dumps(str(stored))
