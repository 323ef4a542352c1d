"""What a POP3 session asks of the world, and what it can be told.

Of all POP3 commands only three reach outside: a logon, a message's bytes, an update. Invariant: a session
has at most one open need, and reads no further command before it is answered.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from winpop.terms.mail import Listing


@dataclass(frozen=True, slots=True)
class Logon:
    """Check a user name and password, take the maildrop lock, list the maildrop.

    Answers: `Opened`, `Refused`, `Locked`, `InUse`, `Unavailable`.
    """

    name: str
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read the message at `index` (message number less one) in pieces.

    Answers: `Piece` after `Piece` until one is the last, or `Unreadable`. A session that has enough
    (TOP) simply stops having this need.
    """

    index: int


@dataclass(frozen=True, slots=True)
class Update:
    """Leave the maildrop: remove the messages at these indexes durably and free the maildrop lock.

    Answers: `Updated`; nothing was removed: `Unavailable`, `Locked`, `Refused` (the mailbox is no more).
    """

    indexes: tuple[int, ...]


Need = Logon | Fetch | Update


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
class Unavailable:
    """It cannot be said or done now; the same request may succeed later."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bytes of a message as it is stored: CRLF line ends, no dot-stuffing."""

    data: bytes
    last: bool
    plain: bool = False
    """No line of this message begins with a dot, so nothing has to be looked for."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The message's bytes cannot be had: now (`permanent` false), or ever."""

    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Updated:
    """The update is durable and the maildrop lock is free."""


Answer = Opened | Refused | Locked | InUse | Unavailable | Piece | Unreadable | Updated


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
