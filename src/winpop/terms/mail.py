"""What a protocol session and the store tell each other about mail.

Invariant: a `Listing` is a snapshot. Nothing that happens to the mailbox later changes its numbers,
sizes or unique-ids (RFC 1939 §5: numbers are assigned when the maildrop is opened).
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from winpop.terms.names import Address

UNIQUE_ID = re.compile(rb"[\x21-\x7e]{1,70}")
"""A unique-id (RFC 1939 §7, UIDL)."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The messages of one maildrop as one session sees them: message number n is at index n - 1.

    `sizes` are octets as they are sent, CRLF line ends, without dot-stuffing. `unique_ids` are 1 to 70
    characters in the range 0x21 to 0x7E (RFC 1939 §7, UIDL). `lines` are whole listings as they are sent (LIST and UIDL
    without their last line), by the command's name, for as long as this one is kept from session to session: to make
    those of 10,000 messages takes 100 times as long as to send them. None: it is not kept.
    """

    sizes: tuple[int, ...] = ()
    unique_ids: tuple[str, ...] = ()
    octets: int = field(init=False)
    lines: dict[str, bytes] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "octets", sum(self.sizes))

    def size_line(self, index: int) -> bytes:
        """Return what LIST says of a message (RFC 1939 §5), without the line end."""
        return b"%d %d" % (index + 1, self.sizes[index])

    def unique_id_line(self, index: int) -> bytes:
        """Return what UIDL says of a message (RFC 1939 §7), without the line end."""
        return b"%d %b" % (index + 1, self.unique_ids[index].encode("ascii"))

    def with_more(self, sizes: tuple[int, ...], unique_ids: tuple[str, ...]) -> "Listing":
        """Return the listing of the same maildrop with messages behind those that there are."""
        more = Listing(self.sizes + sizes, self.unique_ids + unique_ids)
        if self.lines is not None:
            new = range(len(self), len(more))
            show = {"LIST": more.size_line, "UIDL": more.unique_id_line}
            lines = {
                name: before + b"".join([show[name](index) + b"\r\n" for index in new])
                for name, before in self.lines.items()
            }
            object.__setattr__(more, "lines", lines)
        return more

    def __len__(self) -> int:
        return len(self.sizes)


EMPTY = Listing()
"""The listing of a maildrop without mail: one for all."""


class Envelope(NamedTuple):
    """Who sends a message and for whom it is (RFC 5321 §2.3.1). An empty `sender` is the null reverse-path."""

    sender: str
    recipients: tuple[Address, ...]
