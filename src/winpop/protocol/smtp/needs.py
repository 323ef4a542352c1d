"""What an SMTP or LMTP session asks of the world, and what it can be told.

Invariant: at most one need is open, and no further byte is looked at before it is answered. A verdict has
three values: yes, no, cannot say; the third always becomes a temporary reply.

What there is of each message is a named tuple: made three times as quickly as a frozen dataclass.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from winpop.terms.mail import Envelope
from winpop.terms.names import Address


class Verify(NamedTuple):
    """May mail for this recipient come in? `domain` is empty for a bare `<postmaster>` (RFC 5321 §4.5.1).

    Both are as the client wrote them (the mailbox unquoted); what cannot be a name of ours is unknown or
    foreign, not an error. Answers: `Accepted`, `Unknown`, `Foreign`, `Unavailable`.
    """

    mailbox: str
    domain: str


@dataclass(frozen=True, slots=True)
class Open:
    """Make a place for a message body. Answers: `Done`, `Unavailable`."""


class Write(NamedTuple):
    """Append these bytes to the body (CRLF line ends, dot-stuffing undone). Answers: `Done`, `Unavailable`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Abandon:
    """Drop the body: the message is not taken. Answer: `Done`."""


class Commit(NamedTuple):
    """Deliver the body durably: after the answer `Committed` the message is our responsibility.

    `plain` promises that no line of the body begins with a dot. Answers: `Committed`, `Unavailable`.
    """

    envelope: Envelope
    plain: bool


Need = Verify | Open | Write | Abandon | Commit


class Accepted(NamedTuple):
    """The recipient is the mailbox at `address` (locked or not: a lock does not stop incoming mail)."""

    address: Address


@dataclass(frozen=True, slots=True)
class Unknown:
    """A domain of ours without such a mailbox."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Not a domain of ours: taking it would be relaying."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """It cannot be said or done now. `full`: because there is no room."""

    full: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The body's place is made, its bytes are written, or it is dropped."""


class Committed(NamedTuple):
    """The message is durable for each recipient of the envelope whose flag is true.

    The others' mailboxes were deleted since they were verified.
    """

    delivered: tuple[bool, ...]


Answer = Accepted | Unknown | Foreign | Unavailable | Done | Committed


class Ending(Enum):
    """Why a session ends that neither client nor protocol ended."""

    IDLE = auto()
    SLOW = auto()
    """A message that took too long to come in."""
    STOPPING = auto()
    OVERLOADED = auto()
    UNAVAILABLE = auto()
