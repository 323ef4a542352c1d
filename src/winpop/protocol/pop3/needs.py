"""What a POP3 session asks of the world, and what it can be told.

Of all POP3 commands only four reach outside: a logon, the TLS handshake, a message's bytes, an update; and a SASL
mechanism asks for what it needs (winpop.protocol.sasl.moves). Invariant: a session has at most one open need, and
reads no further command before it is answered.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from winpop.protocol.sasl import moves as sasl
from winpop.terms.credentials import Credentials
from winpop.terms.mail import Listing


@dataclass(frozen=True, slots=True)
class Offer:
    """What the server offers this peer now; it changes with the TLS handshake and with nothing else.

    Without `logons` nobody can log on before TLS has begun; without `passwords` no password is taken as it is.
    """

    logons: bool = True
    passwords: bool = True
    stls: bool = False
    """TLS can begin."""
    mechanisms: tuple[str, ...] = ()
    """SASL mechanisms, the most wanted first."""
    timestamp: bytes | None = None
    """What APOP digests, angle brackets included (RFC 1939 §7); None where APOP is not offered."""
    expire: int | None = None
    """Days that mail is kept (RFC 2449 §6.7), None for ever."""
    login_delay: int = 0
    """Seconds between two logons to a mailbox (RFC 2449 §6.5)."""
    hostname: str = "localhost"
    seed: bytes = field(default=b"", repr=False)
    """What nobody can guess and no other offer has: the nonces of sessions are made from it and their numbers."""
    bindings: dict[str, bytes] = field(default_factory=dict, repr=False)
    """The channel bindings of the TLS connection, by name."""


@dataclass(frozen=True, slots=True)
class Logon:
    """Check who this is, take the maildrop lock, list the maildrop as clients with or without UTF8 get it.

    Answers: `Opened`, `Refused`, `Locked`, `InUse`, `TooSoon`, `Unavailable`.
    """

    credentials: Credentials
    utf8: bool = False


@dataclass(frozen=True, slots=True)
class StartTls:
    """Begin TLS, when the reply before it is sent (RFC 2595 §4). Answer: `Secured`; a handshake that fails ends all."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read the message at `index` (message number less one) in pieces.

    Answers: `Piece` after `Piece` until one is the last (or `Passed`), or `Unreadable`. A session that has enough
    (TOP) simply stops having this need.
    """

    index: int


@dataclass(frozen=True, slots=True)
class Update:
    """Leave the maildrop: remove the messages at these indexes durably and free the maildrop lock.

    Answers: `Updated`; nothing was removed: `Unavailable`, `Locked`, `Refused` (the mailbox is no more).
    """

    indexes: tuple[int, ...]


Need = Logon | StartTls | Fetch | Update | sasl.Keys | sasl.Step


@dataclass(frozen=True, slots=True)
class Opened:
    """The logon holds, the maildrop is ours."""

    listing: Listing


@dataclass(frozen=True, slots=True)
class Refused:
    """No such user, wrong password, no account: the client is never told which."""


@dataclass(frozen=True, slots=True)
class Locked:
    """The password was right; an administrator has locked the `what` ("domain" or "mailbox")."""

    what: str


@dataclass(frozen=True, slots=True)
class InUse:
    """Another session has the maildrop lock."""


@dataclass(frozen=True, slots=True)
class TooSoon:
    """The last logon to this mailbox was less than the announced delay ago (RFC 2449 §8.1.1)."""


@dataclass(frozen=True, slots=True)
class Secured:
    """TLS has begun; this is offered from now on."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Unavailable:
    """It cannot be said or done now; the same request may succeed later."""


class Piece(NamedTuple):
    """The next bytes of a message as it is stored: CRLF line ends, no dot-stuffing."""

    data: bytes
    last: bool
    plain: bool = False
    """No line of this message begins with a dot, so nothing has to be looked for."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The rest of a message that is `plain` went out past the session; `tail` are its last two octets.

    Only where the session `wants_all`, and after a first `Piece`.
    """

    tail: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The message's bytes cannot be had: now (`permanent` false), or ever."""

    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Updated:
    """The update is durable and the maildrop lock is free."""


Answer = (
    Opened
    | Refused
    | Locked
    | InUse
    | TooSoon
    | Secured
    | Unavailable
    | Piece
    | Passed
    | Unreadable
    | Updated
    | sasl.Answer
)


class Ending(Enum):
    """Why a session ends that neither client nor protocol ended."""

    DOMAIN_LOCKED = auto()
    MAILBOX_LOCKED = auto()
    MAILBOX_DELETED = auto()
    IDLE = auto()
    """RFC 1939 §3: the autologout timer; nothing is deleted and nothing is said."""
    SLOW_LOGON = auto()
    STOPPING = auto()
    OVERLOADED = auto()
    UNAVAILABLE = auto()
