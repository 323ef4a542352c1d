"""A POP3 connection: the needs of its session answered from the methods and the store.

Invariants: the maildrop lock is held from before the listing is made until the session is over, and given back
before QUIT is answered; a session is known to the worker before its lock is looked at for the last time, so a lock
that is set meanwhile always finds it.
"""

import asyncio
import sqlite3
from functools import partial

from winpop import __version__
from winpop.auth import methods
from winpop.db import leases
from winpop.protocol import pop3
from winpop.protocol.pop3 import Ending
from winpop.protocol.pop3.session import State
from winpop.services.connection import Connection, where
from winpop.store import maildrops, sweep
from winpop.store.maildrops import BlobReader, DamagedError, Maildrop, Removed, Stored
from winpop.terms.refusals import Refusal


class Pop3Connection(Connection):
    """One client that fetches mail."""

    kind = "pop3"
    overloaded = Ending.OVERLOADED
    stopping = Ending.STOPPING
    session: pop3.Session

    def open_session(self) -> pop3.Session:
        """Make the session; passwords in clear come from trusted networks only."""
        settings = self.world.settings
        self.user = ""
        self.maildrop: Maildrop | None = None
        self.retrieved = 0
        self.removed = 0
        self._stored: Stored
        self._index = 0
        self._source: BlobReader | None = None
        self._source_read = False
        self._plain = False
        self._logon: asyncio.Task[None] | None = None
        limits = pop3.Limits(settings.linelength, settings.failuremax, settings.errormax)
        return pop3.Session(limits, plaintext=self.trusted, implementation=f"winpop-{__version__}")

    def answer(self, need: pop3.Need) -> None:
        """See to a logon, a message's bytes, or the update."""
        match need:
            case pop3.Logon(name, password):
                self.later()
                self._logon = self.world.loop.create_task(self._log_on(name, password))
            case pop3.Fetch(index):
                self._fetch(index)
            case pop3.Update(indexes):
                self._update(indexes)

    def end_session(self, reason: Ending) -> None:
        """End the session."""
        self.session.end(reason)
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

    def release(self) -> None:
        """Give back the maildrop lock and the open file."""
        self._close_source()
        self._leave_maildrop()

    def facts(self) -> dict[str, object]:
        """Return what the log says."""
        return {"user": self.user or "-", "retrieved": self.retrieved, "removed": self.removed}

    # --- logon ---

    async def _log_on(self, name: str, password: bytes) -> None:
        """Credentials first, then the administrative lock, then the maildrop lock."""
        began = self.world.loop.time()
        try:
            answer = await self._logon_answer(name, password)
            if isinstance(answer, pop3.Refused):
                # By the clock, not so long on top: how long a check took would tell who has a mailbox.
                await asyncio.sleep(began + self.world.settings.failuredelay - self.world.loop.time())
            if not isinstance(answer, pop3.Opened):
                self.world.log.warning("logon", user=name, peer=self.peer, refused=type(answer).__name__)
            self.session.supply(answer)
            self.supplied()
        except Exception as error:  # noqa: BLE001 - a defect ends this connection and no other
            self.fail(error)

    async def _logon_answer(self, name: str, password: bytes) -> pop3.Answer:
        try:
            verdict = await self._verdict(name, password)
            # From here on no other task of this worker runs before the session is known to it.
            return self._enter(verdict)
        except Refusal as refusal:
            self.world.log.critical("logon", user=name, peer=self.peer, error=refusal.code)
            self._leave_maildrop()
            return pop3.Unavailable()

    async def _verdict(self, name: str, password: bytes) -> methods.Verdict:
        try:
            return await self.world.method.check(name, password)
        except Exception as error:  # noqa: BLE001 - rows that are not as they should be are no reason to hang up
            self._say_defect(error)
            return methods.CannotSay()

    def _enter(self, verdict: methods.Verdict) -> pop3.Answer:
        match verdict:
            case methods.Stranger():
                return pop3.Refused()
            case methods.CannotSay():
                return pop3.Unavailable()
            case methods.Known(mailbox):
                if mailbox.locked:
                    return pop3.Locked(mailbox.locked)
                if self.lost or self.session.closed:
                    return pop3.Unavailable()
                if not self.world.leases.take(leases.mailbox_number(mailbox.id)):
                    return pop3.InUse()
                self.user = str(mailbox.address)
                self.maildrop = Maildrop(mailbox.id, (), self.session.listing)
                self.connections.logged_on[mailbox.id] = self
                return self._list(mailbox.id)

    def _list(self, mailbox_id: int) -> pop3.Answer:
        try:
            self.maildrop = maildrops.open_maildrop(self.world.reader, mailbox_id)
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
            self.later()
            self._source_read = True
            self.world.in_thread(self._source.read, self.guarded(self._piece_read))
            return
        try:
            stored = self._find(index)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this message's trouble alone
            self._say_unreadable(index, _reason(error))
            self.session.supply(pop3.Unreadable(permanent=_tells_of_damage(error)))
            return
        if stored is None:
            self.session.supply(pop3.Unreadable(permanent=True))
        elif stored.octets is not None:
            self.retrieved += 1
            self.session.supply(pop3.Piece(stored.prefix + stored.octets, last=True, plain=stored.plain))
        else:
            self.retrieved += 1
            self._stored, self._index = stored, index
            self.later()
            self.world.in_thread(partial(BlobReader, self.world.blobs, stored), self.guarded(self._opened))

    def _find(self, index: int) -> Stored | None:
        """Return a message as its row has it. Raises `DamagedError` where that is not what came in."""
        assert self.maildrop is not None
        unique_id = self.session.listing.unique_ids[index]
        stored = maildrops.find(self.world.reader, self.maildrop.messages[index], self.maildrop.mailbox_id, unique_id)
        if stored is not None and stored.octets is not None and stored.damaged:
            raise DamagedError("the checksum is wrong, or the row is another message's")
        return stored

    def _opened(self, source: BlobReader | BaseException) -> None:
        if isinstance(source, BaseException):
            self._unreadable(source)
        else:
            self._source = source
            self._plain = source.plain
            self.session.supply(pop3.Piece(self._stored.prefix, last=False, plain=False))
            self._after_reading()

    def _piece_read(self, piece: tuple[bytes, bool] | BaseException) -> None:
        self._source_read = False
        if isinstance(piece, BaseException):
            self._unreadable(piece)
        else:
            data, last = piece
            self.session.supply(pop3.Piece(data, last=last, plain=self._plain))
            self._after_reading()

    def _after_reading(self) -> None:
        if self.session.needs() is None:
            self._close_source()
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
