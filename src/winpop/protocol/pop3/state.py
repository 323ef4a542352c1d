"""What bounds a POP3 session, and how far it is.

Invariant: UPDATE is entered with QUIT after a logon and left by closing, so nothing else ever removes a message.
"""

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do. A line counts its CRLF."""

    line: int = 255
    """Octets of a command (RFC 2449 §4)."""
    response: int = 12288
    """Octets of a line that belongs to AUTH, which is bound by no other limit (RFC 5034 §4)."""
    failures: int = 3
    errors: int = 20


class State(Enum):
    """RFC 1939 §3."""

    AUTHORIZATION = auto()
    TRANSACTION = auto()
    UPDATE = auto()
