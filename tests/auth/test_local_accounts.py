"""Users that are made for mailboxes: real ones, and all removed again."""

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from auth import local_parts as parts
from winpop.auth.contract import Right
from winpop.auth.local import hands, pam, users
from winpop.auth.local.accounts import LocalAccounts
from winpop.auth.local.hands import OwnHands
from winpop.auth.local.root_hands import RootHands, root_hands
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal

# The process of pytest-xdist has threads; what is forked from it here takes no lock that one of them could hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

SECRET = b"CaNaRy-77 \xc3\xbc:\xff"


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    parts.need_root()
    with parts.the_group():
        yield


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no user has; a user who has it afterwards is removed."""
    made = parts.unique()
    yield made
    parts.run("userdel", made, check=False)


@pytest.fixture(params=["itself", "a child"])
def accounts(request: pytest.FixtureRequest) -> Iterator[LocalAccounts]:
    """As the tool has them: while it is root itself, and by the child that keeps root."""
    if request.param == "itself":
        yield LocalAccounts()
        return
    own = root_hands()
    assert isinstance(own, RootHands)
    yield LocalAccounts(own)
    own.close()


def address(name: str) -> Address:
    return Address.parse(f"{name}@example.com")


def verified(name: str, password: bytes) -> bool:
    with parts.service() as service:
        return pam.verify(service, name, password, pam.UNKNOWN_HOST) == Right()


def refused(code: str, kind: Kind = Kind.REFUSED) -> "pytest.RaisesExc[Refusal]":
    return pytest.raises(Refusal, check=lambda refusal: (refusal.code, refusal.kind) == (code, kind))


def test_a_user_is_made_found_given_another_password_and_deleted(accounts: LocalAccounts, name: str) -> None:
    assert accounts.find(address(name)) is None
    assert accounts.create(address(name), SECRET) == name
    assert accounts.find(address(name)) == name
    assert verified(name, SECRET)
    accounts.set_password(name, b"other")
    assert verified(name, b"other")
    assert not verified(name, SECRET)
    accounts.delete(name)
    assert accounts.find(address(name)) is None
    accounts.delete(name)  # gone already


def test_such_a_user_has_no_home_and_no_shell(accounts: LocalAccounts, name: str) -> None:
    accounts.create(address(name), SECRET)
    entry = pwd.getpwnam(name)
    assert entry.pw_uid >= 1000
    assert Path(entry.pw_shell).name == "nologin"
    assert not Path(entry.pw_dir).exists()
    assert entry.pw_gecos == f"mailbox {name}@example.com"
    assert users.look_up(name) == users.User(name, system=False, member=True, made_here=True)
    assert parts.run("id", "-Gn", name).stdout.split() == [users.GROUP]


def test_such_a_user_cannot_log_on_at_the_computer(accounts: LocalAccounts, name: str) -> None:
    accounts.create(address(name), b"canary")
    for command in (
        ["su", name],
        ["su", "-", name],
        ["su", name, "-c", "touch /tmp/x"],
        ["su", "-l", name, "-c", "id"],
    ):
        result = parts.run(*command, check=False)
        assert result.returncode != 0
        assert "not available" in result.stdout
        assert "uid=" not in result.stdout
    # And not because root may not: the same with a shell is let in.
    assert f"({name})" in parts.run("su", "-s", "/bin/sh", name, "-c", "id").stdout


def test_no_numbers_are_set_aside_for_namespaces_of_such_a_user(name: str) -> None:
    LocalAccounts().create(address(name), SECRET)
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        assert not file.exists() or name not in file.read_text()


@pytest.mark.parametrize("odd", ["a.b-c_d+e{}", "0x.{}", "mail{}"])
def test_names_of_mailboxes_are_names_of_users(odd: str, accounts: LocalAccounts) -> None:
    made = odd.format(os.getpid())
    try:
        assert accounts.create(address(made), SECRET) == made
        assert verified(made, SECRET)
        accounts.delete(made)
    finally:
        parts.run("userdel", made, check=False)


def test_a_group_of_the_same_name_is_no_concern_of_a_user(name: str) -> None:
    parts.run("groupadd", name)
    try:
        LocalAccounts().create(address(name), SECRET)
        assert name not in parts.run("id", "-Gn", name).stdout.split()
        LocalAccounts().delete(name)
        assert parts.run("getent", "group", name, check=False).returncode == 0
    finally:
        parts.run("groupdel", name, check=False)


def test_a_name_is_unique_and_at_most_20_characters(accounts: LocalAccounts, name: str) -> None:
    accounts.create(address(name), SECRET)
    with refused("account-exists"):
        accounts.create(address(name), b"other")
    assert verified(name, SECRET)
    with refused("bad-mailbox-name", Kind.NOT_UNDERSTOOD):
        accounts.find(address("x" * 21))
    with refused("bad-mailbox-name", Kind.NOT_UNDERSTOOD):
        accounts.create(address("x" * 21), SECRET)
    assert accounts.find(address("x" * 20)) is None


def test_a_number_is_no_name(accounts: LocalAccounts) -> None:
    with refused("bad-mailbox-name", Kind.NOT_UNDERSTOOD):
        accounts.create(address("4711"), SECRET)


@pytest.mark.parametrize("name", ["root", "daemon"])
def test_system_accounts_are_left_alone(name: str, accounts: LocalAccounts) -> None:
    shadow = Path("/etc/shadow").read_text().splitlines()
    calls: tuple[Callable[[], object], ...] = (
        lambda: accounts.find(address(name)),
        lambda: accounts.create(address(name), SECRET),
        lambda: accounts.set_password(name, SECRET),
        lambda: accounts.delete(name),
    )
    for call in calls:
        with refused("system-account"):
            call()
    assert [line for line in shadow if line.startswith(f"{name}:")] == [
        line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{name}:")
    ]


def test_who_is_in_no_group_of_ours_is_left_alone(accounts: LocalAccounts) -> None:
    with parts.user(member=False) as stranger:
        calls: tuple[Callable[[], object], ...] = (
            lambda: accounts.find(address(stranger)),
            lambda: accounts.create(address(stranger), SECRET),
            lambda: accounts.set_password(stranger, SECRET),
        )
        for call in calls:
            with refused("not-a-member"):
                call()
        with refused("not-made-here"):
            accounts.delete(stranger)
        parts.run("usermod", "-aG", users.GROUP, stranger)
        assert accounts.find(address(stranger)) == stranger
        accounts.set_password(stranger, SECRET)
        assert verified(stranger, SECRET)
        with refused("not-made-here"):
            accounts.delete(stranger)
        assert users.look_up(stranger)


def test_who_does_not_exist_gets_no_password(accounts: LocalAccounts) -> None:
    with refused("no-such-account"):
        accounts.set_password("wpt-nobody", SECRET)


@pytest.mark.parametrize("password", [b"", b"x\nroot:owned", b"x\r", b"\0", b"x" * 249])
def test_a_password_is_one_line_for_chpasswd(password: bytes, accounts: LocalAccounts, name: str) -> None:
    before = Path("/etc/shadow").read_text()
    with refused("bad-password", Kind.NOT_UNDERSTOOD):
        accounts.create(address(name), password)
    assert users.look_up(name) is None
    with parts.user() as member:
        with refused("bad-password", Kind.NOT_UNDERSTOOD):
            accounts.set_password(member, password)
        assert verified(member, parts.PASSWORD.encode())
    root = [line for line in before.splitlines() if line.startswith("root:")]
    assert root == [line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith("root:")]


def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put programs before the system's own; the empty script is a program that is not there."""
    directory = tmp_path / "programs"
    directory.mkdir()
    wanted = ("groupadd", "useradd", "userdel", "chpasswd", "nologin")
    for program in wanted:
        script = scripts.get(program)
        if script == "":
            continue
        path = directory / program
        path.write_text(
            f"#!/bin/sh\n{script}\n"
            if script
            else f'#!/bin/sh\nPATH=/usr/sbin:/sbin:/usr/bin:/bin exec {program} "$@"\n'
        )
        path.chmod(0o755)
    monkeypatch.setattr(hands, "_PATH", str(directory))


def test_a_user_whose_password_is_refused_is_undone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, chpasswd='/bin/cat >/dev/null; echo "BAD PASSWORD: too short." >&2; exit 1')
    with pytest.raises(Refusal, match=r"BAD PASSWORD: too short\)") as caught:
        LocalAccounts().create(address(name), b"CaNaRy")
    assert caught.value.code == "password-refused"
    assert "CaNaRy" not in str(caught.value)
    assert users.look_up(name) is None


@pytest.mark.parametrize("program", ["groupadd", "useradd", "chpasswd"])
def test_a_program_that_is_missing_is_named(
    program: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, **{program: ""})
    with pytest.raises(Refusal, match=f"no program {program}") as caught:
        LocalAccounts().create(address(name), SECRET)
    assert caught.value.code == "program-missing"
    assert users.look_up(name) is None


def test_a_program_that_fails_or_hangs_is_a_refusal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, useradd="echo cannot lock /etc/passwd >&2; exit 1")
    with pytest.raises(Refusal, match="useradd did not do it: cannot lock /etc/passwd"):
        LocalAccounts().create(address(name), SECRET)
    monkeypatch.setattr(hands, "_SECONDS", 0.2)
    (tmp_path / "programs" / "useradd").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    with refused("program-failed", Kind.OUT_OF_REACH):
        LocalAccounts().create(address(name), SECRET)


def test_passwords_are_on_no_command_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    record = f'echo "$0 $@" >> {seen}; /usr/bin/env >> {seen}; PATH=/usr/sbin:/usr/bin:/bin exec '
    scripts = {program: f'{record}{program} "$@"' for program in ("groupadd", "useradd", "chpasswd", "userdel")}
    programs(tmp_path, monkeypatch, **scripts)
    LocalAccounts().create(address(name), b"CaNaRy")
    LocalAccounts().set_password(name, b"CaNaRy2")
    LocalAccounts().delete(name)
    assert seen.read_text().count("/chpasswd") >= 2
    assert "CaNaRy" not in seen.read_text()


def without_root(program: str) -> str:
    """Run this as the tool runs: as root, which it gives up after `hands` was made; return what it prints."""
    text = f"""
import os, sys
from winpop.auth.local.accounts import LocalAccounts
from winpop.auth.local.hands import OwnHands
from winpop.auth.local.root_hands import root_hands
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal
def give_up():
    os.setgroups([]); os.setgid(60123); os.setuid(60123)
{program}
"""
    return parts.run(sys.executable, "-c", text).stdout


def test_the_child_keeps_root_for_a_tool_that_has_given_it_up(name: str) -> None:
    said = without_root(f"""
accounts = LocalAccounts(root_hands())
give_up()
address = Address.parse("{name}@example.com")
try:
    LocalAccounts().create(address, b"x")
except Refusal as refusal:
    print(refusal.code, int(refusal.kind))
print(accounts.create(address, b"canary"))
try:
    accounts.create(address, b"canary")
except Refusal as refusal:
    print(refusal.code, int(refusal.kind))
""")
    assert said.split() == ["not-permitted", "3", name, "account-exists", "1"]
    assert verified(name, b"canary")


def test_whoever_was_never_root_has_no_such_child() -> None:
    said = without_root("""
give_up()
hands = root_hands()
print(isinstance(hands, OwnHands))
for order, words in (("make", ("wptx", "", b"x")), ("set_password", ("wptx", b"x")), ("delete", ("wptx",))):
    try:
        getattr(hands, order)(*words)
    except Refusal as refusal:
        print(refusal.code)
hands.close()
""")
    assert said.split() == ["True", "not-permitted", "not-permitted", "not-permitted"]


def test_the_child_ends_with_its_parent_and_holds_nothing_of_it() -> None:
    text = """
import os, sys
from winpop.auth.local.root_hands import root_hands
hands = root_hands()
print(hands._child, flush=True)
sys.stdin.read()
os._exit(0)  # without any farewell
"""
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        held = Path(f"/proc/{child}/fd")
        until = time.monotonic() + 10
        while len(list(held.iterdir())) > 4:
            assert time.monotonic() < until
        assert sorted(path.readlink().name for path in held.iterdir())[:3] == ["null"] * 3
        parent.communicate()
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < until


def test_a_child_that_was_killed_is_one_sentence() -> None:
    own = root_hands()
    assert isinstance(own, RootHands)
    os.kill(own._child, 9)
    for _ in range(2):
        with refused("root-hands", Kind.OUT_OF_REACH):
            own.delete("wpt-nobody")
    own.close()
    own.close()


def test_the_child_costs_little() -> None:
    text = """
import time
import winpop.cli.main
from winpop.auth.local.root_hands import root_hands
took = []
for _ in range(5):
    began = time.perf_counter()
    hands = root_hands()
    took.append(time.perf_counter() - began)
    hands.close()
print(min(took))
"""
    assert float(parts.run(sys.executable, "-c", text).stdout) < 0.02


def test_hands_of_ones_own_hold_nothing() -> None:
    OwnHands().close()


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("UID_MIN 5\n", 5),
        ("# UID_MIN 7\nUID_MIN\t\t 500 x\n", 500),
        ("UID_MIN 0\n", 1),
        ("UID_MIN -5\n", 1000),
        ("UID_MIN ²\n", 1000),
        ("UID_MIN\n", 1000),
        ("", 1000),
    ],
)
def test_the_least_number_of_a_user_is_read_and_is_never_roots(
    text: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "login.defs").write_text(text)
    monkeypatch.setattr(users, "_DEFINITIONS", (tmp_path / "none", tmp_path / "login.defs"))
    assert users._least() == least
    root = users.look_up("root")
    assert root is not None
    assert root.system
