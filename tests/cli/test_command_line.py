"""The contract that scripts rely on: what goes where, exit statuses, questions, passwords."""

import getpass
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.tool import dump, winpop
from winpop.auth import passwords
from winpop.cli import terminal
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.terms.names import Address

HASH = "$argon2id$v=19$m=19456,t=2,p=1$WkFlG57QHUr9hFtGqj89Xw$lCLXYSQpcAMXe75SQ3TJJZ5kZ0xCt+lU74jew48mwSU"


def password_works(home: Home, address: str, password: bytes) -> bool:
    database = Sqlite(home)
    mailbox = mailboxes.find(database, Address.parse(address))
    database.close()
    return passwords.verify(mailbox.password_hash, password)


def test_the_first_domain_and_its_lock(tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    said = [
        winpop(home, *line.split(), given=b"pw\n")
        for line in (
            "add example.com",
            "add alice@example.com /createuser",
            "lock example.com",
            "lock example.com",
            "unlock alice@example.com",
            "unlock example.com",
            "unlock alice@example.com",
        )
    ]
    assert [result.status for result in said] == [0, 0, 0, 0, 1, 0, 0]
    assert said[2].out == "The domain example.com is locked.\n"
    assert said[3].out == "The domain example.com is locked already; nothing was changed.\n"
    assert said[4].out == ""
    assert said[4].err.startswith("winpop: The domain example.com is locked")
    assert said[4].err.endswith(" [domain-locked]\n")
    assert [result.err == "" for result in said] == [result.status == 0 for result in said]
    assert home.path.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.path.iterdir())


def test_tables_are_aligned(home: Home) -> None:
    winpop(home, "lock", "alice@example.com")
    assert winpop(home, "list", "example.com").out.splitlines() == [
        "MAILBOX            STATUS    MESSAGES  OCTETS",
        "alice@example.com  locked           0       0",
        "bob@example.com    unlocked         0       0",
    ]
    assert winpop(home, "stat").out.splitlines()[-1] == "service            stopped"


@pytest.mark.parametrize(
    ("given", "password"),
    [
        (b"new", b"new"),
        (b"new\n", b"new"),
        (b"new\r\n", b"new"),
        (b" new \n", b" new "),
        (b"new\r\r\n", None),
        (b"first\nsecond\n", b"first"),
        ("pässword\n".encode(), "pässword".encode()),
        (b"p\xe4ssword\n", b"p\xe4ssword"),
        (b"\n", None),
        (b"", None),
        (b"a\0b\n", None),
        (b"x" * 5000, None),
    ],
)
def test_a_password_is_one_line_of_standard_input(home: Home, given: bytes, password: bytes | None) -> None:
    result = winpop(home, "changepwd", "alice@example.com", given=given)
    assert result.status == (2 if password is None else 0)
    assert password_works(home, "alice@example.com", password or b"secret")


def test_a_person_is_asked_twice(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["new", "new", "one", "other"])
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(answers))
    assert winpop(home, "changepwd", "alice@example.com", person=True).status == 0
    assert password_works(home, "alice@example.com", b"new")
    result = winpop(home, "changepwd", "alice@example.com", person=True)
    assert (result.status, result.out) == (2, "")
    assert "[passwords-differ]" in result.err
    assert password_works(home, "alice@example.com", b"new")


def test_a_password_that_is_not_utf_8_is_refused_and_not_shown(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: b"CaNaRy\xff".decode("utf-8"))
    result = winpop(home, "changepwd", "alice@example.com", "--json", person=True)
    assert (result.status, result.document["error"]["code"]) == (2, "bad-password")
    assert "CaNaRy" not in result.out + result.err
    assert password_works(home, "alice@example.com", b"secret")


def test_a_password_as_argument_is_taken_with_a_note(home: Home) -> None:
    for typed in ("changepwd alice@example.com new", "add dave@example.com /createuser new"):
        result = winpop(home, *typed.split())
        assert result.status == 0
        assert "other users of this computer can see it" in result.out
    assert "can see it" not in winpop(home, "changepwd", "alice@example.com", given=b"new\n").out


def test_a_person_is_asked_before_a_deletion(home: Home) -> None:
    before = dump(home)
    for answer in (b"n\n", b"\n", b"", b"perhaps\n", b"\xff\n"):
        result = winpop(home, "delete", "example.com", given=answer, person=True)
        assert (result.status, dump(home) == before) == (1, True)
        assert "Delete the domain example.com with 2 mailboxes and 0 messages?" in result.err
        assert "[not-confirmed]" in result.err
    result = winpop(home, "delete", "nowhere.example", given=b"y\n", person=True)
    assert (result.status, "?" in result.err) == (1, False)
    assert winpop(home, "delete", "alice@example.com", given=b"y\n", person=True).status == 0
    assert winpop(home, "delete", "example.com", "--yes", person=True).status == 0
    assert winpop(home, "list").out.splitlines()[1:] == ["other.example  unlocked          1"]


def test_a_script_is_not_asked(home: Home) -> None:
    result = winpop(home, "delete", "example.com")
    assert (result.status, result.err) == (0, "")


def test_a_file_with_a_bad_row_exits_1_and_names_it(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"dave@example.com,{HASH}\nnobody,{HASH}\n")
    result = winpop(home, "add", "--from", str(file))
    assert (result.status, result.err) == (1, "")
    assert "1 added, 0 there already, 1 skipped" in result.out
    assert result.out.splitlines()[-1].split()[:3] == ["2", "-", "bad-address"]
    document = winpop(home, "--json", "add", "/from:-", given=file.read_bytes()).document
    assert (document["added"], document["present"]) == (0, 1)
    assert [row["line"] for row in document["skipped"]] == [2]
    assert winpop(home, "add", "--from", "-", given=f"dave@example.com,{HASH}".encode()).status == 0


def test_control_characters_do_not_reach_the_terminal(home: Home) -> None:
    for typed in (["unlock", "\x1b[2J\u202e.example"], ["\x1b[2J"], ["unlock", "--\x1b[2J"], ["get", "\u202e"]):
        result = winpop(home, *typed)
        assert result.status == 2
        assert "\x1b" not in result.err
        assert "\u202e" not in result.err


def test_no_traceback_is_ever_shown_unless_wanted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        password = "CaNaRy"  # noqa: F841 - it must not be shown
        raise ZeroDivisionError

    monkeypatch.setattr(domains, "lock", broken)
    before = dump(home)
    result = winpop(home, "--json", "lock", "example.com")
    assert result.status == 4
    assert result.document["error"]["code"] == "internal-error"
    assert "Traceback" not in result.err
    monkeypatch.setenv("WINPOP_DEBUG", "1")
    result = winpop(home, "lock", "example.com")
    assert "Traceback" in result.err
    assert '= "CaNaRy"' not in result.err.replace("'", '"')
    assert dump(home) == before


def test_an_interrupt_is_one_sentence(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(domains, "lock", interrupted)
    before = dump(home)
    result = winpop(home, "lock", "example.com")
    assert (result.status, result.out) == (1, "")
    assert (
        result.err == "winpop: Interrupted; 'winpop audit' tells whether anything was changed before. [interrupted]\n"
    )
    assert winpop(home, "lock", "example.com", "--json").document["error"]["code"] == "interrupted"
    assert dump(home) == before


def command(home: Home, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, in which $W is the program."""
    environment = os.environ | {"W": f"{sys.executable} -m winpop", "WINPOP_HOME": str(home.path)}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)


def test_as_a_program(home: Home) -> None:
    result = command(home, "$W unlock EXAMPLE.com && $W --json list | head -c 1; $W unlock nowhere.example")
    assert result.returncode == 1
    assert result.stdout.endswith("nothing was changed.\n{")
    assert result.stderr.count("\n") == 1
    assert command(home, f"{sys.executable} -m winpop.cli.main get").returncode == 0


def test_a_reader_that_goes_away_is_no_error(home: Home) -> None:
    result = command(home, "set -o pipefail; for n in {1..20}; do $W get | true || exit 9; done")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_full_disk_under_the_output_is_told(home: Home) -> None:
    result = command(home, "$W --json list >/dev/full")
    assert result.returncode == 4
    assert result.stderr.endswith("[output-lost]\n")
    assert result.stderr.count("\n") == 1
    assert command(home, "$W list >&- 2>&-").returncode == 0


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("$W add --from - <&-", 2, "no-such-file"),
        ("$W add --from - 0>/dev/null", 2, "no-such-file"),
        ("$W changepwd alice@example.com <&-", 2, "bad-password"),
        ("$W changepwd alice@example.com 0>/dev/null", 2, "bad-password"),
        ("$W add dave@example.com /createuser <&-", 2, "bad-password"),
        ("$W add --from - <&- >&-", 2, "no-such-file"),
        ("$W delete example.com <&- >&-", 0, ""),
        ("$W unlock <&- 2>&-", 2, ""),
    ],
)
def test_closed_streams_are_told_in_a_sentence(home: Home, line: str, status: int, code: str) -> None:
    result = command(home, line)
    assert (result.returncode, result.stdout) == (status, "" if code or status else result.stdout)
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith(f"[{code}]\n" if code else "")


def test_a_person_who_cannot_be_asked_has_not_confirmed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not terminal.confirms("Sure?")
    assert home.exists()


def test_an_interrupted_import_says_how_many_are_in(home: Home) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "winpop", "--home", str(home.path), "add", "--from", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("".join(f"user{n}@example.com,pw{n}\n" for n in range(1000)))
    process.stdin.flush()
    until = time.monotonic() + 30
    while not (count := mailbox_count(home)) and time.monotonic() < until:
        time.sleep(0.05)
    assert 0 < count < 500
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"winpop: Interrupted; {mailbox_count(home)} mailboxes went in and will stay")
    assert err.endswith("[interrupted]\n")


def mailbox_count(home: Home) -> int:
    document = winpop(home, "stat", "example.com", "--json").document
    return int(document["mailboxes"]) - 2  # those of `home`


def test_a_terminal_without_the_characters_still_shows_something(home: Home) -> None:
    result = command(home, "PYTHONIOENCODING=ascii $W help set")
    assert (result.returncode, result.stderr) == (0, "")
    assert "VALUE\\u2026" in result.stdout


def test_json_is_one_document_for_every_command(home: Home, tmp_path: Path) -> None:
    lines = (
        f"""
        help | help unlock | help nothing | | --version | unlock /? | nothing | unlock --nothing | list --home
        list | list example.com | list example.com /limit 1 | list /limit 1 | list nowhere.example
        stat | stat example.com | stat nowhere.example
        get | get socket | get port | get nothing | set autologout | set autologout 1 | set port 1 | set auth 9
        set socket 1 2 | set mailroot {tmp_path}/root | audit | audit x | serve --pop3 nonsense | serve x
        add new.example | add new.example | add a@new.example /createuser pw | add b@new.example | add --from /nowhere
        changepwd a@new.example pw2 | createquotafile a@new.example /user:x | migratetoad a@new.example
        lock new.example | unlock a@new.example | lock a@new.example | unlock new.example | unlock new.example
        unlock | unlock a b | delete a@new.example | delete new.example
    """.strip()
        .replace("\n", "|")
        .split("|")
    )
    for line in lines:
        result = winpop(home, *line.split(), "--json")
        assert isinstance(result.document, dict), line
        assert result.out.count("\n") == 1
        assert ("error" in result.document) == (result.status != 0), line
        if result.status:
            assert set(result.document["error"]) == {"code", "message"}
            assert result.err.count("\n") == 1
            assert result.document["error"]["message"] in result.err
        else:
            assert result.err == ""
