"""A file that goes to a client past everything else: all octets in their order, or an ending that says so."""

import asyncio
import contextlib
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from winpop.services import passing as module
from winpop.services.passing import POSSIBLE, Passing

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="this system has no sendfile")
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
CONTENT = b"".join(b"%015d\n" % number for number in range(200_000))
"""3 MB in which no place is like another."""


def open_files() -> set[Path]:
    """Return the descriptors of this process, without those that earlier tests left to be collected."""
    gc.collect()
    return set(Path("/proc/self/fd").iterdir())


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Let each kind of loop open what it keeps for good."""
    for factory in LOOPS:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def _all_is_given_back() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def run(work: Any) -> Any:  # noqa: ANN401 - what a coroutine returns
        with asyncio.Runner(loop_factory=request.param) as loop:
            return loop.run(asyncio.wait_for(work, 20))

    return run


class Bench:
    """A file, a socket, and the reader at its other end."""

    def __init__(self, path: Path, size: int = len(CONTENT), *, content: bytes = CONTENT) -> None:
        path.write_bytes(content)
        self.loop = asyncio.get_running_loop()
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.file = os.open(path, os.O_RDONLY)
        self.endings: list[OSError | None] = []
        self.over = asyncio.Event()
        self.threads = 0
        self.passing = Passing(
            self.loop, self.in_thread, socket=self.ours.fileno(), file=self.file, size=size, done=self.done
        )

    def done(self, error: OSError | None) -> None:
        self.endings.append(error)
        self.over.set()

    def in_thread(self, work: Callable[[], object], then: Callable[[object], None]) -> None:
        self.threads += 1

        def run() -> None:
            assert threading.current_thread() is not threading.main_thread()
            outcome = work()
            self.loop.call_soon_threadsafe(then, outcome)

        self.loop.run_in_executor(None, run)

    async def read(self, pause: float = 0.0, piece: int = 65536) -> bytes:
        """Read until the file is over."""
        text = bytearray()
        while not (self.over.is_set() and not self.passing_on()):
            with contextlib.suppress(BlockingIOError):
                text += self.theirs.recv(piece)
            await asyncio.sleep(pause)
        with contextlib.suppress(BlockingIOError):
            while more := self.theirs.recv(1 << 20):
                text += more
        return bytes(text)

    def passing_on(self) -> bool:
        return self.passing.left > 0 and not self.over.is_set()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        os.close(self.file)


@contextlib.contextmanager
def bench(*given: Any, **more: Any) -> Iterator[Bench]:  # noqa: ANN401 - as of `Bench`
    made = Bench(*given, **more)
    try:
        yield made
    finally:
        made.passing.stop()
        made.close()


@pytest.mark.parametrize("pause", [0, 0.001])
def test_all_octets_arrive_in_order_at_a_slow_reader(
    runner: Callable[[Any], Any], tmp_path: Path, pause: float
) -> None:
    async def work() -> None:
        with bench(tmp_path / "file") as its:
            its.passing.go()
            assert its.passing.left > 0  # nobody has read anything
            assert its.endings == []
            assert await its.read(pause) == CONTENT
            assert (its.endings, its.passing.left) == ([None], 0)

    runner(work())


class Counted:
    """A loop that counts how often it is asked to wait for a writer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.waits = loop, 0

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.waits += 1
        self.loop.add_writer(descriptor, callback)

    def remove_writer(self, descriptor: int) -> bool:
        return self.loop.remove_writer(descriptor)


def test_a_reader_is_waited_for_once_not_for_each_piece(runner: Callable[[Any], Any], tmp_path: Path) -> None:
    async def work() -> None:
        with bench(tmp_path / "file") as its:
            counted = Counted(its.loop)
            its.passing._loop = counted  # type: ignore[assignment]  # what is used of one
            its.passing.go()
            assert await its.read() == CONTENT
            # Where the system cannot say what it has in memory a thread reads each piece, and the wait is given up.
            assert counted.waits <= 1 + its.threads

    runner(work())


def test_pages_that_are_not_in_memory_are_read_in_a_thread(
    runner: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Passing, "_is_in_memory", lambda *_: False)

    async def work() -> None:
        with bench(tmp_path / "file") as its:
            its.passing.go()
            assert its.passing.left == len(CONTENT)  # nothing without the thread
            assert await its.read() == CONTENT
            assert its.threads >= -(-len(CONTENT) // module._PIECE)
            assert its.endings == [None]

    runner(work())


def test_whether_an_octet_is_in_memory_can_be_told(runner: Callable[[Any], Any], tmp_path: Path) -> None:
    async def work() -> None:
        with bench(tmp_path / "file") as its:
            assert its.passing._is_in_memory(0) in (True, False)
            assert not its.passing._is_in_memory(len(CONTENT))

    runner(work())


@pytest.mark.parametrize("in_memory", [True, False])
def test_no_more_than_was_said_is_sent(
    runner: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    monkeypatch.setattr(Passing, "_is_in_memory", lambda *_: in_memory)

    async def work() -> None:
        for size in (0, 1, 1000, module._PIECE, module._PIECE + 1):
            with bench(tmp_path / "file", size) as its:
                its.passing.go()
                assert await its.read() == CONTENT[:size]
                assert its.endings == [None]

    runner(work())


@pytest.mark.parametrize("in_memory", [True, False, None])
def test_a_file_that_is_shorter_than_was_said_ends_with_an_error(
    runner: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool | None
) -> None:
    if in_memory is not None:
        monkeypatch.setattr(Passing, "_is_in_memory", lambda *_: in_memory)

    async def work() -> None:
        with bench(tmp_path / "file", len(CONTENT) + 5) as its:
            its.passing.go()
            assert await its.read() == CONTENT
            assert [type(ending) for ending in its.endings] == [OSError]

    runner(work())


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_reader_that_goes_away_ends_it_once(
    runner: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    monkeypatch.setattr(Passing, "_is_in_memory", lambda *_: in_memory)

    async def work() -> None:
        with bench(tmp_path / "file") as its:
            its.passing.go()
            await asyncio.sleep(0.05)
            its.theirs.close()
            await its.over.wait()
            await asyncio.sleep(0.05)
            assert len(its.endings) == 1
            assert isinstance(its.endings[0], ConnectionError)

    runner(work())


@pytest.mark.parametrize("in_memory", [True, False])
def test_to_stop_in_its_middle_sends_no_more_and_says_nothing(
    runner: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    monkeypatch.setattr(Passing, "_is_in_memory", lambda *_: in_memory)

    async def work() -> None:
        with bench(tmp_path / "file") as its:
            its.passing.go()
            if in_memory:
                await asyncio.sleep(0.02)
            its.passing.stop()  # else while the thread reads
            its.passing.stop()
            sent = len(CONTENT) - its.passing.left
            text = b""
            for _ in range(20):
                with contextlib.suppress(BlockingIOError):
                    text += its.theirs.recv(1 << 20)
                await asyncio.sleep(0.005)
            assert text == CONTENT[:sent]
            assert len(text) < len(CONTENT)
            assert its.endings == []
            its.passing.go()
            assert its.endings == []

    runner(work())


def test_where_no_descriptor_is_left_none_is_kept(
    runner: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.dup, [1]

    def dup(descriptor: int) -> int:
        if not left:
            raise OSError(24, "Too many open files")
        left.pop()
        return real(descriptor)

    async def work() -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x")
        ours, theirs = socket.socketpair()
        with ours, theirs, path.open("rb") as file:
            before = len(open_files())
            monkeypatch.setattr(os, "dup", dup)
            with pytest.raises(OSError, match="Too many"):
                Passing(
                    asyncio.get_running_loop(),
                    lambda *_: None,
                    socket=ours.fileno(),
                    file=file.fileno(),
                    size=1,
                    done=lambda _: None,
                )
            monkeypatch.setattr(os, "dup", real)
            assert len(open_files()) == before

    runner(work())
