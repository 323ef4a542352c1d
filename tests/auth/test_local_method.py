"""Passwords of real users, checked by the real PAM of this computer."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from auth import local_parts as parts
from auth.conformance import LAWS, Account, Law, Subject
from auth.local_parts import PASSWORD
from winpop.auth.contract import (
    DISABLED,
    EXPIRED,
    MUST_CHANGE,
    NO_ACCOUNT,
    PASSWORD_EXPIRED,
    Answer,
    CannotSay,
    Right,
    Wrong,
)
from winpop.auth.local import pam, users
from winpop.auth.local.helper import Helper
from winpop.auth.local.method import LocalMethod

RIGHT = PASSWORD.encode()


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    parts.need_root()
    with parts.the_group():
        yield


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    with parts.helper() as made:
        yield made


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with parts.service() as name:
        yield name


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    with parts.user() as name:
        yield name


def why(answer: Answer) -> str:
    assert isinstance(answer, Wrong), answer
    return answer.why


def sentence(answer: Answer) -> str:
    assert isinstance(answer, CannotSay), answer
    assert PASSWORD not in answer.why
    return answer.why


def test_the_right_password_is_right(helper: Helper, service: str, user: str) -> None:
    assert parts.check(helper, service, user) == Right()


@pytest.mark.parametrize(
    "password",
    [
        b"",
        b"x",
        RIGHT + b" ",
        RIGHT[:-1],
        RIGHT.lower(),
        RIGHT + b"\0",
        b"\0" + RIGHT,
        b"\xff" * 248,
        b"\n" + RIGHT,
        b"%s%n" * 60,
    ],
)
def test_any_other_password_is_wrong(password: bytes, helper: Helper, service: str, user: str) -> None:
    assert parts.check(helper, service, user, password) == Wrong("password")


@pytest.mark.parametrize("password", ["grüße €", "a b\tc", "x" * 248, '"\\{}', ":a:b", "ÿ"])
def test_passwords_are_octets(password: str, helper: Helper, service: str) -> None:
    with parts.user(password=password) as name:
        assert parts.check(helper, service, name, password.encode()) == Right()
        if not password.isascii():
            assert parts.check(helper, service, name, password.encode("utf-16-le").replace(b"\0", b"")) != Right()


def test_a_password_that_is_no_utf_8_is_one(helper: Helper, service: str) -> None:
    odd = b"\xff\xfe\x80"
    with parts.user(password=None) as name:
        subprocess.run(["chpasswd"], input=name.encode() + b":" + odd + b"\n", check=True)
        assert parts.check(helper, service, name, odd) == Right()


def test_a_locked_user_is_refused_until_unlocked(helper: Helper, service: str) -> None:
    with parts.user() as name:
        parts.run("usermod", "-L", name)
        assert isinstance(parts.check(helper, service, name), Wrong)
        parts.run("usermod", "-U", name)
        assert parts.check(helper, service, name) == Right()


def test_the_account_phase_is_asked_and_only_after_the_right_password(helper: Helper, service: str) -> None:
    with parts.user() as name:
        parts.run("chage", "-E", "0", name)
        assert why(parts.check(helper, service, name)) == EXPIRED
        assert why(parts.check(helper, service, name, b"other")) == "password"
        parts.run("chage", "-E", "-1", "-d", "0", name)
        assert why(parts.check(helper, service, name)) == MUST_CHANGE
        parts.run("chage", "-d", "2020-01-01", "-M", "10", "-I", "10", name)
        assert why(parts.check(helper, service, name)) == PASSWORD_EXPIRED
        parts.run("chage", "-d", "2020-01-01", "-M", "-1", "-I", "-1", name)
        assert parts.check(helper, service, name) == Right()


def test_a_user_with_a_blank_password_never_comes_in_even_with_nullok(helper: Helper) -> None:
    lax = "auth required pam_unix.so nullok\naccount required pam_permit.so\n"
    with parts.service(lax) as service, parts.user() as name:
        parts.run("passwd", "-d", name)
        for password in (b"", b"x", b"\0"):
            assert parts.check(helper, service, name, password) == Wrong("password")
        assert pam.verify(service, name, b"", pam.UNKNOWN_HOST) == Wrong("password")


def test_a_blank_password_does_not_even_reach_a_module(helper: Helper, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {seen}\n")
    script.chmod(0o700)
    text = f"auth required pam_exec.so quiet expose_authtok {script}\naccount required pam_permit.so\n"
    with parts.service(text) as service, parts.user() as name:
        assert parts.check(helper, service, name, b"") == Wrong("password")
        assert not seen.exists()
        assert parts.check(helper, service, name, b"x") == Right()  # this module would have let anybody in
        assert seen.exists()


def test_who_does_not_exist_is_told_apart_in_the_log_only(helper: Helper, service: str) -> None:
    assert parts.check(helper, service, None) == Wrong(NO_ACCOUNT)
    for name in ("wpt-nobody", "x" * 300, "a\nb", "a\0b", "é", "", "nobody:"):
        assert parts.check(helper, service, name) == Wrong(NO_ACCOUNT)


def test_modules_are_asked_about_nobody_where_no_member_is_meant(helper: Helper, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\necho "$PAM_USER $PAM_RHOST $PAM_TTY" >> {log}\nexit 1\n')
    script.chmod(0o700)
    text = f"auth required pam_exec.so quiet {script}\nauth required pam_unix.so\naccount required pam_unix.so\n"
    with parts.service(text) as service, parts.user(member=False) as stranger, parts.user() as member:
        for account in ("root", "daemon", None, stranger, member):
            parts.check(helper, service, account)
    assert log.read_text().splitlines() == ["nobody: 0.0.0.0 winpop"] * 4 + [f"{member} 0.0.0.0 winpop"]


def test_modules_hear_the_clients_address(helper: Helper, tmp_path: Path, user: str) -> None:
    log = tmp_path / "log"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho $PAM_RHOST > {log}\n")
    script.chmod(0o700)
    text = f"auth required pam_exec.so quiet {script}\nauth required pam_unix.so\naccount required pam_unix.so\n"
    with parts.service(text) as service:
        answer = parts.asking(helper, service, lambda method: method.check(user, user, RIGHT, "2001:db8::7"))
    assert answer == Right()
    assert log.read_text() == "2001:db8::7\n"


def test_system_accounts_and_strangers_do_not_come_in_with_their_password(helper: Helper, service: str) -> None:
    with parts.user("-r") as system, parts.user(member=False) as stranger, parts.user() as member:
        assert why(parts.check(helper, service, system)) == "system account"
        assert why(parts.check(helper, service, stranger)) == f"not in the group {users.GROUP}"
        parts.run("usermod", "-aG", users.GROUP, stranger)  # a group beside the first is as good
        assert parts.check(helper, service, stranger) == Right()
        parts.run("usermod", "-o", "-u", "0", member)
        try:
            assert why(parts.check(helper, service, member)) == "system account"
        finally:
            parts.run("sed", "-i", f"s/^{member}:x:0:/{member}:x:59999:/", "/etc/passwd")


def test_a_failure_is_told_at_once_also_without_nodelay(helper: Helper, service: str, user: str) -> None:
    began = time.monotonic()
    assert why(parts.check(helper, service, user, b"x")) == "password"
    assert time.monotonic() - began < 1.4, "pam_unix asks for two seconds, of which libpam waits at least 1.5"


def test_a_service_that_is_not_there_is_named(helper: Helper, user: str) -> None:
    told = sentence(parts.check(helper, "winpop-not-there", user))
    assert "/etc/pam.d/winpop-not-there" in told
    for name in ("../pam.d/su", "/etc/pam.d/su", ".."):
        assert "There is no PAM service" in sentence(parts.check(helper, name, user))


@pytest.mark.parametrize(
    "text",
    [
        "auth sufficient pam_rootok.so\nauth required pam_unix.so\naccount required pam_unix.so\n",
        "auth required pam_permit.so\naccount required pam_permit.so\n",
    ],
)
def test_a_service_that_asks_for_no_password_lets_nobody_in(text: str, helper: Helper, user: str) -> None:
    with parts.service(text) as service:
        assert "without their password" in sentence(parts.check(helper, service, user))
        assert parts.check(helper, service, None) != Right()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("auth required pam_not_there.so\naccount required pam_unix.so\n", "cannot tell"),
        ("auth required pam_unix.so\naccount required pam_not_there.so\n", "cannot tell"),
        ("auth [default=authinfo_unavail] pam_debug.so auth=authinfo_unavail\naccount required pam_unix.so\n", "tell"),
    ],
)
def test_a_broken_service_is_neither_yes_nor_no(text: str, told: str, helper: Helper, user: str) -> None:
    with parts.service(text) as service:
        assert told in sentence(parts.check(helper, service, user))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("perm_denied", "disabled"),
        ("maxtries", "locked out"),
        ("acct_expired", "expired"),
        ("new_authtok_reqd", "must change password"),
        ("authtok_expired", "password expired"),
        ("user_unknown", "no account"),
    ],
)
def test_what_the_account_phase_says_has_its_word(result: str, expected: str, helper: Helper, user: str) -> None:
    with parts.service(f"auth required pam_unix.so\naccount required pam_debug.so acct={result}\n") as service:
        assert why(parts.check(helper, service, user)) == expected


MODULE = """
extern int pam_set_item(void *, int, const void *);
extern int pam_get_user(void *, const char **, const char *);
extern int pam_get_authtok(void *, int, const char **, const char *);
int pam_sm_authenticate(void *handle, int flags, int count, const char **words) {
    const char *password;
    pam_get_authtok(handle, 6, &password, 0);
    if (words[0][0] == '!') *(volatile int *)0 = 0;
    pam_set_item(handle, 2, words[0]);
    return 0;
}
int pam_sm_setcred(void *handle, int flags, int count, const char **words) { return 0; }
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PAM module that calls the user by another name, or crashes."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        parts.missing("gcc is not installed; run: sudo apt install gcc libc6-dev")
        raise AssertionError
    made = tmp_path_factory.mktemp("module") / "pam_other.so"
    parts.run(compiler, "-shared", "-fPIC", "-w", "-x", "c", "-o", str(made), "-", "-l:libpam.so.0", given=MODULE)
    return str(made)


def test_a_module_that_calls_the_user_by_another_name_lets_nobody_in(module: str, helper: Helper, user: str) -> None:
    for other, expected in ((user, Right()), ("root", Wrong(pam.OTHER_USER)), (user + "x", Wrong(pam.OTHER_USER))):
        with parts.service(f"auth required {module} {other}\naccount required pam_permit.so\n") as service:
            assert parts.check(helper, service, user) == expected


def test_a_module_that_crashes_takes_only_its_own_request_along(
    module: str, helper: Helper, service: str, user: str
) -> None:
    with parts.service(f"auth required {module} !\naccount required pam_permit.so\n") as crashing:
        for _ in range(10):
            assert "has died" in sentence(parts.check(helper, crashing, user))
    assert parts.check(helper, service, user) == Right()


def test_names_that_are_no_addresses_mean_members_in_any_case(helper: Helper, service: str, user: str) -> None:
    async def find(method: LocalMethod) -> list[str | CannotSay | None]:
        return [
            await method.find(name) for name in (user, user.upper(), "root", "nobody", stranger, "", "x" * 999, "é")
        ]

    with parts.user(member=False) as stranger:
        assert parts.asking(helper, service, find) == [user, user] + [None] * 6


def test_many_ask_at_once_and_each_gets_its_own_answer(helper: Helper, service: str, user: str) -> None:
    async def ask(method: LocalMethod) -> list[Answer]:
        return await asyncio.gather(*(method.check(user, user, RIGHT if n % 3 else b"no") for n in range(30)))

    answers = parts.asking(helper, service, ask, within=60)
    assert answers == [Right() if n % 3 else Wrong("password") for n in range(30)]


def test_it_serves_in_the_quick_event_loop_as_well(helper: Helper, service: str, user: str) -> None:
    async def ask() -> list[Answer]:
        method = LocalMethod(helper.descriptor, lambda: service)
        answers = [await method.check(user, user, password) for password in (RIGHT, b"no")]
        await method.close()
        return answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == [Right(), Wrong("password")]


def test_without_a_helper_nothing_can_be_said(service: str, user: str) -> None:
    assert "start it again, as root" in sentence(parts.check(None, service, user))
    assert isinstance(parts.asking(None, service, lambda method: method.find(user)), CannotSay)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_it_keeps(law: Law, helper: Helper, service: str, user: str) -> None:
    """The laws of all methods; PAM itself counts no failures here."""
    with parts.user(password="another-one") as other:
        subject = Subject(
            make=lambda: LocalMethod(helper.descriptor, lambda: service),
            broken=lambda: LocalMethod(None, lambda: service),
            one=Account(user, user, RIGHT),
            other=Account(other, other, b"another-one"),
            absent="nosuchuser",
            knows_accounts=True,
        )
        asyncio.run(law(subject))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ((), None),
        (("chage", "-E", "2000-01-01"), EXPIRED),
        (("chage", "-d", "0"), MUST_CHANGE),
        (("usermod", "-L"), DISABLED),
    ],
)
def test_who_is_vouched_for_by_something_else_is_held_against_the_account(
    helper: Helper, service: str, command: tuple[str, ...], expected: str | None
) -> None:
    with parts.user() as name:
        if command:
            parts.run(*command, name)
        answer = parts.asking(helper, service, lambda method: method.usable(name, "192.0.2.1"))
        assert answer == (Right() if expected is None else Wrong(expected))


def test_nobody_strangers_and_the_system_are_not_vouched_for(helper: Helper, service: str) -> None:
    with parts.user(member=False) as stranger:
        for name in ("nosuchuser", "root", stranger):
            answer = parts.asking(helper, service, lambda method, name=name: method.usable(name))  # type: ignore[misc]
            assert isinstance(answer, Wrong), name
