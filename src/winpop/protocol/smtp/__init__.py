"""The receiving side of one SMTP (RFC 5321) or LMTP (RFC 2033) connection, pure."""

from winpop.protocol.smtp.needs import (
    Abandon,
    Accepted,
    Answer,
    Commit,
    Committed,
    Done,
    Ending,
    Foreign,
    Need,
    Open,
    Unavailable,
    Unknown,
    Verify,
    Write,
)
from winpop.protocol.smtp.session import Session
from winpop.protocol.smtp.state import Limits
from winpop.protocol.smtp.trace import trace

__all__ = [
    "Abandon",
    "Accepted",
    "Answer",
    "Commit",
    "Committed",
    "Done",
    "Ending",
    "Foreign",
    "Limits",
    "Need",
    "Open",
    "Session",
    "Unavailable",
    "Unknown",
    "Verify",
    "Write",
    "trace",
]
