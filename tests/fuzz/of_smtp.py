"""The SMTP and LMTP session, fuzzed: what it must do whatever a client sends, whatever it is told, however it is cut.

A script is held whole, cut, and octet by octet. Beside each run a watcher notes where in the input a body began and
ended, and reads the same octets by the rules of RFC 5321 alone. Invariant: the watcher takes from the session only
what it says, what it asks and how much of its input it has used.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from fuzz.chosen import Answers, Chosen, law
from winpop.protocol import smtp
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal

LIMITS = smtp.Limits(line=128, message=200, recipients=3, errors=8, idle_commands=12, hops=3)
CANARY = b"CaNaRy"
WORDS = (
    *b"EHLO HELO LHLO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP EXPN BDAT STARTTLS AUTH GET".split(),
    b"EHLO a\r\n",
    b"LHLO a\r\n",
    b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<a@b.example> SIZE=10 BODY=8BITMIME\r\n",
    b"RCPT TO:<alice@example.com>\r\n",
    b"RCPT TO:<Postmaster>\r\n",
    b"DATA\r\n",
    b"\r\n",
    b"\r\n.\r\n",
    b"\r\n..",
    b"\n.\n",
    b"\r.\r",
    b"\r\n.\n",
    b"Received: x\r\n",
    b" HTTP/1",
    CANARY,
)

_LINE = re.compile(rb"([2345][0-9]{2})([ -])([ -~]+)")
_HOST = "mail.example.com"
_END = b"\r\n.\r\n"
_FATES = ("taken", "no place", "no room", "lost", "full", "late", "late and full", "nobody", "some")
_VERDICTS = ("accepted", "unknown", "foreign", "unavailable", "full")


@dataclass(slots=True)
class Body:
    """A message between `354` and what becomes of it."""

    begins: int
    """Where in the input."""
    fate: str
    written: bytes = b""
    abandoned: bool = False
    committed: bool = False


@dataclass(slots=True)
class Deliveries:
    """What a session has asked for, and what was taken."""

    acknowledged: int = 0
    """How many times `Delivered` may have been said."""
    taken: list[tuple[smtp.Commit, bytes]] = field(default_factory=list)


class Watched(smtp.Session):
    """A session that tells when it refuses a DATA, the one place where cuts may show, and when a message ends."""

    refused_data = False

    def __init__(self, *, lmtp: bool) -> None:
        super().__init__(LIMITS, hostname=_HOST, lmtp=lmtp)
        self.accepted: list[Address] = []
        """The recipients of the message at hand."""

    def _end_transaction(self) -> None:
        self.accepted = []
        super()._end_transaction()

    def _refuse_data(self, reply: bytes) -> None:
        self.refused_data = True
        super()._refuse_data(reply)


class Held:
    """A session, what answers it, and the watcher."""

    def __init__(self, chosen: Chosen, *, lmtp: bool) -> None:
        self.lmtp = lmtp
        self.session = Watched(lmtp=lmtp)
        self.answers = Answers(chosen.answers)
        self.came = b""
        self.body: Body | None = None
        self.deliveries = Deliveries()
        self.said = b""
        self._listen()
        law(self.said.startswith(b"220 "), "the greeting is none", self.said)

    def before_step(self) -> None:
        """Do nothing; it is called before bytes or an answer are given."""

    def send(self, data: bytes) -> None:
        """Send bytes and answer what they bring about."""
        self.came += data
        self.session.receive(data)
        while self._listen() or self.session.needs() is not None:
            need = self.session.needs()
            if need is not None:
                answer = self._answer(need)
                self.before_step()
                self.session.supply(answer)
                law(self.session.needs() is not need, "an answered need stays open", need)

    def check_what_was_said(self) -> None:
        """Check everything that was said, line by line."""
        law(self.said.endswith(b"\r\n"), "a reply has no line end", self.said)
        code = b""
        for line in self.said.split(b"\r\n")[:-1]:
            match = _LINE.fullmatch(line)
            law(match, "this is no line of a reply", line)
            law(len(line) <= 510, "a line of a reply is too long", line)
            law(CANARY not in line, "the client's bytes come back", line)
            if match is not None:
                law(code in (b"", match[1]), "a reply has two codes", code, line)
                code = match[1] if match[2] == b"-" else b""
        law(code == b"", "the last reply has no end", self.said)
        law(
            self.said.count(b" Delivered\r\n") == self.deliveries.acknowledged,
            "what is acknowledged was not delivered, or the other way round",
            self.deliveries.acknowledged,
            self.said,
        )

    def _listen(self) -> bytes:
        silent = self.session.closed and self.session.needs() is None and not self.session._out
        data = self.session.to_send()
        law(not (silent and data), "something is said after the end", data)
        law(not self.session.closed or self.session.needs() is None, "a closed session needs something")
        self.said += data
        if self.body is not None and not self.session.receiving:
            self._body_is_over(self.body)
        return data

    # --- the world ---

    def _answer(self, need: smtp.Need) -> smtp.Answer:
        match need:
            case smtp.Verify(mailbox, domain):
                return self._verdict(mailbox, domain)
            case smtp.Open():
                return self._opened()
        body = self.body
        law(body is not None, "there is no place for what is asked", need)
        assert body is not None
        law(not body.abandoned, "a place is used after it was dropped", need)
        match need:
            case smtp.Write(data):
                law(data, "nothing is written")
                body.written += data
                law(len(body.written) <= LIMITS.message, "more is written than may come", len(body.written))
                lost = body.fate in ("lost", "full")
                return smtp.Unavailable(full=body.fate == "full") if lost else smtp.Done()
            case smtp.Abandon():
                body.abandoned = True
                return smtp.Done()
            case smtp.Commit():
                return self._committed(need, body)

    def _verdict(self, mailbox: str, domain: str) -> smtp.Answer:
        law((mailbox + domain).isascii() and (mailbox + domain).isprintable(), "no name", mailbox, domain)
        verdict = _VERDICTS[self.answers.next() % len(_VERDICTS)]
        if verdict == "accepted":
            try:
                address = Address.parse(f"{mailbox}@{domain or 'example.com'}")
            except Refusal:
                return smtp.Unknown()
            self.session.accepted.append(address)
            return smtp.Accepted(address)
        if verdict in ("unknown", "foreign"):
            return smtp.Unknown() if verdict == "unknown" else smtp.Foreign()
        return smtp.Unavailable(full=verdict == "full")

    def _opened(self) -> smtp.Answer:
        law(self.body is None, "a second place is made")
        law(self.session.accepted, "a place is made for a message to nobody")
        fate = _FATES[self.answers.next() % len(_FATES)]
        if fate in ("no place", "no room"):
            return smtp.Unavailable(full=fate == "no room")
        self.body = Body(len(self.came) - self.session.backlog, fate)
        return smtp.Done()

    def _committed(self, need: smtp.Commit, body: Body) -> smtp.Answer:
        law(not body.committed, "a message is committed twice")
        body.committed = True
        raw = self.came[body.begins : len(self.came) - self.session.backlog]
        law((b"\r\n" + raw).endswith(_END), "a message ends where it does not", raw)
        law(_restuffed(body.written) == _stuffed(raw), "a message is written that did not come", raw, body.written)
        law(need.plain == (b"\r\n." not in b"\r\n" + body.written), "what is plain?", need.plain, body.written)
        recipients = tuple(dict.fromkeys(self.session.accepted))
        law(need.envelope.recipients == recipients, "it is for others", need.envelope, recipients)
        sender = need.envelope.sender
        law(sender.isascii() and sender.isprintable(), "the sender is no text", sender)
        if body.fate in ("late", "late and full"):
            return smtp.Unavailable(full=body.fate == "late and full")
        delivered = tuple(body.fate == "taken" or (body.fate == "some" and not n % 2) for n in range(len(recipients)))
        if any(delivered):
            self.deliveries.taken.append((need, body.written))
            whose = [delivered[recipients.index(address)] for address in self.session.accepted]
            self.deliveries.acknowledged += sum(whose) if self.lmtp else 1
        return smtp.Committed(delivered)

    def _body_is_over(self, body: Body) -> None:
        """Check that a message was committed if, and only if, it was one that could be."""
        self.body = None
        text = _read(self.came[body.begins :])
        may = text is not None and _flawless(text) and (body.fate not in ("lost", "full") or text == b"")
        law(body.committed or body.abandoned, "a place is neither committed nor dropped", body)
        law(body.committed == may, "a message is taken that is none, or refused that is one", body, text)


def smtp_session(data: bytes) -> None:
    """Hold the laws of the SMTP session against one input."""
    _session(data, lmtp=False)


def lmtp_session(data: bytes) -> None:
    """Hold the laws of the LMTP session against one input."""
    _session(data, lmtp=True)


def _session(data: bytes, *, lmtp: bool) -> None:
    chosen = Chosen.of(data)
    runs = [_held(chosen, pieces, lmtp=lmtp) for pieces in ([chosen.script], chosen.pieces(), _octets(chosen.script))]
    first = runs[0]
    for other in runs[1:]:
        if first.session.refused_data or other.session.refused_data:
            # RFC 2920 §3.1: what comes with a refused DATA closes the session; what comes later is heard.
            short, long = sorted((first, other), key=lambda run: len(run.said))
            law(long.said.startswith(short.said), "cuts change what is said", short.said, long.said)
            law(short.session.closed or short.said == long.said, "cuts make it silent", short.said, long.said)
        else:
            law(other.said == first.said, "cuts change what is said", first.said, other.said)
            law(other.session.closed == first.session.closed, "cuts change whether it closes")
            law(other.deliveries == first.deliveries, "cuts change what is delivered", first.deliveries)
    if chosen.ends:
        _ended(chosen, lmtp=lmtp)


def _octets(script: bytes) -> list[bytes]:
    return [script[place : place + 1] for place in range(len(script))]


def _held(chosen: Chosen, pieces: Iterable[bytes], *, lmtp: bool) -> Held:
    held = Held(chosen, lmtp=lmtp)
    for piece in pieces:
        held.send(piece)
    if held.session.closed:
        before = held.said
        held.send(b"NOOP\r\nQUIT\r\n")
        law(held.said == before, "something is said after the end")
    held.check_what_was_said()
    return held


class Ended(Held):
    """A session that is ended from outside before the chosen step."""

    def __init__(self, chosen: Chosen, *, lmtp: bool) -> None:
        self.left = chosen.ends
        self.reason = list(smtp.Ending)[chosen.reason % len(smtp.Ending)]
        super().__init__(chosen, lmtp=lmtp)

    def before_step(self) -> None:
        self.left -= 1
        session = self.session
        if self.left or session.closed:
            return
        committing = isinstance(session.needs(), smtp.Commit)
        session.end(self.reason)
        law(session.closed != committing, "an ending does not close, or does too early", self.reason)
        law(committing == (session.needs() is not None), "an ended session needs something", self.reason)
        if not committing:
            self.body = None  # what was opened is left to whoever ended it
            said = session.to_send()
            law(said.startswith(b"421 ") and said.count(b"\r\n") == 1, "an ending is no 421", said)
            self.said += said


def _ended(chosen: Chosen, *, lmtp: bool) -> None:
    held = Ended(chosen, lmtp=lmtp)
    for piece in chosen.pieces():
        held.before_step()
        held.send(piece)
    if held.left <= 0:
        law(held.session.closed, "an ended session goes on")
    held.check_what_was_said()


# --- the rules, read once more ---


def _restuffed(text: bytes) -> bytes:
    """Return a message as a client sends it, with its final dot."""
    return re.sub(rb"(?m)^\.", b"..", text) + b".\r\n"


def _stuffed(raw: bytes) -> bytes:
    """Return a message as it came, less the dots that stuff no dot (RFC 5321 §4.5.2 reads `.x` as `x`)."""
    return re.sub(rb"(?m)^\.(?!\.|\r\n\Z)", b"", raw)


def _read(stream: bytes) -> bytes | None:
    """Return the message at the beginning of what follows `354`; None where there is none, or lines end in doubt."""
    raw, end, _ = (b"\r\n" + stream).partition(_END)
    if not end or re.search(rb"\r(?!\n)|(?<!\r)\n", raw + b"\r\n"):
        return None
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in raw.split(b"\r\n")[1:])


def _flawless(text: bytes) -> bool:
    header = (b"\r\n" + text).partition(b"\r\n\r\n")[0].lower() + b"\r\n"
    hops = header.count(b"\r\nreceived:")
    return len(text) <= LIMITS.message and hops <= LIMITS.hops and b"\0" not in text
