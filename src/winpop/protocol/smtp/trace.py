"""What the server writes in front of a message when it delivers it (RFC 5321 §4.4): where it came from.

Invariant: whatever a client called itself or its sender, the result is exactly the two fields: printable
ASCII, no line longer than 998 octets (RFC 5322 §2.1.1), and no way out of the brackets a value stands in.
"""

import functools
import re
from datetime import UTC, datetime

from winpop.terms.names import Address

# Locale-free, which strftime is not.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_HARMFUL_IN_A_WORD = re.compile(r"[^A-Za-z0-9_.:\[\]-]")
_HARMFUL_IN_A_PATH = re.compile(r"[^!-~]|[<>()]")
_LONGEST = 256


def trace(  # noqa: PLR0913 - a trace field has this many facts, and each is given by name
    *,
    sender: str,
    recipients: tuple[Address, ...],
    helo: str,
    ip: str,
    hostname: str,
    protocol: str,
    identifier: str,
    when: datetime,
) -> bytes:
    """Return the Return-Path and Received fields of one message.

    `protocol` is SMTP, ESMTP or LMTP (RFC 5321 §4.4, "with"). A recipient is named only where there is no
    other, since the others' copies would tell of it (RFC 5321 §7.2). `ip` is empty where there is none.
    """
    recipient = f"\r\n\tfor <{_path(str(recipients[0]))}>" if len(recipients) == 1 else ""
    return (
        f"Return-Path: <{_path(sender)}>\r\n"
        f"{_from_and_by(helo, ip, hostname, protocol)} id {_word(identifier)}{recipient};\r\n"
        f"\t{_date(when)}\r\n"
    ).encode("ascii")


@functools.lru_cache(256)
def _from_and_by(helo: str, ip: str, hostname: str, protocol: str) -> str:
    """Return what is the same for all messages of a connection."""
    client = _word(helo) or "unknown"
    if ip:
        client += f" ([{'IPv6:' if ':' in ip else ''}{_word(ip)}])"
    return f"Received: from {client}\r\n\tby {_word(hostname)} with {_word(protocol)}"


@functools.lru_cache(1)
def _date(when: datetime) -> str:
    """Write a moment as RFC 5322 §3.3 does, in UTC."""
    t = when.astimezone(UTC)
    clock = f"{t.hour:02}:{t.minute:02}:{t.second:02} +0000"
    return f"{_DAYS[t.weekday()]}, {t.day} {_MONTHS[t.month - 1]} {t.year:04} {clock}"


def _word(text: str) -> str:
    return _HARMFUL_IN_A_WORD.sub("?", text[:_LONGEST])


@functools.lru_cache(1024)
def _path(text: str) -> str:
    return _HARMFUL_IN_A_PATH.sub("?", text[:_LONGEST])
