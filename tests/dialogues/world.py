"""The world in which all dialogues are held: a few mailboxes, their mail, and what happens to them.

The pure runs take their answers from the fakes here; a real server is set up with the same data.
Invariant: nothing that happens in one dialogue is seen in another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from winpop.protocol import pop3, smtp
from winpop.terms.mail import Listing
from winpop.terms.names import Address

HOSTNAME = "mail.example.com"
DOMAIN = "example.com"
LOCKED_DOMAIN = "locked.example"
POSTMASTER = "alice@example.com"
"""The mailbox that gets mail for a bare `<postmaster>`."""

ALICES_MESSAGES = (
    # A header and three lines of body, one of which begins with a dot.
    b"From: Bob <bob@example.com>\r\nSubject: lunch\r\n\r\nAt noon?\r\n.by the gate\r\nBob\r\n",
    # A header and its blank line, and nothing after it.
    b"Subject: nothing to add\r\n\r\n",
    # No header: it begins with its blank line. One line is ISO 8859-1, the other is UTF-8.
    b"\r\nGr\xfc\xdfe\r\n\xe2\x82\xac 5\r\n",
    # Lines of nothing but dots.
    b"Subject: dots\r\n\r\n..\r\n.\r\n",
)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox and what a client meets in it."""

    password: bytes
    messages: tuple[bytes, ...] = ()
    locked: str = ""
    """What an administrator has locked: "mailbox", "domain" or nothing."""
    in_use: bool = False
    """Another session has the maildrop lock."""
    frail: bool = False
    """It can be opened; after that the first message is unreadable for now, the others for ever,
    and no update succeeds. In pure runs only."""


MAILBOXES = {
    "alice@example.com": Mailbox(b"secret", ALICES_MESSAGES),
    "bob@example.com": Mailbox(b"bob's pass word"),
    "dave@example.com": Mailbox(b"secret", locked="mailbox"),
    "busy@example.com": Mailbox(b"secret", in_use=True),
    "frail@example.com": Mailbox(b"secret", ALICES_MESSAGES[:2], frail=True),
    "carol@locked.example": Mailbox(b"secret", locked="domain"),
}
FAILS = "fails@example.com"
"""Whatever is asked about this mailbox, nobody can say. In pure runs only."""

PIECE = 5
"""The fake gives messages out in pieces of so few octets that every rule about line ends meets a cut."""


class Maildrops:
    """Answers the needs of one POP3 session."""

    def __init__(self) -> None:
        self.open = Mailbox(b"")
        self.removed: tuple[int, ...] = ()

    def answers(self, need: pop3.Need) -> Iterator[pop3.Answer]:
        match need:
            case pop3.Logon(name, password):
                yield self._logon(name.lower(), password)
            case pop3.Fetch(index):
                yield from self._pieces(index)
            case pop3.Update(indexes):
                if self.open.frail:
                    yield pop3.Unavailable()
                else:
                    self.removed = indexes
                    yield pop3.Updated()

    def _logon(self, name: str, password: bytes) -> pop3.Answer:
        mailbox = MAILBOXES.get(name)
        if name == FAILS:
            return pop3.Unavailable()
        if mailbox is None or mailbox.password != password:
            return pop3.Refused()
        if mailbox.locked:
            return pop3.Locked(mailbox.locked)
        if mailbox.in_use:
            return pop3.InUse()
        self.open = mailbox
        numbers = range(1, len(mailbox.messages) + 1)
        return pop3.Opened(Listing(tuple(map(len, mailbox.messages)), tuple(f"uid-{n}" for n in numbers)))

    def _pieces(self, index: int) -> Iterator[pop3.Answer]:
        if self.open.frail:
            yield pop3.Unreadable(permanent=index > 0)
            return
        message = self.open.messages[index]
        for start in range(0, len(message), PIECE):
            yield pop3.Piece(message[start : start + PIECE], last=start + PIECE >= len(message))


class Deliveries:
    """Answers the needs of one SMTP or LMTP session, and keeps what was delivered."""

    def __init__(self) -> None:
        self.delivered: list[tuple[smtp.Commit, bytes]] = []
        self._body = b""

    def answers(self, need: smtp.Need) -> Iterator[smtp.Answer]:
        match need:
            case smtp.Verify(mailbox, domain):
                yield self._verdict(mailbox, domain)
            case smtp.Write(data):
                self._body += data
                yield smtp.Done()
            case smtp.Open() | smtp.Abandon():
                self._body = b""
                yield smtp.Done()
            case smtp.Commit(envelope):
                self.delivered.append((need, self._body))
                yield smtp.Committed((True,) * len(envelope.recipients))

    def _verdict(self, mailbox: str, domain: str) -> smtp.Answer:
        if not domain:
            return smtp.Accepted(Address.parse(POSTMASTER))
        if domain.lower() not in (DOMAIN, LOCKED_DOMAIN):
            return smtp.Foreign()
        name = f"{mailbox}@{domain}".lower()
        if name == FAILS:
            return smtp.Unavailable()
        if name not in MAILBOXES:
            return smtp.Unknown()
        return smtp.Accepted(Address.parse(name))
