"""What only root can do to the users of this computer, done by the system's own programs (useradd, chpasswd, userdel).

A user that is made has no home, no password but the one that is given, the group of `users` as its first one, and
`nologin` for a shell. That keeps out whoever comes to a shell: the console, su, ssh with or without a command, cron.
It does not keep out what only asks for a password: sshd still forwards ports for such a user, unless sshd_config says
`DenyGroups pop3users`; and so do other services that let every user of the computer in.

Invariants: a password is on no command line, and is one line of chpasswd's input; only members of the group get another
password, and only a user that was made here is deleted; what cannot be done wholly is undone.
"""

import os
import shutil
import subprocess
import sys
from typing import Protocol

from winpop.auth.local import users
from winpop.terms.refusals import Kind, Refusal, not_understood, out_of_reach, readable

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_SECONDS = 30
_USER_IS_GONE = 6
_LONGEST_PASSWORD = 248


class Hands(Protocol):
    """Blocking; raises `Refusal` and nothing else."""

    def make(self, name: str, comment: str, password: bytes) -> None:
        """Make a user; `comment` is for people who look at the system's list."""
        ...

    def set_password(self, name: str, password: bytes) -> None:
        """Give a user another password."""
        ...

    def delete(self, name: str) -> None:
        """Delete a user; one that is gone already is no error."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


class OwnHands:
    """Does it in this process, which has to be root for it."""

    def make(self, name: str, comment: str, password: bytes) -> None:
        """Make a user. Raises `Refusal`: `account-exists`, `system-account`, `bad-mailbox-name`, `password-refused`."""
        _must_be_root()
        _check_password(password)
        user = users.look_up(name)
        if user is not None:
            raise refused_system(name) if user.system else _exists(user)
        if name.isdigit():
            raise not_understood(
                "bad-mailbox-name", f"'{name}' cannot be a user name: it would be taken for a number; take another."
            )
        _done("groupadd", "--force", "--system", users.GROUP)
        shell = shutil.which("nologin", path=_PATH) or shutil.which("false", path=_PATH) or "/bin/false"
        _done(
            "useradd",
            *("--comment", comment, "--home-dir", "/nonexistent", "--no-create-home", "--shell", shell),
            *("--gid", users.GROUP, "--no-user-group"),
            *("-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0"),  # else 65 536 numbers are set aside for each user
            name,
        )
        try:
            _set_password(name, password)
        except BaseException:
            _run("userdel", name)
            raise

    def set_password(self, name: str, password: bytes) -> None:
        """Give a member another password. Raises `Refusal`: `no-such-account`, `password-refused` and others."""
        _must_be_root()
        _check_password(password)
        user = users.look_up(name)
        if user is None:
            raise Refusal("no-such-account", f"There is no user '{readable(name)}' on this computer.")
        if user.system:
            raise refused_system(name)
        if not user.member:
            raise refused_stranger(name)
        _set_password(name, password)

    def delete(self, name: str) -> None:
        """Delete a user that `make` has made. Raises `Refusal` (`not-made-here` and others)."""
        _must_be_root()
        user = users.look_up(name)
        if user is None:
            return
        if user.system:
            raise refused_system(name)
        if not user.made_here:
            raise Refusal(
                "not-made-here",
                f"The user '{name}' was not made by winpop (its first group is not {users.GROUP}), so it is kept; "
                f"delete it with 'userdel {name}' if nobody needs it.",
            )
        result = _run("userdel", name)
        if result.returncode not in {0, _USER_IS_GONE}:
            raise _failed("userdel", result)

    def close(self) -> None:
        """Hold nothing."""


def refused_system(name: str) -> Refusal:
    """Make the refusal of a name that the system itself uses."""
    return Refusal("system-account", f"'{name}' is a system account of this computer; take another mailbox name.")


def refused_stranger(name: str) -> Refusal:
    """Make the refusal of a user who is not in the group."""
    return Refusal(
        "not-a-member",
        f"The user '{name}' is not in the group {users.GROUP}; run 'groupadd -f {users.GROUP} && usermod -aG "
        f"{users.GROUP} {name}' if this person shall have a mailbox.",
    )


def _exists(user: users.User) -> Refusal:
    if not user.member:
        return refused_stranger(user.name)
    return Refusal("account-exists", f"There is a user '{user.name}' already; add the mailbox without /createuser.")


def _must_be_root() -> None:
    if sys.platform == "win32" or os.geteuid() != 0:
        raise Refusal(
            "not-permitted", "Only root may change the users of this computer; run winpop as root.", Kind.NOT_PERMITTED
        )


def _check_password(password: bytes) -> None:
    """Refuse what would be more than one line, and so another user's password."""
    if not 1 <= len(password) <= _LONGEST_PASSWORD or any(octet in b"\0\r\n" for octet in password):
        raise not_understood(
            "bad-password",
            f"A password has 1 to {_LONGEST_PASSWORD} octets, none of them NUL, CR or LF; choose another.",
        )


def _set_password(name: str, password: bytes) -> None:
    result = _run("chpasswd", given=name.encode("ascii") + b":" + password + b"\n")
    if result.returncode:
        raise Refusal(
            "password-refused",
            f"The system did not take this password for '{name}' ({_said(result)}); choose another, or see its rules.",
        )


def _done(program: str, *arguments: str) -> None:
    result = _run(program, *arguments)
    if result.returncode:
        raise _failed(program, result)


def _run(program: str, *arguments: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise Refusal(
            "program-missing",
            f"There is no program {program} in {_PATH}; install it (Debian: passwd, others: shadow-utils), or make "
            "users in this system's own way and add their mailboxes without /createuser.",
        )
    try:
        return subprocess.run(  # noqa: S603 - a program of the system, and names that were read
            [path, *arguments],
            input=given,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            cwd="/",
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise out_of_reach("program-failed", f"{program} did not end well ({type(error).__name__}).") from None


def _failed(program: str, result: "subprocess.CompletedProcess[bytes]") -> Refusal:
    return Refusal("program-failed", f"{program} did not do it: {_said(result)}.")


def _said(result: "subprocess.CompletedProcess[bytes]") -> str:
    """Return the first line that a program said about its failure."""
    lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
    return readable(lines[0].rstrip(".")) if lines else f"status {result.returncode}"
