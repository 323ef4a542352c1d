"""Files that an administrator names.

Invariant: a file is opened and read where its name was typed, by the one who typed it; from there on it is octets.
"""

from dataclasses import dataclass, field

from winpop.terms.refusals import readable

LONGEST = 1024 * 1024
"""Octets that are taken; more than certificates of any authority have."""


@dataclass(frozen=True, slots=True)
class File:
    """What was in a file, at most `LONGEST` octets. What it holds may be a private key, so it stands in no repr."""

    name: str
    octets: bytes = field(repr=False)

    def __str__(self) -> str:
        return readable(self.name)
