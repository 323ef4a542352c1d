"""What an inspection finds, and what its parts share: where they look, whom they tell, how much they have read.

Invariant: what could not be read is a flaw only while the database as a whole still answers; else the refusal goes on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from winpop.db.contract import Database, Reader, Transaction
from winpop.store.blobs import Blobs
from winpop.terms.refusals import Refusal, readable

RESTORE = "bring the message back with 'winpop restore DIR USER@DOMAIN /mend'"
"""The advice where octets are lost."""

Mend = Callable[[Transaction], bool]
"""Mend a flaw in a transaction, if it is still there; tell whether that was done."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as its row has it; without a prefix, as only the index of its mailbox has it."""

    id: int
    mailbox_id: int
    unique_id: bytes
    size: int = 0
    prefix: bytes | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is not as it should be: a stable code, where, one sentence, and what would mend it.

    `urgent`: what is behind it can be read once it is mended.
    """

    kind: str
    where: str
    finding: str
    letter: Letter | None = None
    mend: Mend | None = None
    urgent: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells whether two looks found the same."""
        return self.kind, self.where, self.letter.id if self.letter else 0


Found = Callable[[Flaw], None]
"""Whoever is told of flaws."""


@dataclass(slots=True)
class Read:
    """How much was looked at. `under_way` are files that a delivery may still be about."""

    messages: int = 0
    bodies: int = 0
    blobs: int = 0
    octets: int = 0
    under_way: int = 0


@dataclass(frozen=True, slots=True)
class Inspection:
    """One look at everything. `found` is given each flaw, `went_on` is called now and then."""

    database: Database
    blobs: Blobs
    found: Found
    went_on: Callable[[], None]
    read: Read = field(default_factory=Read)

    def found_all(self, flaws: Iterable[Flaw]) -> None:
        """Give several flaws to `found`."""
        for flaw in flaws:
            self.found(flaw)

    def because(self, refusal: Refusal) -> str:
        """Say why something could not be read. Raises `Refusal` as `bear` does."""
        bear(self.database, refusal)
        return readable(str(refusal.__cause__ or refusal.sentence))


def bear(reader: Reader, refusal: Refusal) -> None:
    """Bear a refusal that only damage in some place caused. Raises `Refusal` where nothing can be read at all."""
    if refusal.code != "database-unreachable":
        raise refusal
    reader.number("PRAGMA user_version")
