"""Every bad word, name, number, path or password: one clear sentence, the right status, nothing changed."""

from pathlib import Path

import pytest

from cli.tool import dump, winpop
from winpop.db.home import Home

BAD = [
    # words and switches
    ("unlok example.com", 2, "unknown-word"),
    ("unlock", 2, "missing-argument"),
    ("lock", 2, "missing-argument"),
    ("delete", 2, "missing-argument"),
    ("add", 2, "missing-argument"),
    ("changepwd", 2, "missing-argument"),
    ("set", 2, "missing-argument"),
    ("set autologout", 2, "missing-argument"),
    ("createquotafile", 2, "missing-argument"),
    ("migratetoad", 2, "missing-argument"),
    ("unlock example.com bob@example.com", 2, "too-many-arguments"),
    ("add dave@example.com hunter2", 2, "too-many-arguments"),
    ("list example.com x", 2, "too-many-arguments"),
    ("get auth x", 2, "too-many-arguments"),
    ("help unlock x", 2, "too-many-arguments"),
    ("help nothing", 2, "unknown-word"),
    ("unlock example.com /force", 2, "unknown-switch"),
    ("add example.org --from x.csv", 2, "no-such-file"),
    ("add --from /", 2, "no-such-file"),
    ("createquotafile alice@example.com /user:", 2, "bad-user"),
    ("-v", 2, "unknown-switch"),
    ("-V unlock", 2, "unknown-switch"),
    # names
    ("unlock example", 2, "bad-domain"),
    ("unlock example.com.", 2, "bad-domain"),
    ("unlock -example.com", 2, "bad-domain"),
    ("unlock exa_mple.com", 2, "bad-domain"),
    ("unlock 127.0.0.1", 2, "bad-domain"),
    ("unlock ../etc.passwd", 2, "bad-domain"),
    (f"unlock {'x' * 64}.example", 2, "bad-domain"),
    (f"unlock {'x.' * 200}example", 2, "bad-domain"),
    ("unlock alice@", 2, "bad-domain"),
    ("unlock @example.com", 2, "bad-mailbox-name"),
    ("unlock a@b@example.com", 2, "bad-address"),
    ("unlock ../../x@example.com", 2, "bad-mailbox-name"),
    ("unlock con@example.com", 2, "bad-mailbox-name"),
    ("unlock alicé@example.com", 2, "bad-mailbox-name"),
    (f"unlock {'x' * 65}@example.com", 2, "bad-mailbox-name"),
    ("unlock *@example.com", 2, "bad-mailbox-name"),
    ("unlock a%@example.com", 2, "bad-mailbox-name"),
    ("unlock \udcff@example.com", 2, "bad-mailbox-name"),
    ("unlock \0.example", 2, "bad-domain"),
    ("list alice@example.com", 2, "bad-domain"),
    ("changepwd example.com pw", 2, "bad-address"),
    # what there is not, or is already
    ("unlock nowhere.example", 1, "no-such-domain"),
    ("lock nobody@example.com", 1, "no-such-mailbox"),
    ("list nowhere.example", 1, "no-such-domain"),
    ("stat nowhere.example", 1, "no-such-domain"),
    ("delete nobody@example.com", 1, "no-such-mailbox"),
    ("add example.com", 1, "domain-exists"),
    ("add alice@example.com /createuser pw", 1, "mailbox-exists"),
    ("add dave@example.com", 1, "createuser-required"),
    ("add dave@nowhere.example /createuser pw", 1, "no-such-domain"),
    ("add new.example /createuser pw", 2, "createuser-needs-mailbox"),
    ("createquotafile alice@example.com", 1, "not-yet"),
    ("createquotafile alice@example.com /user:bob", 1, "not-yet"),
    ("migrateToAD alice@example.com", 4, "directory-out-of-reach"),
    # numbers
    ("set threadcount +1", 2, "bad-value"),
    ("set threadcount 0", 2, "bad-value"),
    ("set threadcount 99999999999", 2, "bad-value"),
    ("set threadcount 1.5", 2, "bad-value"),
    ("set threadcount \u0661", 2, "bad-value"),
    ("set logging 4", 2, "bad-value"),
    ("set port 0", 2, "bad-value"),
    ("set port 65536", 2, "bad-value"),
    ("set socket 1 2 3", 2, "bad-sockets"),
    ("set socket 10 50 45 10", 2, "bad-sockets"),
    ("set auth 4", 2, "bad-value"),
    ("set auth 2", 4, "directory-out-of-reach"),
    ("set sparequired 2", 2, "bad-value"),
    ("set ldapservers http://dc1.example.com", 2, "bad-value"),
    ("set ldappassword pw", 1, "secret-setting"),
    ("set apop 1 /password pw", 2, "unexpected-value"),
    ("set submission off", 1, "not-yet"),
    ("set nothing 1", 2, "no-such-setting"),
    ("get nothing", 2, "no-such-setting"),
    ("audit -5", 2, "bad-number"),
    ("list example.com /limit 0", 2, "bad-number"),
    ("list example.com /limit", 2, "missing-value"),
    ("list /limit 10", 2, "missing-argument"),
    ("list /after bob", 2, "missing-argument"),
    ("serve --workers -1", 2, "bad-value"),
    ("serve --workers 65", 2, "bad-value"),
    ("serve --pop3 nowhere", 2, "bad-endpoint"),
    ("serve --pop3 127.0.0.1:65536", 2, "bad-endpoint"),
    ("serve now", 2, "too-many-arguments"),
    # paths
    ("set mailroot /dev/null", 2, "bad-path"),
    ("set mailroot /dev/null/x", 2, "bad-path"),
    ("set mailroot /etc", 1, "mailroot-not-empty"),
    ("--home= list", 2, "bad-home"),
    ("--home \0 list", 2, "bad-home"),
    ("--home /nowhere/at/all list", 4, "no-installation"),
    ("--home /nowhere/at/all unlock example.com", 4, "no-installation"),
    ("--home /dev/null/x list", 4, "bad-home"),
    # passwords
    ("changepwd alice@example.com", 2, "bad-password"),
    (f"changepwd alice@example.com {'x' * 249}", 2, "bad-password"),
    ("changepwd alice@example.com a\rb", 2, "bad-password"),
    ("changepwd alice@example.com --hunter2", 2, "unknown-switch"),
    ("changepwd alice@example.com hunter2 hunter2", 2, "too-many-arguments"),
]


@pytest.mark.parametrize(("typed", "status", "code"), BAD, ids=[ascii(typed)[:60] for typed, _, _ in BAD])
def test_bad_input(home: Home, typed: str, status: int, code: str) -> None:
    before = dump(home), sorted(home.path.iterdir())
    result = winpop(home, *typed.split(" "), "--json")
    assert result.status == status
    assert result.document["error"]["code"] == code
    sentence = result.document["error"]["message"]
    assert sentence.endswith((".", "?"))
    assert "hunter2" not in result.out + result.err
    plain = winpop(home, *typed.split(" "))
    assert (plain.status, plain.out) == (status, "")
    assert plain.err == f"winpop: {sentence} [{code}]\n"
    assert (dump(home), sorted(home.path.iterdir())) == before


def test_a_home_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a database")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "winpop.db").write_text("not a database, and long enough to be looked at" * 100)
    for path, code in ((file, "bad-home"), (tmp_path / "home", "database-unreachable")):
        result = winpop(Home(path), "list", "--json")
        assert (result.status, result.document["error"]["code"]) == (4, code)
    assert winpop(Home(file), "add", "example.com").status == 4
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert winpop(Home(tmp_path / "open"), "add", "example.com", "--json").document["error"]["code"] == "unsafe-home"
    assert list((tmp_path / "open").iterdir()) == []


def test_a_home_that_others_may_write_in_is_refused_by_every_word(home: Home) -> None:
    home.path.chmod(0o777)
    for typed in ("list", "stat", "unlock example.com", "get", "audit", "changepwd alice@example.com new", "add x.org"):
        result = winpop(home, *typed.split(), "--json")
        assert (result.status, result.document["error"]["code"]) == (1, "unsafe-home")


def test_what_is_no_directory_is_not_offered_as_a_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert winpop(Home(tmp_path / "file"), "list").err == (
        f"winpop: {tmp_path}/file cannot be a home: Not a directory. [bad-home]\n"
    )
