"""Real users, a real group and real PAM services of this computer, for tests that root runs; all are removed again."""

import asyncio
import contextlib
import fcntl
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from winpop.auth.contract import Answer
from winpop.auth.local import pam, users
from winpop.auth.local.helper import Helper, start_helper
from winpop.auth.local.method import LocalMethod

T = TypeVar("T")
PASSWORD = "CaNaRy-5f1"
_NUMBERS = itertools.count()
_LOCK = Path("/tmp/winpop-tests-local-accounts.lock")


def missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need_root() -> None:
    if os.geteuid() != 0 or not Path("/etc/shadow").exists():
        missing("local accounts are tested with real users; run the tests as root")
    for program, package in (("useradd", "passwd"), ("chpasswd", "passwd"), ("su", "util-linux")):
        if shutil.which(program) is None:
            missing(f"{program} is not installed; run: sudo apt install {package}")
    if not Path("/etc/pam.d/su").exists():
        missing("PAM is not installed; run: sudo apt install libpam-modules")


def run(*command: str, given: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, input=given, capture_output=True, text=True, check=check, timeout=60)


def unique() -> str:
    """A name that no other test, process or run has now."""
    return f"wpt{os.getpid()}x{next(_NUMBERS)}"


@contextlib.contextmanager
def the_group() -> Iterator[None]:
    """The group of mail users is there; the last of the test processes that use it removes it, if they have made it."""
    with _LOCK.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if run("getent", "group", users.GROUP, check=False).returncode:
            run("groupadd", "--system", users.GROUP)
            lock.write("made")
            lock.flush()
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.seek(0)
                if lock.read():
                    run("groupdel", users.GROUP, check=False)
                    lock.truncate(0)


@contextlib.contextmanager
def user(*flags: str, member: bool = True, password: str | None = PASSWORD) -> Iterator[str]:
    """A user of this computer; made by the system's programs alone, so that winpop does not judge itself."""
    name = unique()
    groups = ("-g", users.GROUP) if member else ()
    run("useradd", "-M", "-N", "-s", "/usr/sbin/nologin", *groups, *flags, name)
    try:
        if password is not None:
            run("chpasswd", given=f"{name}:{password}\n")
        yield name
    finally:
        run("userdel", name, check=False)


@contextlib.contextmanager
def service(text: str = pam.SERVICE_FILE) -> Iterator[str]:
    """A PAM service with this file."""
    name = f"winpop-test-{unique()}"
    path = Path("/etc/pam.d", name)
    path.write_text(text)
    try:
        yield name
    finally:
        path.unlink()


@contextlib.contextmanager
def helper(owner: int = 0, limit: float = 20.0) -> Iterator[Helper]:
    made = start_helper(owner, limit)
    assert made is not None
    try:
        yield made
    finally:
        made.close()


def asking(
    of: Helper | int | None, pam_service: str, ask: Callable[[LocalMethod], Coroutine[Any, Any, T]], **limits: float
) -> T:
    """Run `ask` with the method as a worker has it."""

    async def run_it() -> T:
        descriptor = of.descriptor if isinstance(of, Helper) else of
        method = LocalMethod(descriptor, lambda: pam_service, **limits)  # type: ignore[arg-type]
        try:
            return await ask(method)
        finally:
            await method.close()

    return asyncio.run(run_it())


def check(
    of: Helper | int | None, pam_service: str, account: str | None, password: bytes = PASSWORD.encode()
) -> Answer:
    return asking(of, pam_service, lambda method: method.check(account, account or "nobody", password))
