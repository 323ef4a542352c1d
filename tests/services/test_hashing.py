"""Whose password is looked at next: a crowd that guesses holds up itself."""

import asyncio
import threading
from collections.abc import Callable, Coroutine

import pytest

from winpop.services.hashing import Hashing


class Gate:
    """Work that takes until the gate is opened; `order` is in which order it began."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.opened = threading.Event()

    def work(self, name: str) -> Callable[[], bool]:
        def work() -> bool:
            self.order.append(name)
            assert self.opened.wait(20)
            return True

        return work


def run(test: Callable[[Hashing, Gate], Coroutine[None, None, None]], most: int = 100) -> None:
    async def go() -> None:
        hashing = Hashing(asyncio.get_running_loop(), lambda: most, threads=1)
        gate = Gate()
        try:
            await test(hashing, gate)
        finally:
            gate.opened.set()
            hashing.close()

    asyncio.run(go())


async def begun(coroutine: Coroutine[None, None, bool]) -> asyncio.Task[bool]:
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    return task


async def ended(tasks: list[asyncio.Task[bool]]) -> None:
    assert await asyncio.wait_for(asyncio.gather(*tasks), 20) == [True] * len(tasks)


def test_who_comes_alone_waits_for_nobodys_second_attempt() -> None:
    async def test(hashing: Hashing, gate: Gate) -> None:
        crowd = [await begun(hashing.run(gate.work(f"crowd {n}"), "10.0.0.1", last=False)) for n in range(5)]
        alone = await begun(hashing.run(gate.work("alone"), "10.0.0.2", last=False))
        gate.opened.set()
        await ended([*crowd, alone])
        assert gate.order.index("alone") == 1

    run(test)


def test_those_from_where_others_guess_come_last_but_have_their_turns() -> None:
    async def test(hashing: Hashing, gate: Gate) -> None:
        tasks = [await begun(hashing.run(gate.work("first"), "10.0.0.9", last=False))]
        tasks += [await begun(hashing.run(gate.work("guess"), f"10.1.0.{n}", last=True)) for n in range(8)]
        tasks += [await begun(hashing.run(gate.work("honest"), f"10.2.0.{n}", last=False)) for n in range(8)]
        gate.opened.set()
        await ended(tasks)
        assert gate.order[1:9].count("guess") in {1, 2}
        assert gate.order[9:].count("guess") in {6, 7}

    run(test)


def test_what_waits_is_bounded_and_guesses_take_nobodys_place() -> None:
    async def test(hashing: Hashing, gate: Gate) -> None:
        tasks = [await begun(hashing.run(gate.work(""), "10.0.0.1", last=False))]
        tasks += [await begun(hashing.run(gate.work(""), "10.0.0.1", last=True)) for _ in range(2)]
        with pytest.raises(TimeoutError):
            await hashing.run(gate.work(""), "10.0.0.1", last=True)
        tasks += [await begun(hashing.run(gate.work(""), "10.0.0.2", last=False)) for _ in range(2)]
        with pytest.raises(TimeoutError):
            await hashing.run(gate.work(""), "10.0.0.2", last=False)
        gate.opened.set()
        await ended(tasks)

    run(test, most=2)


def test_who_gives_up_while_waiting_holds_up_nobody() -> None:
    async def test(hashing: Hashing, gate: Gate) -> None:
        tasks = [await begun(hashing.run(gate.work(""), "10.0.0.1", last=False)) for _ in range(4)]
        tasks[1].cancel()
        tasks[3].cancel()
        gate.opened.set()
        await ended([tasks[0], tasks[2]])
        await ended([await begun(hashing.run(gate.work(""), "10.0.0.1", last=False))])
        assert len(gate.order) == 3

    run(test)
