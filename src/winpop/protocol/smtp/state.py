"""What an SMTP session remembers: how far the client is, what it may do, and what it has said of a message.

Invariant: a transaction begins empty, so nothing of one message is left for the next (RFC 5321 §4.1.1.5).
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from winpop.terms.names import Address


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do. A line counts its CRLF; errors and idle commands are those since a delivery."""

    line: int = 4096
    message: int = 52_428_800
    recipients: int = 1000
    errors: int = 20
    idle_commands: int = 100
    """Commands that bring no message nearer."""
    hops: int = 50


class State(Enum):
    """How far the client is (RFC 5321 §4.1.4)."""

    CONNECTED = auto()
    READY = auto()
    """It has said who it is."""
    SENDER = auto()
    RECIPIENTS = auto()
    """At least one was accepted."""
    BODY = auto()
    """From `354` to the reply to the final dot."""


@dataclass(slots=True)
class Transaction:
    """What is known of a message before its body (RFC 5321 §3.3)."""

    sender: str = ""
    recipients: list[Address] = field(default_factory=list)
    asked: bool = False
    """A recipient was named, whatever became of it."""
    surplus: int = 0
    """How many recipients were too many."""
