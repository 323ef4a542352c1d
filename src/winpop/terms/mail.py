"""What a protocol session and the store tell each other about mail.

Invariant: a `Listing` is a snapshot. Nothing that happens to the mailbox later changes its numbers,
sizes or unique-ids (RFC 1939 §5: numbers are assigned when the maildrop is opened).
"""

import re
from dataclasses import dataclass, field

from winpop.terms.names import Address

UNIQUE_ID = re.compile(rb"[\x21-\x7e]{1,70}")
"""A unique-id (RFC 1939 §7, UIDL)."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The messages of one maildrop as one session sees them: message number n is at index n - 1.

    `sizes` are octets as they are sent, CRLF line ends, without dot-stuffing. `unique_ids` are 1 to 70
    characters in the range 0x21 to 0x7E (RFC 1939 §7, UIDL).
    """

    sizes: tuple[int, ...] = ()
    unique_ids: tuple[str, ...] = ()
    octets: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "octets", sum(self.sizes))

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who sends a message and for whom it is (RFC 5321 §2.3.1). An empty `sender` is the null reverse-path."""

    sender: str
    recipients: tuple[Address, ...]
