"""A few connections that are used again and again, each by one request at a time.

Invariants: never more than `size` at once; a connection on which something went wrong, or whose request was given up,
is not used again; a request that met a connection which had died meanwhile gets another one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from winpop.auth.active_directory.connection import Connection, Unreachable
from winpop.auth.active_directory.servers import Servers

T = TypeVar("T")


class Pool:
    """Connections that `make` opens."""

    def __init__(self, servers: Servers, make: Callable[[], Awaitable[Connection]], size: int) -> None:
        """Begin with none."""
        self._servers = servers
        self._make = make
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._closed = False

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` on a connection. Raises `Unreachable` where no server could do it."""
        async with self._slots:
            while (connection := self._take()) is not None:
                try:
                    return await self._use(connection, work)
                except Unreachable:
                    self._drop_idle()  # the server was started anew, or the network is gone: the others are no better
            for _ in self._servers.all[1:]:
                connection = await self._make()
                try:
                    return await self._use(connection, work)
                except Unreachable:
                    self._servers.failed(connection.server)
            return await self._use(await self._make(), work)

    async def close(self) -> None:
        """Close those that nobody uses; the others close when their request ends."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close() for connection in idle))

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._servers.is_best(connection.server):
                return connection
            connection.abort()
        return None

    async def _use(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            done = await work(connection)
        except BaseException:
            connection.abort()
            raise
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)
        return done

    def _drop_idle(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
