"""One connection: bytes between a socket and a pure session, and the clock that the session does not have.

What a protocol needs beyond bytes (logons, messages, deliveries) its own class answers: `pop3`, `smtp`. Before its
dialogue begins a connection may have to say for whom it comes (the PROXY protocol, from proxies that an administrator
has named), and to make its TLS handshake. Invariants: while a need is being answered nothing else happens to the
session but an end; bytes are read only while the session uses them and written only while the client takes them, so
that what a connection holds in memory is bounded; every connection has a deadline at every moment, and is counted
before its handshake; no byte that came in clear is ever read as if it had come over TLS.

One file although it is long: all of it is the life of one connection, and every part has to know whether it is over.
"""

import asyncio
import math
import os
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from winpop.protocol import proxy
from winpop.services.clock import Clock
from winpop.services.layer import FIRST, HANDSHAKE, Layer, why
from winpop.services.tls import alpn_is_right
from winpop.services.world import World

if TYPE_CHECKING:
    from winpop.terms.endpoints import IPAddress

T = TypeVar("T")
_MOST_UNUSED = 4 * 1024
"""Octets that came in and wait, above which the socket is not read."""
_MOST_READ, _MOST_OF_A_BODY = 4 * 1024, 64 * 1024
"""Octets that are read at once: of commands, and of a message's body. The loop itself would read 256 KiB: so much
a client that sends commands and reads no reply would have us keep, and over TLS 100 KiB more."""
_MOST_EARLY = 16 * 1024
"""Octets of a handshake that come before there is room for the connection, and before it is answered."""
_MOST_HELD = 64 * 1024
"""Octets of replies that go out together."""
_MOST_TOGETHER = 32
"""Connections whose replies go out together, when what the loop had for all of them is done: the first wakes a client's
machine, the others find it awake. One by one, waking took 16 to 20 % of the processor; so, polls take 12 % less."""
_DIRECT = os.name == "posix"
"""Whether what is sent is written to the socket itself while the transport has nothing left to send: 1 µs instead of 4,
and no copy is kept (a Windows socket is no descriptor)."""
_LOOK_AGAIN = 5.0
"""Seconds after which a connection's clock is looked at again, at the latest."""
_HEADER = 30.0
"""Seconds for the header of the PROXY protocol."""
_GONE = "closed by client"
_LINGER = 3.0
"""Seconds that what a client still sends is read and dropped, so that it can read the last reply."""


class Session(Protocol):
    """What all sessions have. Needs, answers and endings are each protocol's own."""

    commands: int
    more: bool
    """There may be more to be sent as soon as what is to be sent is taken."""

    @property
    def closed(self) -> bool:
        """Whether no further reply will come."""
        ...

    @property
    def backlog(self) -> int:
        """Octets that came in and were not used yet."""
        ...

    @property
    def said_quit(self) -> bool:
        """Whether the client itself ended the dialogue."""
        ...

    def receive(self, data: bytes) -> None:
        """Take bytes."""
        ...

    def needs(self) -> Any:  # noqa: ANN401 - each protocol has its own needs
        """Tell the open need."""
        ...

    @property
    def unsent(self) -> int:
        """Octets for the client that nobody has taken yet."""
        ...

    def go_on(self) -> None:
        """Use what came in, and keep what is to be sent."""
        ...

    def take(self) -> bytes:
        """Return what is to be sent, and do not go on."""
        ...

    def to_send(self) -> bytes:
        """Go on, and return the next bytes."""
        ...


class Connections:
    """The connections of a worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = Clock(loop)
        self.room = memoryview(bytearray(_MOST_OF_A_BODY))
        """What is read lies here until it is given to its connection, at once."""
        self.small_room = self.room[:_MOST_READ]
        self.every: set[Connection] = set()
        self.logged_on: dict[int, Connection] = {}
        """The connections with an open maildrop, by mailbox."""
        self.waiting: dict[Connection, None] = {}
        """The connections for which there was no room, the oldest first."""
        self._loop = loop
        self._sending: list[Connection] = []
        """The connections that have something to be sent, in the order in which it came up."""

    def send_soon(self, connection: "Connection") -> None:
        """Have what this connection holds sent; at once while it is the only one."""
        sending = self._sending
        sending.append(connection)
        if len(sending) >= _MOST_TOGETHER or len(self.every) == 1:
            self._send_all()
        elif len(sending) == 1:
            self._loop.call_soon(self._send_all)

    def _send_all(self) -> None:
        sending, self._sending = self._sending, []
        for connection in sending:
            try:
                connection.send_held()
            except Exception as defect:  # noqa: BLE001 - it ends this connection, and the others are sent theirs
                connection.fail(defect)


class Connection(asyncio.BufferedProtocol, ABC):
    """The part that is the same for all protocols."""

    kind = ""
    implicit_tls = False
    """TLS begins with the connection (RFC 8314 §3)."""
    overloaded: Any
    """The ending, in the protocol's own terms, of a connection for which there is no room."""
    stopping: Any
    """The ending of a connection when the service stops."""

    __slots__ = (
        "_answering",
        "_closing",
        "_commands",
        "_counted",
        "_descriptor",
        "_early",
        "_exempt",
        "_goes_on",
        "_half_closed",
        "_handshake_until",
        "_header",
        "_held",
        "_hello",
        "_layer",
        "_parts",
        "_progress",
        "_reading",
        "_secured",
        "_transport",
        "_unsent",
        "_writable",
        "began",
        "connections",
        "due",
        "last_used",
        "lost",
        "peer",
        "reason",
        "sent",
        "session",
        "shown_peer",
        "trusted",
        "world",
    )

    def __init__(self, world: World, connections: Connections) -> None:
        self.world = world
        self.connections = connections
        self.session: Session
        self.peer: IPAddress
        self.shown_peer: str
        self.trusted = False
        self.lost = False
        self.began = world.loop.time()
        self.last_used = self.began
        self.sent = 0
        self.reason = _GONE
        self._commands = 0
        self._answering = False
        self._counted = False
        self._exempt = False
        """It counts in all, and for no address."""
        self._writable = True
        self._reading = True
        self._unsent = 0
        self._progress = self.began
        self._closing = False
        self._parts = False
        """It is closed as soon as what it holds is sent."""
        self._half_closed = False
        self._goes_on = False
        """It has more to do, when the others had their turn."""
        self._header: proxy.Header | None = None
        """The header of the PROXY protocol, while it is not all there."""
        self._layer: Layer | None = None
        self._secured = False
        """The TLS handshake is over."""
        self._handshake_until = 0.0
        """When it has to be; 0 while what comes belongs to no handshake."""
        self._early = b""
        """Of the handshake, what came before there was room for the connection."""
        self._hello = 0
        """Octets of the handshake so far."""
        self._held = b""
        """What goes out with the replies to others."""
        self._transport: asyncio.Transport
        self._descriptor = -1
        self.due = 0

    @property
    def tls(self) -> ssl.SSLObject | None:
        """What is known of TLS; None in clear."""
        return self._layer.object if self._layer is not None and self._secured else None

    # --- what each protocol adds ---

    @abstractmethod
    def open_session(self) -> Session:
        """Make the session for this peer."""

    @abstractmethod
    def answer(self, need: Any) -> None:  # noqa: ANN401 - each protocol has its own needs
        """See to a need: `supply` at once, or after `later()` has been called, some time later."""

    @abstractmethod
    def end_session(self, reason: Any) -> None:  # noqa: ANN401 - each protocol has its own endings
        """End the session in its own terms."""

    @abstractmethod
    def busy(self) -> bool:
        """Tell whether something is under way that a stopping service lets finish."""

    @abstractmethod
    def deadline(self) -> tuple[float, Any]:
        """Return when a silent client's time is up (in the loop's time), and the ending it then gets."""

    def at_the_latest(self) -> float:
        """Return when a client's time is up also while it takes what it is sent, in the loop's time."""
        return math.inf

    def passing(self) -> int:
        """Return the octets that are on their way past the transport."""
        return 0

    @abstractmethod
    def release(self) -> None:
        """Give back what the connection holds, when nothing is being answered any more; harmless when repeated."""

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Return what the log says of this connection when it ends."""

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: greet, or tell that there is no room."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(0)  # no more is made while the system takes no more
        peername = transport.get_extra_info("peername")
        if not peername:  # it is gone already
            self._transport.abort()
            self.lost = True
            return
        if _DIRECT:
            self._descriptor = transport.get_extra_info("socket").fileno()
        self.peer, self.shown_peer, proxied, _ = self.world.who(peername[0])
        self.connections.every.add(self)
        if proxied:
            self._header = proxy.Header()
            self.world.census.enter(None)
            self._counted = self._exempt = True
            self.session = self.open_session()  # until it is known who comes, nothing is said
            self._watch()
        else:
            self._arrive(peername[0])

    def _arrive(self, peer: str, *, known: bool = True) -> None:
        """Begin with the peer that is known now; where a proxy does not know it, nobody is trusted in its place."""
        self.peer, self.shown_peer, _, trusted = self.world.who(peer)
        self.trusted = known and trusted
        self.session = self.open_session()
        if self.implicit_tls:
            self._expect_handshake()
        if not self.admit() and len(self.connections.waiting) > self.world.settings.socketbacklog:
            self._turn_away()
        self._watch()

    def _read_header(self, data: bytes) -> None:
        """Take the header of the PROXY protocol, and go on with what follows it."""
        header = self._header
        assert header is not None
        header.feed(data)
        if header.state is proxy.State.BROKEN:
            self.world.log.warning("proxy", peer=self.shown_peer, error=header.flaw)
            self.leave("not the PROXY protocol")
        elif header.state is proxy.State.DONE:
            self._header = None
            self._leave_census()
            self._arrive(str(header.source or self.peer), known=header.source is not None)
            if header.rest and not self.lost:
                self.data_received(header.rest)

    def admit(self) -> bool:
        """Begin the dialogue, or wait where all workers together have as many connections as there may be."""
        settings, census = self.world.settings, self.world.census
        self._exempt = self.trusted
        address = None if self._exempt else self.peer
        census.enter(address)
        if census.full or census.total() > settings.socketmax:
            census.leave(address)
            census.full = True
            self.connections.waiting[self] = None
            return False
        self._counted = True
        self.connections.waiting.pop(self, None)
        self.began = self.last_used = self.world.loop.time()
        if address is not None and 0 < settings.sessionsperaddress < census.of(address):
            self._turn_away()
        elif self.implicit_tls:
            self._expect_handshake()
            if self._early:
                early, self._early = self._early, b""
                self._shake_hands(early)
        else:
            self.pump()
        return True

    def _turn_away(self) -> None:
        if self.implicit_tls:
            self.leave("too many connections")  # what could be said would be no TLS
            return
        self.session.to_send()  # the greeting, which would be a promise
        self.end(self.overloaded, "too many connections")

    # --- TLS ---

    def secure(self) -> None:
        """Take what comes from now on for TLS; `secured` follows, or the end of the connection."""
        self._expect_handshake()
        self._watch()

    def _expect_handshake(self) -> None:
        now = self.world.loop.time()
        self._handshake_until = max(now + 1.0, min(now + HANDSHAKE, self.began + self.world.settings.logontime))

    def _shake_hands(self, data: bytes) -> None:
        """Go on with the handshake. It begins when there is something to answer: who comes and goes costs nothing."""
        if self._layer is None:
            context = self.world.tls.context
            if context is None or not data.startswith(FIRST):
                self.leave("no certificate" if context is None else "sent in clear what belongs to TLS")
                return
            self._layer = Layer(context)
        layer = self._layer
        self._hello += len(data)
        if self._hello > _MOST_EARLY and not layer.answered:  # the library would keep 128 KiB of it
            self.leave("no TLS: too long a ClientHello")
            return
        failure = None
        try:
            over = layer.handshake(data)
        except ssl.SSLError as error:
            over, failure = False, error
        records = layer.records()  # also those that say why it failed
        if records:
            self._send(records)
        if failure is not None:
            self._answering = False
            self.reason = f"no TLS: {why(failure)}"
            self.send_held()
            self._transport.close()
        elif over and not self.lost:
            self._handshake_until, self._secured = 0.0, True
            if alpn_is_right(layer.object):
                self._begin_over_tls()
            else:
                self.leave("another protocol was negotiated")

    def _begin_over_tls(self) -> None:
        try:
            self.secured()
            if not self.lost:
                self.data_received(b"")  # what came with the last of the handshake
        except Exception as defect:  # noqa: BLE001 - a defect here ends this connection and no other
            self.fail(defect)

    def secured(self) -> None:
        """Go on over TLS, with a session that begins over it."""
        self.session = self.open_session()
        self.last_used = self.world.loop.time()
        self.pump()

    def _unsealed(self, records: bytes) -> bytes:
        """Return the octets in these records."""
        layer = self._layer
        assert layer is not None
        try:
            data = layer.open(records)
        except ssl.SSLError as error:
            self._send(layer.records())
            self.leave(f"TLS broke: {why(error)}")
            return b""
        answer = layer.records()
        if answer:  # such as to an update of keys
            self._send(answer)
        return data

    # --- bytes ---

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes are to be read to."""
        del sizehint
        return self.connections.small_room

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that were read. Where there may be more of them, others have their turn first."""
        self.data_received(bytes(self.connections.room[:nbytes]))
        # The loop would read up to 32 times, and serve nobody else meanwhile.
        if nbytes >= _MOST_READ and self._reading and not self.lost and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()
            self.world.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.lost:
            self._throttle()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._header is not None:
            self._read_header(data)
        elif self._handshake_until:
            self._take_early(data) if self in self.connections.waiting else self._shake_hands(data)
        elif not self._closing and not self.lost:
            if self._layer is not None:
                data = self._unsealed(data)
            self.session.receive(data)
            if self._layer is not None and self._layer.ended:
                if not self._half_closed:
                    self.eof_received()
            elif self._answering or self in self.connections.waiting:
                self._throttle()
            elif data:
                self.pump()

    def _take_early(self, data: bytes) -> None:
        self._early += data
        if not self._early.startswith(FIRST) or len(self._early) > _MOST_EARLY:
            self.leave("sent in clear what belongs to TLS")

    def _say(self, data: bytes) -> None:
        """Send octets of the session."""
        self.sent += len(data)
        self._send(data if self._layer is None else self._layer.seal(data))

    def _send(self, data: bytes) -> None:
        waits = bool(self._held)
        self._held = self._held + data if waits else data
        if len(self._held) >= _MOST_HELD:
            self.send_held()  # and it shows at once whether the client takes it
        elif data and not waits:
            self.connections.send_soon(self)

    def send_held(self) -> None:
        """Send what waits for the replies to others; harmless when there is nothing."""
        data, parts = self._held, self._parts
        self._held, self._parts = b"", False
        if data and not self.lost:
            self._to_socket(data)
        if parts:
            self._part()

    def _to_socket(self, data: bytes) -> None:
        transport = self._transport
        if self._descriptor >= 0 and not transport.is_closing() and not transport.get_write_buffer_size():
            try:
                written = os.write(self._descriptor, data)
            except OSError:
                written = 0  # the transport finds out what it is
            if written == len(data):
                return
            data = data[written:]
        transport.write(data)

    def eof_received(self) -> bool:
        """Half-closed by the client: what it asked before is still answered, then the connection ends."""
        self._half_closed = True
        if self._header is not None or self._handshake_until:
            self.send_held()
            return False
        if not (self._answering or self.lost or self._closing or self in self.connections.waiting):
            self.pump()
        self.send_held()
        return not self.lost and not self._closing

    def pause_writing(self) -> None:
        """Stop making replies: the client does not take them."""
        self._writable = False
        self._progress = self.world.loop.time()
        self._unsent = self._transport.get_write_buffer_size()
        self._watch()

    def resume_writing(self) -> None:
        """Go on: the client took them."""
        self._writable = True
        self.last_used = self.world.loop.time()
        if not self._answering:
            self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give everything back, as soon as nothing is being answered."""
        if self.lost:
            return
        self.lost = True
        self._held = b""
        self._descriptor = -1
        if self._handshake_until and self._layer is not None and self.reason == _GONE:
            self.reason = f"no TLS: {why(exc)}"
        elif exc is not None:
            self.reason = "connection broken"
        self.connections.clock.forget(self)
        self.connections.every.discard(self)
        self.connections.waiting.pop(self, None)
        self._leave_census()
        if self._handshake_until:
            self._answering = False
        if not self._answering:
            self._release()

    def _leave_census(self) -> None:
        if self._counted:
            self._counted = False
            self.world.census.leave(None if self._exempt else self.peer)

    # --- the session's side ---

    def later(self) -> None:
        """Say that the need will be answered later; then `supplied` must be called."""
        self._answering = True

    def answered(self) -> None:
        """Say that what would be answered later is answered no more: the session or the connection is over."""
        self._answering = False

    def direct(self) -> int:
        """Return the descriptor that octets may be sent to past the transport, while it is empty; -1: there is none.

        What was said before has to be sent first (`send_held`).
        """
        return -1 if self._layer is not None or self._transport.is_closing() else self._descriptor

    def supplied(self) -> None:
        """Go on after a need was answered later."""
        self._answering = False
        if self.lost:
            self._release()
        else:
            self.last_used = self.world.loop.time()
            self.pump()

    def guarded(self, then: Callable[[T], None]) -> Callable[[T], None]:
        """Return `then` as a callback whose defects end this connection, and nothing else."""

        def guarded(outcome: T) -> None:
            try:
                then(outcome)
            except Exception as error:  # noqa: BLE001 - as stated
                self.fail(error)

        return guarded

    def pump(self) -> None:
        """Let the session go on as far as it can: replies out, needs answered."""
        session = self.session
        try:
            self._exchange(session)
        except Exception as error:  # noqa: BLE001 - a defect here ends this connection and no other
            self.fail(error)
            return
        if self.lost:
            return
        if session.commands != self._commands:
            self._commands = session.commands
            self.last_used = self.world.loop.time()
        if session.said_quit:
            self.reason = "quit"
        if (session.closed or self._half_closed) and self._writable and not (self._answering or self._goes_on):
            self._finish()
        elif self._answering or session.more or not (self._reading and self._writable):
            self._throttle()  # else all is used but the beginning of a line

    def _exchange(self, session: Session) -> None:
        """Give out replies and answer needs. Replies that are followed at once by others go out together with them.

        After so much as is made at once the others have their turn, and then it goes on.
        """
        while self._writable and not self._answering and not self.lost:
            session.go_on()
            need = session.needs()
            unsent = session.unsent
            if unsent and (need is None or unsent >= _MOST_HELD or not self.at_once(need)):
                self._say(session.take())
                if session.more or unsent >= _MOST_HELD:
                    self._go_on_soon()
                    return
            elif need is not None:
                self.answer(need)
            if need is None:
                return
        if session.unsent and self._writable and not self.lost:
            self._say(session.take())

    def _go_on_soon(self) -> None:
        if not self._goes_on:
            self._goes_on = True
            self.world.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._goes_on = False
        if not (self.lost or self._closing or self._answering):
            self.pump()

    def at_once(self, need: Any) -> bool:  # noqa: ANN401 - each protocol has its own needs
        """Tell whether this need is most often answered before `answer` returns."""
        del need
        return False

    def end(self, reason: Any, why: str) -> None:  # noqa: ANN401 - each protocol has its own endings
        """End the connection from this side; the client is told where its protocol has room for it."""
        if self.lost or self._closing or self.session.closed:
            return
        if self._header is not None or self._handshake_until:
            self.leave(why)  # nothing can be said yet
            return
        self.reason = why
        if self in self.connections.waiting:
            del self.connections.waiting[self]
            self.session.to_send()  # not the greeting as well
        self.end_session(reason)
        if self._answering:
            return  # the answer comes first, then `pump` finishes
        if self._writable:
            self.pump()
        else:
            self._break()  # it does not even take what it asked for

    def drain(self) -> None:
        """End the connection for a service that stops, unless something is under way."""
        if not self.busy():
            self.end(self.stopping, "service stopping")

    def abort(self) -> None:
        """End the connection without a word."""
        if not self.lost:
            self._break()

    def _break(self) -> None:
        self.send_held()
        self._transport.abort()

    def fail(self, error: Exception) -> None:
        """End the connection for a defect of ours."""
        self.world.log.critical("defect", service=self.kind, error=type(error).__name__, detail=where(error))
        self.leave("defect")

    def leave(self, reason: str) -> None:
        """End the connection without a word, an answer that was awaited with it."""
        self.reason = reason
        self._answering = False
        if self.lost:
            self._release()
        else:
            self._break()

    def _throttle(self) -> None:
        """Read from the socket only while the session can use what comes."""
        wanted = self.session.backlog < (_MOST_UNUSED if self._writable else 1)
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _finish(self) -> None:
        """Close, such that the last reply arrives (RFC 1122 §4.2.2.13: unread input would reset it)."""
        if self._closing:
            return
        self._closing = True
        self.release()  # the client may be back before the last of this connection is gone
        self._progress = self.world.loop.time()
        if self._layer is not None and not self.lost:
            self._send(self._layer.close())
        if self._held:
            self._parts = True
        else:
            self._part()

    def _part(self) -> None:
        """Close the socket, or this side of it."""
        if self.lost:
            return
        if self.session.said_quit or self._half_closed or not self._transport.can_write_eof():
            self._transport.close()
            if not self._transport.get_write_buffer_size():
                return
        else:
            self._transport.write_eof()
            if not self._reading:
                self._reading = True
                self._transport.resume_reading()
        self._watch()

    def _release(self) -> None:
        self.release()
        self.world.log.info(
            self.kind, peer=self.shown_peer, **self.facts(), sent=self.sent, seconds=self._age(), end=self.reason
        )

    def _age(self) -> str:
        return f"{self.world.loop.time() - self.began:.3f}"

    # --- the clock ---

    def _watch(self) -> None:
        """Have the clock looked at when time is up, and before in case that time goes on."""
        now = self.world.loop.time()
        self.connections.clock.watch(self, min(self._due(now)[0], now + _LOOK_AGAIN))

    def _due(self, now: float) -> tuple[float, Any]:
        """Return when time is up, and the ending that it then is; None where nothing can be said."""
        passing = self.passing()
        unsent = self._transport.get_write_buffer_size() + passing
        progress = unsent < self._unsent
        self._unsent = unsent
        if unsent and (self._closing or passing or not self._writable):
            if progress:
                self._progress = now
            due = self._progress + self.world.settings.stalltime
            return (due if self._closing else min(due, self.at_the_latest())), None
        if self._closing:
            return self._progress + _LINGER, None
        if self._handshake_until and self not in self.connections.waiting:
            return self._handshake_until, self.overloaded
        if self._answering:
            return now + _LOOK_AGAIN, None  # what is going on has a limit of its own
        return self._deadline()

    def look_at_clock(self, now: float) -> None:
        """End what takes too long."""
        if self.lost:
            return
        due, ending = self._due(now)
        self.connections.clock.watch(self, min(due, now + _LOOK_AGAIN) if due > now else now + _LOOK_AGAIN)
        if due > now:
            return
        if ending is None:
            if not self._closing:
                self.reason = "client takes nothing"
            self._break()
        else:
            self.end(ending, "timed out")

    def _deadline(self) -> tuple[float, Any]:
        if self._header is not None:
            return self.began + _HEADER, self.overloaded
        due, ending = self.deadline()
        return due, self.overloaded if self in self.connections.waiting else ending


def where(error: BaseException) -> str:
    """Say where an error came up: no message and no values, since either may hold a secret."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(f"{traceback.tb_frame.f_code.co_name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return "/".join(frames)
