"""A POP3 connection: the needs of its session answered from the methods and the store.

Invariants: the maildrop lock is held from before the listing is made until the session is over, and given back
before QUIT is answered; a session is known to the worker before its lock is looked at for the last time, so a lock
that is set meanwhile always finds it.

One file although it is long: logon, messages and update are three parts that share one maildrop and one life; the next
thing that a session needs belongs elsewhere, as the file that goes past everything does (`passing`).
"""

import asyncio
import contextlib
import math
import secrets
import sqlite3
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from winpop import __version__
from winpop.auth import logons
from winpop.db import leases
from winpop.protocol import pop3
from winpop.protocol.pop3 import Ending
from winpop.protocol.pop3.state import State
from winpop.protocol.sasl import moves
from winpop.services import tls
from winpop.services.connection import Connection, Connections, where
from winpop.services.passing import POSSIBLE, Passing
from winpop.services.world import World
from winpop.store import maildrops, sweep
from winpop.store.maildrops import BlobReader, DamagedError, Maildrop, Removed, Stored
from winpop.terms.credentials import Credentials
from winpop.terms.refusals import Refusal

if TYPE_CHECKING:
    from winpop.auth.contexts import Context


_AHEAD, _MOST_AHEAD = 64 * 1024, 32
"""Octets, and messages, that are read together with the one that a client asks for."""
_IMPLEMENTATION = f"winpop-{__version__}"
_NOTHING: dict[int, Stored] = {}
"""Read ahead: one for all, never changed."""
_PATIENCE, _LOOK = 0.5, 0.05
"""Seconds for which a maildrop that is in use is looked at again, and between two looks: a client whose connection has
broken is often back before anybody else has noticed."""


class Pop3Connection(Connection):
    """One client that fetches mail."""

    __slots__ = (
        "_ahead",
        "_context",
        "_context_closed",
        "_index",
        "_logon",
        "_on_its_way",
        "_passing",
        "_plain",
        "_source",
        "_source_read",
        "_stored",
        "_tail",
        "_timestamp",
        "_utf8",
        "_why",
        "maildrop",
        "removed",
        "retrieved",
        "user",
    )
    kind = "pop3"
    overloaded = Ending.OVERLOADED
    stopping = Ending.STOPPING
    session: pop3.Session

    def __init__(self, world: World, connections: Connections) -> None:
        super().__init__(world, connections)
        self._passing: Passing | None = None
        self._timestamp = b""
        """What the greeting has for APOP."""

    def open_session(self) -> pop3.Session:
        """Make the session, with what this peer is offered."""
        self.user = ""
        self.maildrop: Maildrop | None = None
        self.retrieved = 0
        self.removed = 0
        self._stored: Stored
        self._index = -1
        self._ahead = _NOTHING
        """Messages that were read before the client has asked for them."""
        self._source: BlobReader | None = None
        self._source_read = False
        self._on_its_way = 0
        self._tail = b""
        self._plain = False
        self._logon: asyncio.Task[None] | None = None
        self._context: Context | None = None
        self._context_closed: asyncio.Task[None] | None = None
        self._utf8 = False
        self._why = ""
        world = self.world
        world.sessions += 1
        return pop3.Session(world.pop3_limits, self._offer(), implementation=_IMPLEMENTATION, number=world.sessions)

    def _offer(self) -> pop3.Offer:
        """Say what this peer is offered: no password in clear but from trusted networks. In clear most get the same."""
        world, settings = self.world, self.world.settings
        secure = self.tls is not None
        bindings = tls.bindings(self.tls) if self.tls is not None else {}
        passwords = secure or (self.trusted and not settings.sparequired)
        mechanisms = world.logons.mechanisms(passwords=passwords, bindings=bindings, certificates=self._names())
        apop = settings.apop and world.logons.has_secrets()
        if apop and not self._timestamp:  # once a connection: after STLS there is no other greeting
            self._timestamp = f"<{secrets.token_hex(12)}@{settings.hostname}>".encode("ascii")
        stls = not secure and world.tls.context is not None
        key = None if secure or apop else (self.trusted, stls, mechanisms)
        offer = world.offers.get(key)
        if offer is None:
            offer = pop3.Offer(
                logons=secure or self.trusted,
                passwords=passwords,
                stls=stls,
                mechanisms=mechanisms,
                timestamp=self._timestamp if apop else None,
                expire=settings.expire,
                login_delay=settings.logindelay,
                hostname=settings.hostname,
                seed=world.seed,
                bindings=bindings,
            )
            if key is not None:
                world.offers[key] = offer
        return offer

    def _names(self) -> list[str]:
        """Return the addresses in the certificate that the client has shown."""
        return tls.client_names(self.tls) if self.tls is not None else []

    def secured(self) -> None:
        """Go on over TLS: with the greeting, or where STLS was."""
        if self.implicit_tls:
            super().secured()
        else:
            self.session.supply(pop3.Secured(self._offer()))
            self.supplied()

    def at_once(self, need: pop3.Need) -> bool:
        """Tell whether this need is most often answered at once: all are but the handshake."""
        return type(need) is not pop3.StartTls

    def answer(self, need: pop3.Need) -> None:
        """See to a logon, a handshake, a message's bytes, or the update."""
        if type(need) is pop3.Fetch:  # first, and quickly: there are a hundred of these to one of all others
            self._fetch(need.index)
            return
        match need:
            case pop3.Logon(credentials, utf8):
                self._utf8 = utf8
                attempt = logons.Attempt(
                    credentials, self.peer, self.trusted, certificates=tuple(self._names()), gone=lambda: self.lost
                )
                if not self._log_on_at_once(attempt):
                    self._later(self._log_on(attempt))
            case pop3.StartTls():
                self.later()
                self.secure()
            case pop3.Update(indexes):
                self._update(indexes)
            case moves.Keys(name, hash_name):
                self._later(self._supply_keys(name, hash_name))
            case moves.Step(mechanism, token, first):
                if first:
                    self._drop_context()  # of a run that was cancelled
                self._later(self._step(mechanism, token))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        self.later()
        self._logon = self.world.loop.create_task(work)

    def end_session(self, reason: Ending) -> None:
        """End the session."""
        self.session.end(reason)
        if self._passing is not None:
            self._stop_passing()
            self.abort()  # nothing can be said within a message, and what the system holds of it is not to come either
        self._close_source()

    def busy(self) -> bool:
        """Tell whether somebody is logged on or logging on."""
        return self.session.state is not State.AUTHORIZATION or self.session.needs() is not None

    def deadline(self) -> tuple[float, Ending]:
        """Before the logon: so long after the beginning, whatever is sent. Then: autologout (RFC 1939 §3)."""
        settings = self.world.settings
        if self.session.state is State.AUTHORIZATION:
            return self.began + settings.logontime, Ending.SLOW_LOGON
        return self.last_used + settings.autologout, Ending.IDLE

    def at_the_latest(self) -> float:
        """Return when the logon has to be over, whatever is sent or taken meanwhile."""
        settings = self.world.settings
        return self.began + settings.logontime if self.session.state is State.AUTHORIZATION else math.inf

    def release(self) -> None:
        """Give back the maildrop lock and the open file."""
        self._close_source()
        self._drop_context()
        self._leave_maildrop()

    def facts(self) -> dict[str, object]:
        """Return what the log says."""
        version = {"tls": self.tls.version()} if self.tls is not None else {}
        return {"user": self.user or "-", **version, "retrieved": self.retrieved, "removed": self.removed}

    # --- logon ---

    def _log_on_at_once(self, attempt: logons.Attempt) -> bool:
        """Answer a logon that nothing has to be waited for; tell whether it was one."""
        try:
            verdict = self.world.logons.at_once(attempt)
            answer = self._enter(verdict) if verdict is not None else None
        except Exception:  # noqa: BLE001 - whatever it is, the other way says it
            self._leave_maildrop()
            return False
        if not isinstance(answer, pop3.Opened):
            return False
        self.session.supply(answer)
        return True

    async def _log_on(self, attempt: logons.Attempt) -> None:
        """Credentials first, then the administrative lock, then the maildrop lock."""
        try:
            answer = await self._logon_answer(attempt)
            self._drop_context()
            if not isinstance(answer, pop3.Opened):
                self._say_refused(attempt.credentials, type(answer).__name__)
            self.session.supply(answer)
            self.supplied()
        except Exception as error:  # noqa: BLE001 - a defect ends this connection and no other
            self.fail(error)

    def _say_refused(self, credentials: Credentials, answer: str) -> None:
        name = getattr(credentials, "name", "") or getattr(credentials, "principal", "")
        why = {"why": self._why} if self._why else {}
        self.world.log.warning("logon", user=name, peer=self.shown_peer, refused=answer, **why)

    async def _logon_answer(self, attempt: logons.Attempt) -> pop3.Answer:
        self._why = ""
        try:
            verdict = await self._verdict(attempt)
            return await self._enter_soon(verdict)
        except Refusal as refusal:
            self.world.log.critical("logon", peer=self.shown_peer, error=refusal.code)
            self._leave_maildrop()
            return pop3.Unavailable()

    async def _verdict(self, attempt: logons.Attempt) -> logons.Verdict:
        try:
            return await self.world.logons.check(attempt)
        except Exception as error:  # noqa: BLE001 - rows that are not as they should be are no reason to hang up
            self._say_defect(error)
            return logons.CannotSay()

    async def _supply_keys(self, name: str, hash_name: str) -> None:
        try:
            keys = await self.world.logons.keys(name, hash_name)
            self.session.supply(keys if keys is not None else moves.Unavailable())
            self.supplied()
        except Exception as error:  # noqa: BLE001 - a defect ends this connection and no other
            self.fail(error)

    async def _step(self, mechanism: str, token: bytes) -> None:
        """Give a token to the security context of this exchange; one that has ended is dropped."""
        try:
            if self._context is None:
                self._context = self.world.logons.begin(mechanism)
            answer = await self._context.step(token)
            if not isinstance(answer, moves.Continue):
                if self._context.why:
                    self.world.log.warning("logon", mechanism=mechanism, peer=self.shown_peer, why=self._context.why)
                self._drop_context()
            self.session.supply(answer)
            self.supplied()
        except Exception as error:  # noqa: BLE001 - a defect ends this connection and no other
            self.fail(error)

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context_closed = self.world.loop.create_task(self._context.close())  # kept until it is over
            self._context = None

    async def _enter_soon(self, verdict: logons.Verdict) -> pop3.Answer:
        """Enter, or wait a moment for a maildrop that is in use."""
        until = self.world.loop.time() + _PATIENCE
        while True:
            # From here on no other task of this worker runs before the session is known to it.
            answer = self._enter(verdict)
            late = self.world.loop.time() >= until
            if late or not isinstance(answer, pop3.InUse) or not isinstance(verdict, logons.Known):
                return answer
            await asyncio.sleep(_LOOK)
            verdict = self.world.logons.again(verdict.mailbox)

    def _enter(self, verdict: logons.Verdict) -> pop3.Answer:
        match verdict:
            case logons.Stranger(why):
                self._why = why
                return pop3.Refused()
            case logons.CannotSay(why):
                self._why = why
                return pop3.Unavailable()
            case logons.Known(mailbox):
                if mailbox.locked:
                    return pop3.Locked(mailbox.locked)
                if self.lost or self.session.closed:
                    return pop3.Unavailable()
                if not self.world.leases.take(leases.mailbox_number(mailbox.id)):
                    return pop3.InUse()
                delay = self.world.settings.logindelay
                self.user = str(mailbox.address)
                self.maildrop = Maildrop(mailbox.id, (), self.session.listing)
                self.connections.logged_on[mailbox.id] = self
                if delay and self.world.logindelay.left(mailbox.id, delay) > 0:
                    self._leave_maildrop()
                    return pop3.TooSoon()
                answer = self._list(mailbox.id)
                if delay and isinstance(answer, pop3.Opened):
                    self.world.logindelay.logged_on(mailbox.id)
                return answer

    def _list(self, mailbox_id: int) -> pop3.Answer:
        try:
            self.maildrop = self.world.maildrops.open(self.world.reader, mailbox_id, utf8=self._utf8)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_verdict`
            self._say_defect(error)
            self._leave_maildrop()
            return pop3.Unavailable()
        return pop3.Opened(self.maildrop.listing)

    def _leave_maildrop(self) -> None:
        if self.maildrop is not None:
            mailbox_id = self.maildrop.mailbox_id
            del self.connections.logged_on[mailbox_id]
            self.world.leases.free(leases.mailbox_number(mailbox_id))
            self.maildrop = None

    # --- a message ---

    def _fetch(self, index: int) -> None:
        if self._source is not None:
            passes = self._may_pass(self._source)
            piece = None if passes else self._source.read_now(self.connections.room)
            if piece is not None:
                self._take(piece)
                return
            self.later()
            if passes:
                self.world.loop.call_soon(
                    self.guarded(lambda _: self._pass()), None
                )  # what was said before goes out first
            else:
                self._read_piece()
            return
        try:
            stored = self._find(index)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this message's trouble alone
            self._say_unreadable(index, _reason(error))
            self.session.supply(pop3.Unreadable(permanent=_tells_of_damage(error)))
            return
        if stored is None:
            self.session.supply(pop3.Unreadable(permanent=True))
            return
        self.retrieved += 1
        if stored.octets is None:
            self._open_blob(stored if self._utf8 else stored.downgraded())
        elif stored.international and not self._utf8:
            self.later()  # a hostile header takes its time
            self.world.in_thread(stored.downgraded, self.guarded(self._downgraded))
        else:
            self._give(stored)

    def _open_blob(self, stored: Stored) -> None:
        """Open a blob, in a thread where all of it has to be read to be compared."""
        self._stored = stored
        compared = self._is_compared()
        work = partial(BlobReader, self.world.blobs, stored, compared=compared)
        if not (compared and stored.surely_plain and not stored.with_ascii_header):
            self.later()
            self.world.in_thread(work, self.guarded(self._opened))
            return
        try:
            self._use(work())
        except OSError as error:
            self._say_unreadable(self._index, _reason(error))
            self.session.supply(pop3.Unreadable(permanent=self._is_permanent(error)))

    def _is_compared(self) -> bool:
        assert self.maildrop is not None
        return self.world.compared.holds(self.maildrop.messages[self._index])

    def _note_compared(self) -> None:
        if self.maildrop is not None:
            self.world.compared.note(self.maildrop.messages[self._index])

    def _read_piece(self) -> None:
        assert self._source is not None
        self._source_read = True
        self.world.in_thread(self._source.read, self.guarded(self._piece_read))

    # --- a blob that goes past the session ---

    def _may_pass(self, source: BlobReader) -> bool:
        return POSSIBLE and source.passes and self.session.wants_all and self.direct() >= 0

    def _pass(self) -> None:
        """Send the file itself; piece by piece where the client has not taken what was said before."""
        self.send_held()
        source, descriptor = self._source, self.direct()
        if self.lost or self.session.closed or source is None:
            self.supplied()
        elif descriptor < 0 or self._transport.get_write_buffer_size():
            self._read_piece()
        else:
            world = self.world
            self._tail = source.tail()
            self._on_its_way = source.size
            try:
                self._passing = Passing(
                    world.loop,
                    world.in_thread,
                    socket=descriptor,
                    file=source.descriptor,
                    size=source.size,
                    done=self.guarded(self._passed),
                )
            except OSError:  # no descriptor is left; piece by piece takes none
                self._read_piece()
                return
            self._passing.go()
            if self._passing is not None:
                self._progress, self._unsent = world.loop.time(), self._passing.untaken
                self._watch()

    def _passed(self, error: OSError | None) -> None:
        self._passing = None
        if isinstance(error, ConnectionError | TimeoutError):  # the client has gone: no fault of the message
            self.leave("connection broken")
            return
        if error is not None:
            self._unreadable(error)
            return
        self.sent += self._on_its_way
        self.session.supply(pop3.Passed(self._tail))
        self._after_reading()

    def _stop_passing(self) -> None:
        """Leave a message in its middle: the session is over."""
        if self._passing is not None:
            self._passing.stop()
            self._passing = None
            self.answered()

    def passing(self) -> int:
        """Return the octets of a file that are on their way."""
        return self._passing.untaken if self._passing is not None else 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what is under way, and give everything back."""
        if not self.lost:  # else it was gone before it had a session
            self._stop_passing()
        super().connection_lost(exc)

    def _give(self, stored: Stored) -> None:
        assert stored.octets is not None
        self.session.supply(pop3.Piece(stored.prefix + stored.octets, last=True, plain=stored.plain))

    def _downgraded(self, stored: Stored | BaseException) -> None:
        """Give a message as clients without UTF8 get it (RFC 6858 §4)."""
        if isinstance(stored, BaseException):
            self._unreadable(stored)
        else:
            self._give(stored)
            self.supplied()

    def _find(self, index: int) -> Stored | None:
        """Return a message as its row has it. Raises `DamagedError` where that is not what came in."""
        maildrop = self.maildrop
        assert maildrop is not None
        stored = self._ahead.pop(index, None)
        if stored is None and index == self._index + 1:
            self._read_ahead(maildrop, index)
            stored = self._ahead.pop(index, None)
        self._index = index
        if stored is None:
            unique_id = maildrop.listing.unique_ids[index]
            stored = maildrops.find(self.world.reader, maildrop.messages[index], maildrop.mailbox_id, unique_id)
        if stored is not None and stored.octets is not None and not (stored.size >= 0 and self._is_compared()):
            if stored.damaged:
                raise DamagedError("the checksum is wrong, or the row is another message's")
            self._note_compared()
        return stored

    def _read_ahead(self, maildrop: Maildrop, index: int) -> None:
        """Read this message and some that follow it: a client that fetches one after the other will want them."""
        sizes = maildrop.listing.sizes
        left, end = _AHEAD, index
        while end < min(len(sizes), index + _MOST_AHEAD) and left >= sizes[end]:
            left -= sizes[end]
            end += 1
        self._ahead = _NOTHING
        if end - index > 1:
            with contextlib.suppress(Exception):  # whatever it is, the message whose trouble it is says so, read alone
                self._ahead = maildrops.find_some(self.world.reader, maildrop, range(index, end))

    def _opened(self, source: BlobReader | BaseException) -> None:
        if isinstance(source, BaseException):
            self._unreadable(source)
        else:
            self._note_compared()
            self._use(source)
            self._after_reading()

    def _use(self, source: BlobReader) -> None:
        self._source = source
        self._plain = source.plain
        self.session.supply(pop3.Piece(self._stored.prefix, last=False, plain=False))

    def _piece_read(self, piece: tuple[bytes, bool] | BaseException) -> None:
        self._source_read = False
        if isinstance(piece, BaseException):
            self._unreadable(piece)
        else:
            self._take(piece)
            self.supplied()

    def _take(self, piece: tuple[bytes, bool]) -> None:
        """Give the session a piece of a blob, which is closed when it needs no more of it."""
        data, last = piece
        self.session.supply(pop3.Piece(data, last=last, plain=self._plain))
        self._close_if_read()

    def _close_if_read(self) -> None:
        if self.session.needs() is None:
            self._close_source()

    def _after_reading(self) -> None:
        self._close_if_read()
        self.supplied()

    def _unreadable(self, error: BaseException) -> None:
        self._close_source()
        self._say_unreadable(self._index, _reason(error))
        self.session.supply(pop3.Unreadable(permanent=self._is_permanent(error)))
        self.supplied()

    def _is_permanent(self, error: BaseException) -> bool:
        """Tell whether a message is lost or damaged; while the whole mail root is away, none is."""
        lost = isinstance(error, FileNotFoundError | DamagedError) or not isinstance(error, OSError | Refusal)
        return lost and self.world.blobs.is_made()

    def _say_unreadable(self, index: int, why: str) -> None:
        unique_id = self.session.listing.unique_ids[index]
        self.world.log.critical("unreadable", user=self.user, message=unique_id, error=why)

    def _say_defect(self, error: Exception) -> None:
        self.world.log.critical("defect", service=self.kind, error=type(error).__name__, detail=where(error))

    def _close_source(self) -> None:
        """Close the file, unless a thread is reading it: then its answer does."""
        if self._source is not None and not self._source_read:
            self._source.close()
            self._source = None

    # --- update ---

    def _update(self, indexes: tuple[int, ...]) -> None:
        """Remove what was marked, and free the maildrop lock, before QUIT is answered."""
        assert self.maildrop is not None
        if not indexes:
            self._leave_maildrop()
            self.session.supply(pop3.Updated())
            return
        mailbox_id = self.maildrop.mailbox_id
        messages = [self.maildrop.messages[index] for index in indexes]
        self.later()
        self.world.writer.submit(lambda tx: maildrops.expunge(tx, mailbox_id, messages), self.guarded(self._updated))

    def _updated(self, outcome: Removed | Exception) -> None:
        match outcome:
            case Removed(missing=True):
                answer: pop3.Answer = pop3.Refused()
            case Removed(locked=str(what)):
                answer = pop3.Locked(what)
            case Removed(blobs=blobs):
                self.removed = len(self.session.deleted)
                self._discard(blobs)
                answer = pop3.Updated()
            case Refusal(code="outcome-unknown"):
                # Neither +OK nor -ERR would be true for sure: the connection ends without a word.
                self.world.log.critical("update failed", user=self.user, error=outcome)
                self.leave("outcome unknown")
                return
            case error:
                self.world.log.critical("update failed", user=self.user, error=error)
                answer = pop3.Unavailable()
        self._leave_maildrop()
        self.session.supply(answer)
        self.supplied()

    def _discard(self, blobs: tuple[str, ...]) -> None:
        """Unlink blobs after the commit that discarded them; what fails here a later sweep does."""
        world = self.world
        if blobs:
            world.in_thread(
                lambda: sweep.unlink(world.blobs, blobs),
                lambda _: world.writer.submit(lambda tx: sweep.forget(tx, blobs), lambda _: None),
            )


def _tells_of_damage(error: Exception) -> bool:
    """Tell whether trying again is no use: the message is damaged, or the page of the database that holds it."""
    if not isinstance(error, Refusal):
        return not isinstance(error, MemoryError)
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def _reason(error: BaseException) -> str:
    """Say what hindered; of a defect only where it is, since a value may be a secret."""
    if isinstance(error, OSError | Refusal):
        return str(error) or type(error).__name__
    return f"{type(error).__name__} {where(error)}"


class Pop3sConnection(Pop3Connection):
    """One client that fetches mail, over TLS from the beginning."""

    implicit_tls = True
