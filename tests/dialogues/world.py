"""The world in which all dialogues are held: a few mailboxes, their mail, and what happens to them.

The pure runs take their answers from the fakes here; a real server is set up with the same data.
Invariant: nothing that happens in one dialogue is seen in another.
"""

import functools
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, replace

from winpop.protocol import downgrade, pop3, smtp
from winpop.protocol.sasl import moves, scram_keys
from winpop.terms.credentials import (
    Apop,
    ClientCertificate,
    CramMd5,
    Credentials,
    Established,
    Failed,
    Password,
    Scram,
    ScramKeys,
    Token,
)
from winpop.terms.mail import Listing
from winpop.terms.names import Address

HOSTNAME = "mail.example.com"
DOMAIN = "example.com"
LOCKED_DOMAIN = "locked.example"
ALICE = "alice@example.com"
"""Whoever shows the token, a certificate or a security context is she."""
POSTMASTER = ALICE
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
ZOES_MESSAGES = ("From: Zoë <zoe@example.com>\r\nSubject: Grüße\r\n\r\nÀ midi.\r\n".encode(),)
"""A header in UTF-8, which only clients that have said UTF8 get as it is (RFC 6856 §2)."""


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
    "mrose@dbc.mtview.ca.us": Mailbox(b"tanstaaf"),
    "uwe@example.com": Mailbox("größer".encode()),
    "zoe@example.com": Mailbox(b"secret", ZOES_MESSAGES),
}
SOON = "soon@example.com"
"""Whoever logs on to this mailbox has just done so. In pure runs only."""
IN_CLEAR = ("SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN")
"""The mechanisms of the real servers, as trusted clients meet them."""
IN_TLS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", *IN_CLEAR)
EVERY = (
    *("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "EXTERNAL", "GSSAPI", "SCRAM-SHA-256", "SCRAM-SHA-1"),
    *("OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN", "NTLM", "CRAM-MD5"),
)
"""The mechanisms of dialogues with `#! digests`, whose server also deletes mail and wants clients to wait."""
TIMESTAMP = b"<1896.697170952@dbc.mtview.ca.us>"
"""The greeting's timestamp in the example of RFC 1939 §7, whose shared secret is `tanstaaf`."""
SALT = b"salt of everybody"
ROUNDS = 4096
TOKEN = "alices-token"
END_POINT = b"the server's certificate"
FAILS = "fails@example.com"
"""Whatever is asked about this mailbox, nobody can say. In pure runs only."""

PIECE = 5
"""The fake gives messages out in pieces of so few octets that every rule about line ends meets a cut."""


class Maildrops:
    """Answers the needs of one POP3 session."""

    def __init__(self, directives: frozenset[str] = frozenset()) -> None:
        self.directives = directives
        self.open = Mailbox(b"")
        self.removed: tuple[int, ...] = ()

    def answers(self, need: pop3.Need) -> Iterator[pop3.Answer]:
        match need:
            case pop3.Logon(credentials, utf8):
                yield self._logon(credentials, utf8=utf8)
            case pop3.StartTls():
                yield pop3.Secured(offer(self.directives, tls=True))
            case moves.Keys(name, hash_name):
                yield self._keys(name.lower(), hash_name)
            case moves.Step(_, token):
                yield self._step(token)
            case pop3.Fetch(index):
                yield from self._pieces(index)
            case pop3.Update(indexes):
                if self.open.frail:
                    yield pop3.Unavailable()
                else:
                    self.removed = indexes
                    yield pop3.Updated()

    def _logon(self, credentials: Credentials, *, utf8: bool) -> pop3.Answer:
        name = credentials.name.lower()
        mailbox = MAILBOXES.get(name)
        if name == FAILS:
            return pop3.Unavailable()
        if name == SOON:
            return pop3.TooSoon()
        if isinstance(credentials, Token | ClientCertificate | Established) and name in ("", ALICE):
            mailbox = MAILBOXES[ALICE]
        if mailbox is None or not _shows(credentials, mailbox.password):
            return pop3.Refused()
        if mailbox.locked:
            return pop3.Locked(mailbox.locked)
        if mailbox.in_use:
            return pop3.InUse()
        messages = mailbox.messages if utf8 else tuple(map(_in_ascii, mailbox.messages))
        self.open = replace(mailbox, messages=messages)
        numbers = range(1, len(messages) + 1)
        return pop3.Opened(Listing(tuple(map(len, messages)), tuple(f"uid-{n}" for n in numbers)))

    def _keys(self, name: str, hash_name: str) -> moves.Answer:
        if name == FAILS:
            return moves.Unavailable()
        mailbox = MAILBOXES.get(name)
        return keys_of(mailbox.password if mailbox else b"nobody's password", hash_name)

    def _step(self, token: bytes) -> moves.Answer:
        """Be a security context: `one` and `three` are right, `nobody` is a stranger, the rest is nonsense."""
        match token:
            case b"one":
                return moves.Continue(b"two")
            case b"three":
                return moves.Proved(Established("NTLM", "EXAMPLE\\alice"))
            case b"nobody":
                return moves.Proved(Failed("nobody"))
            case b"later":
                return moves.Unavailable()
        return moves.Malformed()

    def _pieces(self, index: int) -> Iterator[pop3.Answer]:
        if self.open.frail:
            yield pop3.Unreadable(permanent=index > 0)
            return
        message = self.open.messages[index]
        for start in range(0, len(message), PIECE):
            yield pop3.Piece(message[start : start + PIECE], last=start + PIECE >= len(message))


def _in_ascii(message: bytes) -> bytes:
    """Return a message as clients get it that have not said UTF8."""
    header = downgrade.header_of(message)
    return downgrade.downgrade(header) + message[len(header) :]


def _shows(credentials: Credentials, password: bytes) -> bool:
    match credentials:
        case Password(_, shown):
            return shown == password
        case Scram(_, hash_name, stored_key):
            return stored_key == keys_of(password, hash_name).stored_key
        case Apop(_, timestamp, digest):
            return digest == hashlib.md5(timestamp + password).digest()
        case CramMd5(_, challenge, digest):
            return digest == hmac.digest(password, challenge, "md5")
        case Token(wanted, token):
            return token == TOKEN and wanted.lower() in ("", ALICE)
        case ClientCertificate(wanted) | Established(name=wanted):
            return wanted.lower() in ("", ALICE)
        case Failed():
            return False


@functools.cache
def keys_of(password: bytes, hash_name: str) -> ScramKeys:
    """Return the SCRAM keys of a password, the same each time."""
    return scram_keys.derive(password, hash_name, SALT, ROUNDS)


def offer(directives: frozenset[str] = frozenset(), *, tls: bool = False) -> pop3.Offer:
    """Return what the server offers in a dialogue with these directives, before or after the TLS handshake."""
    trusted = tls or "stranger" not in directives
    offered = pop3.Offer(
        logons=trusted,
        passwords=trusted,
        stls=not tls,
        mechanisms=IN_TLS if tls else IN_CLEAR,
        hostname=HOSTNAME,
        seed=b"over TLS" if tls else b"in clear",
        bindings={"tls-server-end-point": END_POINT} if tls else {},
    )
    if "digests" in directives:
        return replace(
            offered,
            mechanisms=EVERY,
            timestamp=TIMESTAMP,
            bindings={"tls-server-end-point": END_POINT},
            expire=30,
            login_delay=60,
        )
    return offered


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
