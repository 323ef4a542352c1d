"""The help tells of everything; the home and the person are found where they should be."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cli.tool import winpop
from winpop import __version__
from winpop.cli import surroundings
from winpop.cli.words import SYNTAX
from winpop.db import home as home_module
from winpop.db.home import Home, _needed, check_owner
from winpop.terms.refusals import Refusal

NOBODY = 65534
# In CI they are not skipped: there they fail where there is no root.
as_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root, which alone can become somebody else"
)


@pytest.mark.parametrize("word", SYNTAX)
def test_the_help_of_a_word_names_all_its_switches(word: str) -> None:
    text = winpop(None, "help", word.upper()).out
    assert all(f"/{switch}" in text for switch in SYNTAX[word].switches)
    assert text.lower().startswith(f"winpop {word}")
    typed = [[word, "--help"], [word, "/?"], ["-h", word], [word, "x", "--help"]] if word != "help" else []
    assert all(winpop(None, *each).out == text for each in typed)


def test_the_help_names_every_word_and_global_switch() -> None:
    text = winpop(None).out
    assert all(f"  {word}" in text.lower() for word in SYNTAX)
    assert all(switch in text for switch in ("--home", "--json", "--help", "--version"))
    assert winpop(None, "help").out == winpop(None, "/?").out == text
    assert winpop(None, "help", "--json").document == {"help": text.removesuffix("\n")}
    assert max(map(len, text.splitlines())) <= 140


def test_the_version() -> None:
    assert winpop(None, "--version").out == f"winpop {__version__}\n"
    assert winpop(None, "--version", "--json").document == {"version": __version__}


def test_where_the_home_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINPOP_HOME", "/from/environment")
    assert surroundings.home("relative").path == tmp_path / "relative"
    assert surroundings.home(None).path == Path("/from/environment")
    for root, path in ((0, Path("/var/lib/winpop")), (1000, tmp_path / "data" / "winpop")):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.setenv("WINPOP_HOME", "")
        monkeypatch.setattr(os, "geteuid", lambda root=root: root)
        assert surroundings.home(None).path == path
    for bad in ("", "\0"):
        with pytest.raises(Refusal, match="cannot be a home"):
            surroundings.home(bad)


def test_who_is_typing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert surroundings.actor().name == "root (sudo by alice)"
    monkeypatch.setattr(os, "getuid", lambda: 999_999)
    assert surroundings.actor().name == "uid 999999"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others can reach, as pytest's own cannot be."""
    made = Path(tempfile.mkdtemp(prefix="winpop-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@as_root
def test_root_becomes_the_owner_of_the_home(place: Path) -> None:
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    (place / "list.csv").write_text("")
    (place / "list.csv").chmod(0o600)  # root's own; it is opened before
    for typed in (
        ["add", "example.com"],
        ["add", "--from", str(place / "list.csv")],
        ["lock", "example.com"],
        ["stat"],
    ):
        assert winpop_as(0, home, *typed).returncode == 0
    assert {path.stat().st_uid for path in home.rglob("*")} == {NOBODY}
    assert "root" in winpop_as(0, home, "audit").stdout


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_who_may_not_use_the_home_is_told(place: Path, mode: int) -> None:
    home = Home(place / "home")
    assert winpop(home, "add", "example.com").status == 0
    home.path.chmod(mode)
    for typed in (["list"], ["unlock", "example.com"], ["add", "example.org"]):
        result = winpop_as(NOBODY, home.path, *typed)
        assert result.stderr.endswith("[not-permitted]\n")
        assert (result.returncode, result.stdout) == (3, "")
    result = winpop_as(NOBODY, place / "other", "add", "example.org")
    assert result.returncode == 3


@as_root
def test_root_does_not_become_who_cannot_read_this_python(place: Path) -> None:
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    secret = place / "module.py"
    secret.write_text("")
    secret.chmod(0o600)
    for typed in (["add", "example.com"], ["list"]):
        result = winpop_as(0, home, *typed, needed=[str(secret)])
        assert (result.returncode, result.stdout) == (3, "")
        assert f"cannot read {secret}" in result.stderr
        assert result.stderr.endswith("[not-permitted]\n")
    assert list(home.iterdir()) == []


@as_root
def test_looking_for_the_owner_changes_nobody(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(place, NOBODY, NOBODY)
    before = os.getresuid(), os.getresgid(), os.getgroups()
    monkeypatch.setattr(home_module, "_needed", list)
    owner = check_owner(place)
    assert owner is not None
    assert owner.st_uid == NOBODY
    monkeypatch.setattr(home_module, "_needed", lambda: ["/etc/shadow"])
    with pytest.raises(Refusal, match="cannot read /etc/shadow"):
        check_owner(place)
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
    assert check_owner(place / "missing") is None


def test_what_the_owner_must_read_is_there() -> None:
    needed = _needed()
    assert sys.executable in needed
    assert [
        name for name in ("os.py", "home.py", "__init__.py") if not any(path.endswith(name) for path in needed)
    ] == []
    assert all(os.access(path, os.R_OK) for path in needed)


# Everything is loaded before the program becomes another user, who may not be able to read this Python.
PROGRAM = """
import concurrent.futures.thread, csv, os, pwd, resource, sys
import winpop.admin.mailboxes_from_file, winpop.auth.local.root_hands, winpop.cli.main, winpop.db.migrations
for operation in winpop.cli.main.OPERATIONS.values():
    [late.function() for late in (operation.run, operation.prepare) if late]
winpop.db.home._needed = lambda needed=sys.argv.pop(2).split(): needed
winpop.db.migrations.steps()
if (user := int(sys.argv.pop(1))):
    os.setgroups([]), os.setgid(user), os.setuid(user)
sys.exit(winpop.cli.main.main())
"""


def winpop_as(user: int, home: Path, *typed: str, needed: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(user), " ".join(needed), "--home", str(home), *typed]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
