"""A TLS handshake on a connection that is there already: with its beginning, or in its middle (STLS).

Invariant: what came in before the protocol of TLS was in place is given to that protocol or to nobody, and what comes
after it has come over TLS; so no byte that came in clear is ever read as if it had not.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

HANDSHAKE = 30.0
"""Seconds for a handshake, at most."""
_SHUTDOWN = 10.0
"""Seconds for the client's answer when the connection is closed."""
_HANDSHAKE_RECORD = b"\x16"
"""What TLS begins with (RFC 8446 §5.1)."""
_RECORD = 5
"""Octets before the content of a TLS record; the last two are the length of that."""
_MOST_EARLY = 16 * 1024
"""Octets. The first message of a client has a few hundred, or some thousands with keys against quantum computers."""

Done = Callable[[asyncio.Transport | None, str], None]
"""Called with the transport of TLS, or with None and why there is none."""


class Handshake:
    """One handshake, the server's side. `first` is what has come over TLS before `done` was called."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, *, early: bool) -> None:
        """Prepare; `early` tells whether the client may begin before we have."""
        self._transport = transport
        self._protocol = protocol
        self._may_be_early = early
        self._early = b""
        self._in_place = False
        self.first = b""

    def begin(self, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext, seconds: float, done: Done) -> None:
        """Begin; it has to be over in so many seconds."""
        if not self._may_be_early:
            self._transport.pause_reading()
        task = loop.create_task(
            loop.start_tls(
                self._transport,
                self._protocol,
                context,
                server_side=True,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=_SHUTDOWN,
            )
        )
        task.add_done_callback(lambda task: _tell(task, done))
        # Turn by turn: the task begins, then the protocol of TLS is in place, then it gets what came before it.
        loop.call_soon(loop.call_soon, self._hand_over)

    @property
    def is_begun(self) -> bool:
        """Whether there is something to answer: the client's first record, or that we have said it may come."""
        length = int.from_bytes(self._early[_RECORD - 2 : _RECORD], "big")
        return not self._may_be_early or len(self._early) >= _RECORD + length > _RECORD

    def take(self, data: bytes) -> bool:
        """Take bytes that came in, or tell that in clear none may come now."""
        if self._in_place:
            self.first += data
            return True
        self._early += data
        return self._may_be_early and len(self._early) <= _MOST_EARLY and self._early.startswith(_HANDSHAKE_RECORD)

    def _hand_over(self) -> None:
        data, self._early = self._early, b""
        protocol = self._transport.get_protocol()
        self._in_place = protocol is not self._protocol
        buffered = cast("asyncio.BufferedProtocol", protocol)  # it is one in all loops that there are
        while data and self._in_place:
            buffer = memoryview(buffered.get_buffer(len(data)))
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            buffered.buffer_updated(count)
            data = data[count:]


def _tell(task: "asyncio.Task[asyncio.Transport | None]", done: Done) -> None:
    if task.cancelled():
        done(None, "cancelled")
        return
    error = task.exception()
    done(task.result() if error is None else None, why(error))


def why(error: BaseException | None) -> str:
    """Say in a few words why a handshake failed."""
    if error is None:
        return "the client has gone"
    return (isinstance(error, ssl.SSLError) and error.reason) or type(error).__name__
