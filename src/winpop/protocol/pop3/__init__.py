"""The POP3 server's side of one connection (RFC 1939, RFC 2449, RFC 2595, RFC 3206, RFC 5034, RFC 6856), pure."""

from winpop.protocol.pop3.needs import (
    Answer,
    Ending,
    Fetch,
    InUse,
    Locked,
    Logon,
    Need,
    Offer,
    Opened,
    Passed,
    Piece,
    Refused,
    Secured,
    StartTls,
    TooSoon,
    Unavailable,
    Unreadable,
    Update,
    Updated,
)
from winpop.protocol.pop3.session import Session
from winpop.protocol.pop3.state import Limits

__all__ = [
    "Answer",
    "Ending",
    "Fetch",
    "InUse",
    "Limits",
    "Locked",
    "Logon",
    "Need",
    "Offer",
    "Opened",
    "Passed",
    "Piece",
    "Refused",
    "Secured",
    "Session",
    "StartTls",
    "TooSoon",
    "Unavailable",
    "Unreadable",
    "Update",
    "Updated",
]
