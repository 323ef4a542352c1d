"""Replies to several clients go out together: in the order in which they came up, and within a turn of the loop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from winpop.services.connection import Connection, Connections
from winpop.services.pop3 import Pop3Connection

if TYPE_CHECKING:
    import asyncio


@dataclass
class Loop:
    """An event loop that keeps what it is to call."""

    soon: list[Callable[[], object]] = field(default_factory=list)

    def call_soon(self, what: Callable[[], object]) -> None:
        self.soon.append(what)

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for what in due:
            what()


@dataclass(eq=False)
class Holding:
    """A connection of which only this is asked: to send what it holds."""

    name: int
    sent: list[int]

    def send_held(self) -> None:
        self.sent.append(self.name)


def several(count: int) -> tuple[Loop, Connections, list[Connection], list[int]]:
    loop, sent = Loop(), list[int]()
    connections = Connections(cast("asyncio.AbstractEventLoop", loop))
    each = [cast("Connection", Holding(number, sent)) for number in range(count)]
    connections.every.update(each)
    return loop, connections, each, sent


def test_replies_to_several_wait_for_the_end_of_the_turn_and_go_in_order() -> None:
    loop, connections, each, sent = several(3)
    for one in reversed(each):
        connections.send_soon(one)
    assert sent == []
    assert len(loop.soon) == 1
    loop.turn()
    assert sent == [2, 1, 0]
    loop.turn()
    assert sent == [2, 1, 0]


def test_who_is_alone_waits_for_nobody() -> None:
    loop, connections, each, sent = several(1)
    connections.send_soon(each[0])
    assert sent == [0]
    assert not loop.soon


def test_many_do_not_wait_for_all() -> None:
    loop, connections, each, sent = several(40)
    for one in each:
        connections.send_soon(one)
    assert sent == list(range(32))
    loop.turn()
    assert sent == list(range(40))


def test_a_defect_in_one_does_not_keep_the_others_waiting() -> None:
    loop, connections, each, sent = several(3)
    defect = RuntimeError("a defect")
    failed: list[Exception] = []

    class Broken(Holding):
        def send_held(self) -> None:
            raise defect

        def fail(self, error: Exception) -> None:
            failed.append(error)

    for one in (each[0], cast("Connection", Broken(7, sent)), each[1]):
        connections.send_soon(one)
    loop.turn()
    assert sent == [0, 1]
    assert failed == [defect]


def test_what_comes_up_while_it_is_sent_goes_out_too() -> None:
    loop, connections, each, sent = several(2)

    class Answered(Holding):
        def send_held(self) -> None:
            super().send_held()
            connections.send_soon(each[0])

    connections.send_soon(cast("Connection", Answered(7, sent)))
    loop.turn()
    assert sent == [7]
    loop.turn()
    assert sent == [7, 0]


class Written(Pop3Connection):
    """A connection that keeps what it would write."""

    __slots__ = ("written",)

    def __init__(self, connections: Connections) -> None:  # of all that a connection has, it needs this
        self.connections = connections
        self.lost = False
        self.written: list[bytes] = []
        self._held, self._parts = b"", False

    def _to_socket(self, data: bytes) -> None:
        self.written.append(data)


def test_much_does_not_wait_so_that_it_shows_whether_it_is_taken() -> None:
    loop, connections, _, _ = several(2)
    one, other = Written(connections), Written(connections)
    one._send(b"small")
    other._send(b"x" * 70_000)
    assert (one.written, other.written) == ([], [b"x" * 70_000])
    one._send(b"y" * 70_000)
    assert one.written == [b"small" + b"y" * 70_000]
    one._send(b"more")
    loop.turn()
    assert one.written[1:] == [b"more"]
    assert len(other.written) == 1
