"""The process that keeps root: whom it serves, how long, what becomes of it and of what it is told."""

import array
import asyncio
import contextlib
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from auth import local_parts as parts
from auth.local_parts import PASSWORD
from winpop.auth.contract import Answer, CannotSay, Right, Wrong
from winpop.auth.local import helper as helping
from winpop.auth.local import request
from winpop.auth.local.method import LocalMethod

# The process of pytest-xdist has threads; what is forked from it here takes no lock that one of them could hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

RIGHT = PASSWORD.encode()
SOMEBODY, SOMEBODY_ELSE = 60123, 60124
"""Numbers of users that need not exist."""


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    parts.need_root()
    with parts.the_group():
        yield


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with parts.service() as name:
        yield name


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    with parts.user() as name:
        yield name


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A PAM service that waits for an hour, and where it writes who waits."""
    waits, script = tmp_path / "waits", tmp_path / "script"
    script.write_text(f"#!/bin/sh\ncat\necho $$ >> {waits}\nWAITS={waits} exec sleep 3600\n")
    script.chmod(0o700)
    text = f"auth required pam_exec.so quiet expose_authtok {script}\naccount required pam_permit.so\n"
    with parts.service(text) as name:
        yield name, waits
    for process in map(int, waits.read_text().split()) if waits.exists() else ():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # where the helper itself was killed
            if str(script.parent).encode() in Path(f"/proc/{process}/environ").read_bytes():
                os.kill(process, signal.SIGKILL)


def eventually(holds: Callable[[], object], within: float = 20.0) -> None:
    until = time.monotonic() + within
    while not holds():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.02)


def shown(process: int | None) -> bytes:
    """What the system shows of a process to others."""
    return b"".join(Path(f"/proc/{process}/{file}").read_bytes() for file in ("cmdline", "environ", "comm"))


async def until(holds: Callable[[], object]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, eventually, holds)


def exists(process: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def waiting(waits: Path) -> int:
    """Tell how many processes have written that they wait."""
    return waits.read_text().count("\n") if waits.exists() else 0


def children(process: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def sentence(answer: Answer) -> str:
    assert isinstance(answer, CannotSay), answer
    assert PASSWORD not in answer.why
    return answer.why


def as_user(number: int, do: Callable[[], object]) -> object:
    """Do it in a process that has given up root for this user, for good; return what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            os.setgroups([])
            os.setgid(number)
            os.setuid(number)
            with open(write, "wb") as pipe:  # noqa: PTH123 - a descriptor
                pickle.dump(do(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as pipe:  # noqa: PTH123 - a descriptor
        content = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(content)


def test_a_process_that_has_given_up_root_can_ask(service: str, user: str) -> None:
    with parts.helper(owner=SOMEBODY) as helper:

        def ask() -> object:
            assert not os.access("/etc/shadow", os.R_OK)
            return parts.check(helper, service, user), parts.check(helper, service, user, b"x")

        assert as_user(SOMEBODY, ask) == (Right(), Wrong("password"))
        assert parts.check(helper, service, user) == Right(), "root may ask as well"


def test_who_is_neither_the_owner_nor_root_gets_no_answer(service: str, user: str) -> None:
    with parts.helper(owner=SOMEBODY) as helper:
        answer = as_user(SOMEBODY_ELSE, lambda: parts.check(helper, service, user))
        assert isinstance(answer, CannotSay)
        assert children(helper.process or 0) == []
        assert parts.check(helper, service, user) == Right()


def test_what_is_no_request_hurts_nobody(service: str, user: str, tmp_path: Path) -> None:
    def send(orders: socket.socket, *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        orders.sendmsg([b"+"], rights)

    def said(line: bytes) -> bytes:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                ours.sendall(line)
                ours.shutdown(socket.SHUT_WR)
                send(orders, theirs.fileno())
            ours.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                return ours.recv(4096)
            return b""

    with parts.helper() as helper, socket.socket(fileno=os.dup(helper.descriptor)) as orders:
        send(orders)
        with (tmp_path / "file").open("wb") as file, socket.socket() as other, socket.socket() as one:
            send(orders, file.fileno())
            send(orders, other.fileno())
            send(orders, *[one.fileno()] * 100)
        lines = [
            b"",
            b"\n",
            b"{}\n",
            b"[" * 8000,
            b"\xff" * 9000,
            b'{"do":"check"}\n',
            b'{"do":"find","name":7}\n',
            b"1\n",
        ]
        for line in lines:
            assert b'"right"' not in said(line)
            assert b'"found": "' not in said(line)
        assert said(request.line_of(do="find", name=user)) == request.line_of(found=user)
        assert parts.check(helper, service, user) == Right()
        assert len(list(Path(f"/proc/{helper.process}/fd").iterdir())) < 12, "descriptors are given back"


def test_a_module_that_waits_holds_nobody_else_and_ends_when_its_time_is_over(
    service: str, user: str, sleeping: tuple[str, Path]
) -> None:
    slow, waits = sleeping

    async def ask(method: LocalMethod) -> Answer:
        current[0] = slow
        blocked = [asyncio.create_task(method.check(user, user, RIGHT)) for _ in range(helping.AT_ONCE - 1)]
        await until(lambda: waiting(waits) == len(blocked))
        current[0] = service
        for _ in range(3):
            assert await method.check(user, user, RIGHT) == Right()
        assert not any(task.done() for task in blocked)
        for answer in await asyncio.gather(*blocked):
            assert "no answer within 4 seconds" in sentence(answer)
        return await method.check(user, user, RIGHT)

    current = [slow]
    with parts.helper(limit=4) as helper:

        async def run() -> Answer:
            method = LocalMethod(helper.descriptor, lambda: current[0])
            try:
                return await ask(method)
            finally:
                await method.close()

        assert asyncio.run(run()) == Right()
        for process in map(int, waits.read_text().split()):
            eventually(lambda process=process: not exists(process))  # type: ignore[misc]
        eventually(lambda: children(helper.process or 0) == [])


def test_at_most_so_many_are_asked_at_once_and_the_rest_is_told_in_time(user: str, sleeping: tuple[str, Path]) -> None:
    slow, waits = sleeping

    async def ask(method: LocalMethod) -> list[Answer]:
        return await asyncio.gather(*(method.check(user, user, RIGHT) for _ in range(30)))

    with parts.helper(limit=60) as helper:
        answers = parts.asking(helper, slow, ask, within=2, at_once=20, waiting=5)
        assert len(children(helper.process or 0)) == helping.AT_ONCE
        assert len(waits.read_text().split()) <= helping.AT_ONCE
    assert [sentence(answer).split()[0] for answer in answers] == ["More"] * 30


def test_who_has_given_up_is_not_asked_for(user: str, service: str, sleeping: tuple[str, Path]) -> None:
    slow, waits = sleeping
    with parts.helper(limit=2) as helper:

        async def give_up(method: LocalMethod) -> None:
            tasks = [asyncio.create_task(method.check(user, user, RIGHT)) for _ in range(helping.AT_ONCE + 8)]
            await until(lambda: waiting(waits) == helping.AT_ONCE)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        parts.asking(helper, slow, give_up)
        assert parts.check(helper, service, user) == Right()  # its turn comes after those that have given up
        assert len(waits.read_text().split()) <= helping.AT_ONCE


def test_a_child_that_is_killed_is_one_request_that_cannot_be_told(
    user: str, service: str, sleeping: tuple[str, Path]
) -> None:
    slow, waits = sleeping
    with parts.helper(limit=60) as helper:

        async def ask(method: LocalMethod) -> Answer:
            task = asyncio.create_task(method.check(user, user, RIGHT))
            await until(lambda: waiting(waits))
            [child] = children(helper.process or 0)
            os.kill(child, signal.SIGKILL)
            return await task

        assert "has died" in sentence(parts.asking(helper, slow, ask))
        eventually(lambda: not exists(int(waits.read_text())))
        assert parts.check(helper, service, user) == Right()


def test_when_the_helper_is_killed_nothing_can_be_said_at_once(
    user: str, service: str, sleeping: tuple[str, Path]
) -> None:
    slow, waits = sleeping
    with parts.helper(limit=60) as helper:
        assert helper.process is not None
        assert parts.check(helper, service, user) == Right()
        os.kill(helper.process, signal.SIGTERM)  # as who stops the service's processes does: it stays for the others
        assert parts.check(helper, service, user) == Right()

        async def ask(method: LocalMethod) -> list[Answer]:
            tasks = [asyncio.create_task(method.check(user, user, RIGHT)) for _ in range(helping.AT_ONCE + 4)]
            await until(lambda: waiting(waits) == helping.AT_ONCE)
            os.kill(helper.process or 0, signal.SIGKILL)
            return await asyncio.gather(*tasks)

        for answer in parts.asking(helper, slow, ask):
            assert sentence(answer)
        assert "start the service again" in sentence(parts.check(helper, service, user))
        assert isinstance(parts.asking(helper, service, lambda method: method.find(user)), CannotSay)


def test_it_ends_when_nobody_can_ask_any_more(user: str, sleeping: tuple[str, Path]) -> None:
    slow, waits = sleeping
    with parts.helper(limit=60) as helper:
        assert helper.process is not None
        worker = os.dup(helper.descriptor)

        async def begin(method: LocalMethod) -> None:
            task = asyncio.create_task(method.check(user, user, RIGHT))
            await until(lambda: waiting(waits))
            task.cancel()

        parts.asking(worker, slow, begin)
        helper.close()
        assert exists(helper.process), "a worker is there that can ask"
        assert exists(int(waits.read_text()))
        os.close(worker)
        eventually(lambda: not exists(helper.process or 0))
        eventually(lambda: not exists(int(waits.read_text())))


def test_it_is_out_of_reach_of_debuggers_core_files_and_the_keyboard(service: str, user: str) -> None:
    with parts.helper(owner=SOMEBODY) as helper:
        assert parts.check(helper, service, user) == Right()
        process = Path(f"/proc/{helper.process}")
        limits = dict(
            line.rsplit(None, 3)[0:2] for line in (process / "limits").read_text().splitlines() if "core" in line
        )
        assert limits == {"Max core file size": "0"}
        assert process.stat().st_uid == 0
        assert not as_user(SOMEBODY, lambda: os.access(process / "mem", os.R_OK))
        assert os.getsid(helper.process or 0) == helper.process
        assert (process / "cwd").readlink() == Path("/")


def test_passwords_stand_in_no_command_line_and_no_environment(user: str, sleeping: tuple[str, Path]) -> None:
    slow, waits = sleeping
    with parts.helper(limit=60) as helper:

        async def look(method: LocalMethod) -> None:
            task = asyncio.create_task(method.check(user, user, RIGHT))
            await until(lambda: waiting(waits))
            for process in (helper.process, *children(helper.process or 0), int(waits.read_text())):
                assert RIGHT not in shown(process)
            task.cancel()

        parts.asking(helper, slow, look)


def test_a_defect_shows_no_password(monkeypatch: pytest.MonkeyPatch, service: str, user: str) -> None:
    def broken() -> object:
        raise ValueError(PASSWORD)

    from winpop.auth.local import pam

    monkeypatch.setattr(pam, "_asked", lambda *_: broken())
    answer = pam.verify(service, user, RIGHT, pam.UNKNOWN_HOST)
    assert sentence(answer) == f"The PAM service {service} failed (ValueError)."


def test_a_helper_without_root_says_what_to_do(service: str, user: str) -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            helping.Keeper(theirs, SOMEBODY, 20.0).run()
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        for account in (user, None):
            assert "start 'winpop serve' as root" in sentence(parts.check(ours.fileno(), service, account))
        assert parts.check(ours.fileno(), service, user, b"") == Wrong("password")
        assert parts.asking(ours.fileno(), service, lambda method: method.find(user)) == user
    assert os.waitpid(child, 0)[1] == 0


def test_where_no_process_can_be_started_a_check_says_so(
    service: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/not/there")
    with parts.helper() as helper:
        assert helper.process is None
        assert "has ended" in sentence(parts.check(helper, service, user))


class Scripted:
    """A helper that says what it is told to: anything may come from a process that has gone wrong."""

    def __init__(self, answers: list[bytes]) -> None:
        self.ours, self._theirs = socket.socketpair()
        self._answers = answers
        self.asked: list[bytes] = []

    def __enter__(self) -> Self:
        self._child = os.fork()
        if self._child == 0:
            try:
                self.ours.close()
                for answer in self._answers:
                    _, channel = helping._received(self._theirs)
                    assert channel is not None
                    channel.recv(8192)
                    channel.sendall(answer)
                    channel.close()
            finally:
                os._exit(0)
        self._theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        os.waitpid(self._child, 0)


def test_only_a_clear_yes_is_one() -> None:
    answers = [
        b"",
        b"yes\n",
        b"{}\n",
        b"[]\n",
        b'"right"\n',
        b'{"right": 1}\n',
        b'{"right": false}\n',
        b'{"wrong": 7}\n',
    ]
    answers += [b'{"right": true', b"\xff\n", b"[" * 9000, b'{"found": "alice"}\n', b'{"right": true}\n']
    with Scripted(answers) as scripted:
        said = [parts.check(scripted.ours.fileno(), "any", "alice") for _ in answers]
    assert said[-1] == Right()
    assert all(isinstance(answer, CannotSay) for answer in said[:-1]), said


def test_nobody_is_never_right() -> None:
    with Scripted([b'{"right": true}\n']) as scripted:
        assert isinstance(parts.check(scripted.ours.fileno(), "any", None), CannotSay)
