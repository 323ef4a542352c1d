"""An SMTP or LMTP connection: recipients looked up in the directory, messages delivered to the store.

Invariant: a message is acknowledged only after the commit that made it durable for its recipients; what is not
acknowledged leaves nothing behind but what a sweep removes.

Measured in the event loop, for a message of 2 KiB: 103 µs where each recipient was looked up by two statements, each
identifier was a system call and each value of the log was looked at letter by letter; 53 µs without.
"""

import functools
import os
import time
from datetime import UTC, datetime
from functools import partial

from winpop.db.contract import Transaction
from winpop.protocol import smtp
from winpop.protocol.smtp import Ending
from winpop.protocol.smtp.trace import trace
from winpop.services.connection import Connection, where
from winpop.store import downgrades, sweep
from winpop.store.blobs import Content, Draft
from winpop.store.delivery import Delivery, deliver, deliver_together, may_be_together
from winpop.terms.mail import Envelope
from winpop.terms.refusals import Refusal, out_of_reach


class SmtpConnection(Connection):
    """One client that brings mail."""

    __slots__ = ("_began", "_draft", "_recipients", "delivered")

    kind = "smtp"
    lmtp = False
    overloaded = Ending.OVERLOADED
    stopping = Ending.STOPPING
    session: smtp.Session

    def open_session(self) -> smtp.Session:
        """Make the session."""
        settings = self.world.settings
        self.delivered = 0
        self._recipients = self.world.recipients
        self._draft: Draft | None = None
        self._began: float | None = None
        """When the mail transaction began that is under way."""
        limits = smtp.Limits(
            line=settings.smtplinelength,
            message=settings.messagesize,
            recipients=settings.recipientmax,
            errors=settings.errormax,
            idle_commands=settings.idlemax,
            hops=settings.hopmax,
        )
        return smtp.Session(limits, hostname=settings.hostname, lmtp=self.lmtp)

    def answer(self, need: smtp.Need) -> None:
        """See to a recipient, or to a message's body."""
        match need:
            case smtp.Verify(mailbox, domain):
                self.session.supply(self._verify(mailbox, domain))
            case smtp.Open():
                self._open()
            case smtp.Write(data):
                self._write(data)
            case smtp.Commit(envelope, plain):
                self._commit(envelope, plain=plain)
            case smtp.Abandon():
                self._drop_draft()
                self.session.supply(_DONE)

    def at_once(self, need: smtp.Need) -> bool:
        """Tell whether a need is answered at once: all but the commit, most often."""
        return not isinstance(need, smtp.Commit)

    def end_session(self, reason: Ending) -> None:
        """End the session."""
        self.session.end(reason)

    def busy(self) -> bool:
        """Tell whether a message is coming in."""
        return self.session.in_transaction or self.session.needs() is not None

    def deadline(self) -> tuple[float, Ending]:
        """Bound the time of a message as a whole, and of silence anywhere."""
        settings = self.world.settings
        silent = self.last_used + settings.smtptimeout
        if self._began is None:
            return silent, Ending.IDLE
        return min(silent, self._began + settings.datatime), Ending.SLOW

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes are to be read to: more at once of a message's body."""
        return self.connections.room if self.session.receiving else super().get_buffer(sizehint)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a message's body are a sign of life as a command is."""
        if self.session.receiving:
            self.last_used = self.world.loop.time()
        super().data_received(data)
        if not self.session.in_transaction:
            self._began = None  # the next mail transaction has a time of its own
        elif self._began is None:
            self._began = self.world.loop.time()

    def supplied(self) -> None:
        """Go on after a message was delivered, or was not."""
        if not self.session.in_transaction:
            self._began = None
        super().supplied()

    def release(self) -> None:
        """Drop an unfinished message."""
        self._drop_draft()

    def facts(self) -> dict[str, object]:
        """Return what the log says."""
        return {"helo": self.session.helo or "-", "delivered": self.delivered}

    # --- recipients ---

    def _verify(self, mailbox: str, domain: str) -> smtp.Answer:
        try:
            return self._recipients.find(mailbox, domain)
        except Refusal as refusal:
            return smtp.Unavailable(full=refusal.code == "disk-full")
        except Exception as error:  # noqa: BLE001 - rows that are not as they should be are no reason to hang up
            self.world.log.critical("defect", service=self.kind, error=type(error).__name__, detail=where(error))
            return smtp.Unavailable()

    # --- a message ---

    def _open(self) -> None:
        if not self.world.has_room():
            self._no_room()
            return
        self._draft = Draft(self.world.blobs)
        self.session.supply(_DONE)

    def _write(self, data: bytes) -> None:
        draft = self._draft
        assert draft is not None
        if draft.keep(data):
            self.session.supply(_DONE)
        elif not self.world.has_room():
            self._no_room()
        else:
            self.later()
            self.world.in_thread(lambda: draft.write(data), self.guarded(self._written))

    def _written(self, outcome: BaseException | None) -> None:
        if outcome is None:
            self.session.supply(_DONE)
        else:
            self.session.supply(self._unavailable(outcome))
        self.supplied()

    def _no_room(self) -> None:
        """Refuse for now what would take the room that everything else needs."""
        self._drop_draft()
        self.session.supply(smtp.Unavailable(full=True))

    def _commit(self, envelope: Envelope, *, plain: bool) -> None:
        if not self.world.has_room():
            self._no_room()
            return
        draft, self._draft = self._draft, None
        assert draft is not None
        self.later()
        if draft.is_simple:
            self._deliver(envelope, draft.finish(), plain=plain)
        else:
            placed = partial(self._placed, envelope, plain=plain)
            self.world.in_thread(lambda: downgrades.reckon(draft.finish(), self.world.blobs), self.guarded(placed))

    def _placed(self, envelope: Envelope, outcome: Content | BaseException, *, plain: bool) -> None:
        if isinstance(outcome, Content):
            self._deliver(envelope, outcome, plain=plain)
        else:
            self.session.supply(self._unavailable(outcome))
            self.supplied()

    def _deliver(self, envelope: Envelope, content: Content, *, plain: bool) -> None:
        identifier = _new_identifier()
        prefix = trace(
            sender=envelope.sender,
            recipients=envelope.recipients,
            helo=self.session.helo,
            ip=self.shown_peer,
            hostname=self.world.settings.hostname,
            protocol="LMTP" if self.lmtp else "ESMTP" if self.session.esmtp else "SMTP",
            identifier=identifier,
            when=_now(int(time.time())),
        )

        def then(outcome: tuple[bool, ...] | Exception) -> None:
            if isinstance(outcome, tuple):
                delivered = sum(outcome)
                self.delivered += delivered
                self.world.log.info(
                    "delivered",
                    id=identifier,
                    sender=envelope.sender or "<>",
                    recipients=delivered,
                    size=content.size,
                )
                self.session.supply(smtp.Committed(outcome))
            else:
                self._undo(content, outcome)
                self.session.supply(self._unavailable(outcome))
            self.supplied()

        if may_be_together(content):
            mailboxes = self._recipients.mailboxes(envelope.recipients)
            if mailboxes is not None:
                delivery = Delivery(
                    envelope.recipients, mailboxes, content, prefix, content.checksum(prefix), plain=plain
                )
                self.world.writer.submit_with(deliver_together, delivery, self.guarded(then))
                return

        def work(transaction: Transaction) -> tuple[bool, ...]:
            if content.blob is not None and not self.world.blobs.has(content.blob):
                raise out_of_reach("draft-lost", "A sweep took the message for one that was left behind; send again.")
            return deliver(transaction, envelope.recipients, content, prefix, plain=plain)

        self.world.writer.submit(work, self.guarded(then))

    def _unavailable(self, error: BaseException) -> smtp.Unavailable:
        self.world.log.critical("delivery failed", error=error)
        return smtp.Unavailable(full=isinstance(error, Refusal) and error.code == "disk-full")

    def _undo(self, content: Content, error: Exception) -> None:
        """Unlink the blob of a delivery that was not committed.

        After an error that leaves the outcome open (a failed synchronisation) it stays for the sweep, since a row
        that names it may still be found after a crash.
        """
        name = content.blob
        if name is not None and isinstance(error, Refusal) and error.code in ("disk-full", "database-busy"):
            self.world.in_thread(lambda: sweep.unlink(self.world.blobs, [name]), lambda _: None)

    def _drop_draft(self) -> None:
        if self._draft is not None:
            self._draft.discard()
            self._draft = None


class LmtpConnection(SmtpConnection):
    """One client that hands mail over by LMTP (RFC 2033)."""

    __slots__ = ()

    kind = "lmtp"
    lmtp = True


_DONE = smtp.Done()


@functools.lru_cache(1)
def _now(seconds: int) -> datetime:
    """Return a moment as the trace has it; it is the same for a second."""
    return datetime.fromtimestamp(seconds, UTC)


_identifiers: list[str] = []


def _new_identifier() -> str:
    """Return 64 random bits in hex. They are asked for in hundreds: the system call gives up the interpreter."""
    if not _identifiers:
        octets = os.urandom(8 * 128)
        _identifiers.extend(octets[start : start + 8].hex() for start in range(0, len(octets), 8))
    return _identifiers.pop()
