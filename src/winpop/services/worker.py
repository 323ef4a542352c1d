"""One worker: an event loop, the connections it accepted, and an eye on the database.

Invariant: what an administrator has committed holds here within a second, with nobody telling: the worker looks at
the database's change counter, and at a change takes the settings and ends the sessions that a lock or a deletion
concerns. As a program (`python -m winpop.services.worker`) it is the master's child: its orders come as one JSON line
on standard input, and when that ends (the master asks for a drain, or is dead) it drains and exits.
"""

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from winpop.db.home import Home
from winpop.directory import mailboxes
from winpop.protocol.pop3 import Ending
from winpop.services import listeners as listening
from winpop.services.census import Census
from winpop.services.connection import Connection, Connections, where
from winpop.services.housekeeping import keep_house
from winpop.services.pop3 import Pop3Connection, Pop3sConnection
from winpop.services.smtp import LmtpConnection, SmtpConnection
from winpop.services.world import LogonParts, World
from winpop.terms.refusals import Refusal

_LOOK = 0.2
"""Seconds between two looks at the database's change counter, and at the census while no more is accepted."""
_LOG_DELAY = 0.05
_MINUTE = 60.0
_COLLECT = 20_000, 20, 100
"""After how many new objects the youngest are looked through, and after how many times that the older ones: with many
connections the oldest are hundreds of thousands, and what is forgotten in a circle is little."""

PROTOCOLS: dict[str, type[Connection]] = {
    "pop3": Pop3Connection,
    "pop3s": Pop3sConnection,
    "smtp": SmtpConnection,
    "lmtp": LmtpConnection,
}


class Worker:
    """Serves the given listening sockets until it is asked to stop."""

    def __init__(self, world: World, listeners: dict[str, socket.socket], *, alone: bool) -> None:
        self.world = world
        self.connections = Connections(world.loop)
        self._listeners = listeners
        self._servers: list[asyncio.Server] = []
        self._stopping = asyncio.Event()
        self._alone = alone
        self._wanted = listening.wanted(world.settings)
        self._complaints: dict[str, float] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        """Accept, say so, serve until `stop`, drain."""
        world = self.world
        world.log.defer = lambda flush: world.loop.call_later(_LOG_DELAY, flush)
        await self._accept()
        # What is there now stays: it need not be looked through for garbage each time, which would hold up everybody.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        ready()
        tasks = [world.loop.create_task(self._look())]
        if self._alone:
            tasks.append(world.loop.create_task(keep_house(world.home, lambda: world.settings, world.log)))
        await self._stopping.wait()
        self._accept_no_more()
        for listener in self._listeners.values():
            listener.close()  # else the system would go on accepting what nobody serves, and keep the port
        await self._drain()
        await world.logons.close()
        for task in tasks:
            task.cancel()  # only now: a lock ends the sessions of a worker that drains, too
        # Whatever else is under way, a logon that waits its turn, ends before what it works with is closed.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for other in others:
            other.cancel()
        if others:
            await asyncio.wait(others, timeout=1)

    def stop(self) -> None:
        """Begin to drain."""
        self._stopping.set()

    def complain(self, error: Exception) -> None:
        """Log what hinders, once a minute: it may come up many times a second."""
        match error:
            case Refusal():
                event, text = "database", error.sentence
            case OSError():  # such as that there is no descriptor left for a connection
                event, text = "listener", str(error)
            case _:
                event, text = "defect", f"{type(error).__name__} {where(error)}"
        now = self.world.loop.time()
        if now - self._complaints.get(text, -_MINUTE) >= _MINUTE:
            self._complaints = {text: now}
            self.world.log.critical(event, error=text)

    def hurry(self) -> None:
        """Begin to drain; asked a second time, let no session finish."""
        if self._stopping.is_set():
            for connection in list(self.connections.every):
                connection.abort()
        self.stop()

    # --- accepting ---

    async def _accept(self) -> None:
        """Accept on every listener; the server gets a duplicate, so that closing it keeps the listener."""
        try:
            for name, listener in self._listeners.items():
                make = PROTOCOLS[name]
                server = await self.world.loop.create_server(
                    lambda make=make: make(self.world, self.connections),  # type: ignore[misc]
                    sock=listener.dup(),
                    backlog=self.world.settings.socketbacklog,
                )
                self._servers.append(server)
        except OSError:
            self._accept_no_more()  # all or none
            raise

    def _accept_no_more(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _mind_the_total(self) -> None:
        """At `socketmax` connections wait, in the backlog or accepted already, until enough others have ended."""
        settings, census = self.world.settings, self.world.census
        total = census.total()
        if total >= settings.socketmax:
            census.full = True
        elif total <= max(settings.socketmax - max(settings.socketthreshold, 1), 0):
            census.full = False
        if census.full:
            if self._servers:
                self._accept_no_more()
                self.world.log.warning("full", sessions=total)
            return
        for connection in list(self.connections.waiting):
            if not connection.admit():
                return
        if not self._servers:
            await self._accept()

    # --- the change feed ---

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            try:
                self._take_changes()
                self.world.tls.remind()
                if not self._stopping.is_set():
                    await self._mind_the_total()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next lock has to be seen
                self.complain(error)

    def _take_changes(self) -> None:
        """Take the settings, and end sessions, when there was an administrative change since the last look."""
        world = self.world
        generation = world.changes()
        if generation != world.generation:
            world.take_changes()
            self._mind_the_listeners()
            self._end_sessions()
            world.generation = generation  # last: what failed on the way is looked at again

    def _mind_the_listeners(self) -> None:
        """Say that changed listeners wait, where there is no master to start another worker with them."""
        wanted = listening.wanted(self.world.settings)
        if self._alone and wanted != self._wanted:
            detail = "this process serves alone; it takes changed listeners when it starts again"
            self.world.log.warning("listeners", detail=detail)
        self._wanted = wanted

    def _end_sessions(self) -> None:
        """End the sessions whose mailbox was locked or deleted."""
        logged_on = self.connections.logged_on
        now = mailboxes.by_id(self.world.reader, list(logged_on))
        for mailbox_id, connection in list(logged_on.items()):
            mailbox = now.get(mailbox_id)
            if mailbox is None:
                connection.end(Ending.MAILBOX_DELETED, "mailbox deleted")
            elif mailbox.domain_locked:
                connection.end(Ending.DOMAIN_LOCKED, "domain locked")
            elif mailbox.own_lock:
                connection.end(Ending.MAILBOX_LOCKED, "mailbox locked")

    # --- stopping ---

    async def _drain(self) -> None:
        """Let what is under way finish, within `draintime`; end the rest."""
        loop = self.world.loop
        until = loop.time() + self.world.settings.draintime
        while self.connections.every and loop.time() < until:
            for connection in list(self.connections.every):
                connection.drain()
            await asyncio.sleep(0.05)
        for connection in list(self.connections.every):
            connection.end(connection.stopping, "service stopping")
        await asyncio.sleep(0.05)
        for connection in list(self.connections.every):
            connection.abort()
        await asyncio.sleep(0)  # connections are told that they are lost


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` in the quickest event loop there is."""
    try:
        import uvloop  # absent on Windows
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def serve(  # noqa: PLR0913 - the orders of a worker, each by name
    home: Home,
    *,
    overrides: dict[str, str],
    census: Census,
    parts: LogonParts,
    listeners: dict[str, socket.socket],
    ready: Callable[[], None],
    orders_end: int | None = None,
) -> int:
    """Be a worker until SIGTERM, SIGINT, or the end of the stream with descriptor `orders_end`."""
    loop = asyncio.get_running_loop()
    world = World(home, overrides, census, parts, loop)
    try:
        worker = Worker(world, listeners, alone=orders_end is None)
        loop.set_exception_handler(
            lambda _, context: worker.complain(context.get("exception") or RuntimeError(context["message"]))
        )
        sys.unraisablehook = lambda caught: _unraised(worker, caught.exc_value)
        if orders_end is None:
            for number in (signal.SIGTERM, signal.SIGINT):
                try:
                    loop.add_signal_handler(number, worker.hurry)
                except NotImplementedError:  # Windows
                    signal.signal(number, lambda *_: loop.call_soon_threadsafe(worker.hurry))
        else:
            # Who stops a service may signal all its processes: a worker that is draining is not hurried by it.
            loop.add_signal_handler(signal.SIGTERM, worker.stop)
            loop.add_reader(orders_end, lambda: _on_end(loop, orders_end, worker))
        await worker.run(ready)
    finally:
        world.close()
    return 0


def _unraised(worker: Worker, error: BaseException | None) -> None:
    """Log what nobody can catch; a name in a handshake that is no name (SNI) is the client's own affair."""
    if isinstance(error, Exception) and not isinstance(error, UnicodeError):
        worker.complain(error)


def _on_end(loop: asyncio.AbstractEventLoop, descriptor: int, worker: Worker) -> None:
    if not os.read(descriptor, 1024):
        loop.remove_reader(descriptor)
        worker.stop()


def main() -> int:
    """Be the master's child."""
    orders = json.loads(_first_line(sys.stdin.fileno()))
    listeners = {name: socket.socket(fileno=descriptor) for name, descriptor in orders["listeners"].items()}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the master decides what it means
    try:
        return run_loop(
            serve(
                Home(Path(orders["home"])),
                overrides=orders["overrides"],
                census=Census(orders["census"], orders["row"]),
                parts=LogonParts(orders["shared"], orders["accounts"]),
                listeners=listeners,
                ready=lambda: _say({"ready": True}),
                orders_end=sys.stdin.fileno(),
            )
        )
    except Refusal as refusal:
        _say({"code": refusal.code, "sentence": refusal.sentence, "kind": int(refusal.kind)})
        return int(refusal.kind)


def _first_line(descriptor: int) -> bytes:
    """Read up to the first line end and no byte further: what comes after is watched by the loop."""
    line = b""
    while not line.endswith(b"\n"):
        octet = os.read(descriptor, 1)
        if not octet:
            sys.exit(0)
        line += octet
    return line


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the master is dead, and the end of the orders says so next
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
