"""A session of the POP3 fuzzer, and the world that answers what it needs.

Invariants: what is asked before a client may log on is a broken law; what is secret stands in no repr; nothing that
came in clear waits for a handshake; and a closed session needs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from fuzz.chosen import Answers, Chosen, law
from winpop.protocol import pop3
from winpop.protocol.sasl import moves, scram_keys
from winpop.protocol.sasl.mechanisms import MECHANISMS
from winpop.terms.credentials import Apop, CramMd5, Credentials, Established, Failed, Password, Token
from winpop.terms.mail import Listing

LIMITS = pop3.Limits(line=64, response=200, failures=3, errors=6)
CANARY = b"CaNaRy"
STRANGER, DIGESTS, NO_PASSWORDS, NO_TLS = 1, 2, 4, 8
"""Flags of an input: logons only over TLS; APOP; no password as it is; no TLS."""
_MESSAGES = (
    b"From: Bob <bob@example.com>\r\nSubject: lunch\r\n\r\nAt noon?\r\n.by the gate\r\nBob\r\n",
    b"Subject: nothing to add\r\n\r\n",
    b"\r\nGr\xfc\xdfe\r\n",
    b"Subject: dots\r\n\r\n..\r\n.\r\n",
    b"Subject: open\r\n\r\nno line end",
)
_MANY = 2001
_LOGON = ("opened", "refused", "domain", "mailbox", "in use", "unavailable", "empty", "many", "too soon")
_KEYS = {name: scram_keys.derive(b"b", name, b"salt", 1) for name in scram_keys.HASHES}
_PIECES = 4  # choices below it are the whole message and three ways in which it cannot be read
_BINDING = {"tls-server-end-point": b"certificate"}
_STEPS: tuple[moves.Answer, ...] = (
    moves.Continue(b"token"),
    moves.Proved(Established("GSSAPI", "a@REALM")),
    moves.Proved(Failed("a")),
    moves.Malformed(),
    moves.Unavailable(),
)


def offer(flags: int, *, tls: bool) -> pop3.Offer:
    """Return what the server offers before or after the handshake."""
    trusted = tls or not flags & STRANGER
    passwords = trusted and (tls or not flags & NO_PASSWORDS)
    offered = (name for name, record in MECHANISMS.items() if passwords or not record.in_clear)
    return pop3.Offer(
        logons=trusted,
        passwords=passwords,
        stls=not tls and not flags & NO_TLS,
        mechanisms=tuple(offered),
        timestamp=b"<1@example.com>" if flags & DIGESTS else None,
        expire=30 if flags & DIGESTS else None,
        login_delay=flags & DIGESTS,
        seed=b"over TLS" if tls else b"in clear",
        bindings=_BINDING if tls else {},
    )


@dataclass(slots=True)
class World:
    """What answers the needs of one session, and remembers what was asked."""

    answers: Answers
    flags: int
    messages: tuple[bytes, ...]
    opened: tuple[bytes, ...] | None = None
    updates: list[tuple[int, ...]] = field(default_factory=list)
    fetched: list[tuple[int, bool]] = field(default_factory=list)
    """The messages that were asked for, and whether they could be read to the end."""
    logons: list[pop3.Logon] = field(default_factory=list)
    refusals: int = 0
    tls: bool = False
    asked: int = 0
    """How often anything was asked about who a client is."""
    early: bool = False
    """Something came in clear after STLS and before the handshake."""

    @property
    def offer(self) -> pop3.Offer:
        return offer(self.flags, tls=self.tls)

    def listing(self) -> Listing:
        messages = self.opened or ()
        return Listing(tuple(map(len, messages)), tuple(f"u{n}" for n in range(1, len(messages) + 1)))

    def answer(self, need: pop3.Need, session: pop3.Session) -> Iterator[pop3.Answer]:
        choice = self.answers.next()
        if isinstance(need, pop3.Logon | moves.Keys | moves.Step):
            self.asked += 1
            law(self.offer.logons, "a stranger is listened to", need)
        match need:
            case pop3.Logon():
                self.logons.append(need)
                _hidden(need, need.credentials)
                yield self._logon(_LOGON[choice % len(_LOGON)])
            case moves.Keys(_, hash_name):
                yield moves.Unavailable() if choice == 1 else _KEYS[hash_name]
            case moves.Step():
                yield _STEPS[choice % len(_STEPS)]
            case pop3.StartTls():
                law(not self.tls and self.opened is None, "TLS begins where it cannot")
                if choice == 1:
                    self.early = True
                    session.receive(b"USER a\r\n")
                self.tls = True
                yield pop3.Secured(self.offer)
            case pop3.Update(indexes):
                self.updates.append(indexes)
                yield (
                    pop3.Updated(),
                    pop3.Unavailable(),
                    pop3.Locked("domain"),
                    pop3.Locked("mailbox"),
                    pop3.Refused(),
                )[choice % 5]
            case pop3.Fetch(index):
                yield from self._fetched(index, choice)

    def _logon(self, choice: str) -> pop3.Answer:
        self.refusals += choice in ("refused", "domain", "mailbox")
        match choice:
            case "refused":
                return pop3.Refused()
            case "domain" | "mailbox":
                return pop3.Locked(choice)
            case "in use":
                return pop3.InUse()
            case "unavailable":
                return pop3.Unavailable()
            case "too soon":
                return pop3.TooSoon()
        self.opened = {"opened": self.messages, "empty": (), "many": (b"x\r\n",) * _MANY}[choice]
        return pop3.Opened(self.listing())

    def _fetched(self, index: int, choice: int) -> Iterator[pop3.Answer]:
        assert self.opened is not None
        message = self.opened[index]
        self.fetched.append((index, not 1 <= choice < _PIECES))
        if choice in (1, 2):
            yield pop3.Unreadable(permanent=choice == 2)
            return
        size = choice - _PIECES + 1 if choice >= _PIECES else len(message) // 2 + 1
        plain = b"\r\n." not in b"\r\n" + message
        for start in range(0, max(1, len(message)), size):
            last = start + size >= len(message)
            if choice == 3 and (last or start):
                yield pop3.Unreadable()
                return
            yield pop3.Piece(message[start : start + size], last=last, plain=plain)


def _hidden(need: pop3.Logon, credentials: Credentials) -> None:
    """Check that what is secret stands in no repr; a secret that is part of the name is none."""
    match credentials:
        case Password(_, secret):
            law(
                CANARY not in secret or CANARY.decode() in credentials.name or CANARY.decode() not in repr(need),
                "shown",
                need,
            )
        case Token(_, token):
            law(len(token) < 8 or token in credentials.name or token not in repr(need), "a token is shown", need)
        case Apop(_, _, digest) | CramMd5(_, _, digest):
            law(repr(digest) not in repr(need) and digest.hex() not in repr(need), "a digest is shown", need)


class Held:
    """A session and its world; what is asked is answered at once."""

    def __init__(self, chosen: Chosen) -> None:
        self.session = pop3.Session(LIMITS, offer(chosen.flags, tls=False))
        own = b"\r\n".join(line.replace(b"\r", b"").replace(b"\n", b"") for line in chosen.script.split(b"\r\n"))
        self.world = World(Answers(chosen.answers), chosen.flags, (*_MESSAGES, own))
        self.said = self._listen()
        self.within = False
        """Pieces of a message went out, and its end did not."""

    def before_step(self) -> None:
        """Do nothing; it is called before bytes or an answer are given."""

    def send(self, data: bytes) -> bytes:
        """Send bytes and return what is said to them."""
        before = len(self.said)
        self.session.receive(data)
        self.go_on()
        law(self.session.backlog < LIMITS.response, "a line is not looked at", self.session.backlog)
        return self.said[before:]

    def go_on(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        need = self.session.needs()
        if need is not None:
            waits = isinstance(need, pop3.StartTls) and self.session.backlog
            law(not waits, "what came in clear waits for the handshake", self.session.backlog)
            for answer in self.world.answer(need, self.session):
                self.before_step()
                self.session.supply(answer)
                self.said += self._listen()
                self.within = self.session.needs() is need
                if self.session.needs() is not need:
                    break
            law(self.session.needs() is not need, "an answered need stays open", need)
        data = self._listen()
        self.said += data
        return data != b"" or self.session.needs() is not None

    def _listen(self) -> bytes:
        silent = self.session.closed
        data = self.session.to_send()
        if silent:
            law(self.session.needs() is None, "a closed session needs something")
        return data
