"""The POP3 server's side of one connection (RFC 1939, RFC 2449, RFC 3206), pure."""

from winpop.protocol.pop3.needs import (
    Answer,
    Ending,
    Fetch,
    InUse,
    Locked,
    Logon,
    Need,
    Opened,
    Piece,
    Refused,
    Unavailable,
    Unreadable,
    Update,
    Updated,
)
from winpop.protocol.pop3.session import Limits, Session

__all__ = [
    "Answer",
    "Ending",
    "Fetch",
    "InUse",
    "Limits",
    "Locked",
    "Logon",
    "Need",
    "Opened",
    "Piece",
    "Refused",
    "Session",
    "Unavailable",
    "Unreadable",
    "Update",
    "Updated",
]
