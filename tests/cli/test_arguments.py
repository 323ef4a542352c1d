"""Words and switches as people type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.tool import winpop
from winpop.cli.arguments import Command, parse, wants_json
from winpop.cli.words import SYNTAX
from winpop.terms.refusals import Refusal

SWITCHES = sorted({switch for syntax in SYNTAX.values() for switch in syntax.switches})
TOKENS = st.one_of(
    st.sampled_from(sorted(SYNTAX)),
    st.sampled_from(SWITCHES).flatmap(
        lambda name: st.sampled_from([f"/{name}", f"--{name}", f"/{name}:x", f"--{name}=x"])
    ),
    st.sampled_from(["--", "-", "/", "--json", "/?", "-h", "--home", "", "/=", "--=", "a@b.example", "example.com"]),
    st.text(max_size=8),
    st.text(alphabet="/-:=?aA \udcff\0\n", max_size=6),
)


@pytest.mark.parametrize(
    ("typed", "word", "words", "switches"),
    [
        ("unlock example.com", "unlock", ("example.com",), {}),
        ("UNLOCK Example.com", "unlock", ("Example.com",), {}),
        ("MigrateToAd a@b.example", "migratetoad", ("a@b.example",), {}),
        ("add a@b.example /createuser pw", "add", ("a@b.example",), {"createuser": "pw"}),
        ("add a@b.example /CreateUser pw", "add", ("a@b.example",), {"createuser": "pw"}),
        ("add a@b.example --create-user pw", "add", ("a@b.example",), {"createuser": "pw"}),
        ("add a@b.example --createuser=pw=1", "add", ("a@b.example",), {"createuser": "pw=1"}),
        ("add a@b.example /createuser:p:w", "add", ("a@b.example",), {"createuser": "p:w"}),
        ("add /createuser pw a@b.example", "add", ("a@b.example",), {"createuser": "pw"}),
        ("add a@b.example /createuser", "add", ("a@b.example",), {"createuser": None}),
        ("add a@b.example /createuser --json", "add", ("a@b.example",), {"createuser": None, "json": None}),
        ("add a@b.example /createuser /secret", "add", ("a@b.example",), {"createuser": "/secret"}),
        ("add --from /tmp/list.csv", "add", (), {"from": "/tmp/list.csv"}),
        ("add --from -", "add", (), {"from": "-"}),
        ("createquotafile a@b.example /user:bob", "createquotafile", ("a@b.example",), {"user": "bob"}),
        ("createquotafile a@b.example --user bob", "createquotafile", ("a@b.example",), {"user": "bob"}),
        ("delete b.example --yes /deleteuser", "delete", ("b.example",), {"yes": None, "deleteuser": None}),
        ("set mailroot /srv/mail", "set", ("mailroot", "/srv/mail"), {}),
        ("set mailroot /home", "set", ("mailroot", "/home"), {}),
        ("set mailroot /home/mail:1", "set", ("mailroot", "/home/mail:1"), {}),
        ("--home /srv list", "list", (), {"home": "/srv"}),
        ("list --home=/srv --JSON", "list", (), {"home": "/srv", "json": None}),
        ("/home:/srv list", "list", (), {"home": "/srv"}),
        ("changepwd a@b.example /secret", "changepwd", ("a@b.example", "/secret"), {}),
        ("changepwd a@b.example -- --secret", "changepwd", ("a@b.example", "--secret"), {}),
        ("changepwd a@b.example -secret", "changepwd", ("a@b.example", "-secret"), {}),
        ("unlock /?", "unlock", (), {"help": None}),
        ("unlock -h", "unlock", (), {"help": None}),
        ("--workers 0 --pop3 127.0.0.1:0 serve", "serve", (), {"workers": "0", "pop3": "127.0.0.1:0"}),
        ("serve /smtp:[::1]:25", "serve", (), {"smtp": "[::1]:25"}),
        ("--version", None, (), {"version": None}),
        ("", None, (), {}),
    ],
)  # fmt: skip
def test_what_is_typed_is_understood(
    typed: str, word: str | None, words: tuple[str, ...], switches: dict[str, str | None]
) -> None:
    assert parse(typed.split()) == Command(word, words, switches)


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("unlok example.com", "unknown-word"),
        ("unlock example.com /force", "unknown-switch"),
        ("unlock example.com --force", "unknown-switch"),
        ("unlock /etc/passwd", "unknown-switch"),
        ("--force unlock example.com", "unknown-switch"),
        ("lock example.com --yes", "unknown-switch"),
        ("--home", "missing-value"),
        ("list --home --json", "missing-value"),
        ("add --from", "missing-value"),
        ("list --json=1", "unexpected-value"),
        ("delete example.com /yes:no", "unexpected-value"),
        ("changepwd a@b.example --secret", "unknown-switch"),
    ],
)
def test_what_cannot_be_understood_is_refused(typed: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(typed.split())
    assert caught.value.code == code


@pytest.mark.parametrize("typed", ["changepwd a@b.example --hunter2", "add a@b.example --createusr=hunter2"])
def test_a_password_that_looks_like_a_switch_is_not_quoted(typed: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(typed.split())
    assert "hunter2" not in caught.value.sentence


def test_the_nearest_word_is_suggested() -> None:
    for typed, near in (("unlok", "unlock"), ("MigrateAD", "migrateToAD"), ("serv", "serve"), ("lst", "list")):
        with pytest.raises(Refusal, match=f"'{near}'"):
            parse([typed])
    with pytest.raises(Refusal, match="winpop help"):
        parse(["xyzzy"])


def parsed(typed: list[str]) -> Command | Refusal:
    try:
        return parse(typed)
    except Refusal as refusal:
        return refusal


@given(st.lists(TOKENS, max_size=6))
def test_nothing_that_is_typed_breaks_the_parser(typed: list[str]) -> None:
    wants_json(typed)
    result = parsed(typed)
    if isinstance(result, Refusal):
        assert result.sentence.endswith(("?", "."))
        assert result.sentence.isprintable()
    else:
        assert result.word is None or result.word in SYNTAX


@given(st.lists(TOKENS, max_size=5))
def test_nothing_that_is_typed_breaks_the_program(typed: list[str]) -> None:
    if "serve" in [text.lower() for text in typed]:
        return
    result = winpop(None, "--home", "/dev/null/nowhere", *typed)
    assert "internal-error" not in result.err
    assert result.status in range(5)
    assert (result.status == 0) == (result.err == "")
