"""SASLprep (RFC 4013 §2): the one spelling of a password that looks the same however it was typed.

Kept for text that is stored: code points that Unicode 3.2 did not assign are not permitted (RFC 5802 §2.2).
Invariant: what is returned is returned unchanged when it is prepared again.
"""

import stringprep
from unicodedata import ucd_3_2_0

_PROHIBITED = (
    stringprep.in_table_a1,  # unassigned
    stringprep.in_table_c12,  # spaces beyond ASCII
    stringprep.in_table_c21_c22,  # control characters
    stringprep.in_table_c3,  # private use
    stringprep.in_table_c4,  # no characters
    stringprep.in_table_c5,  # halves of surrogate pairs
    stringprep.in_table_c6,  # not for plain text
    stringprep.in_table_c7,  # not for canonical representation
    stringprep.in_table_c8,  # change the display, or deprecated
    stringprep.in_table_c9,  # tags
)


def prepare(text: str) -> str | None:
    """Return the prepared text; None where that is not permitted."""
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibits(character) for character in prepared for prohibits in _PROHIBITED):
        return None
    return prepared if _runs_one_way(prepared) else None


def _runs_one_way(text: str) -> bool:
    """Tell whether a text with right-to-left characters begins and ends with one, and has no left-to-right ones."""
    leftward = [stringprep.in_table_d1(character) for character in text]
    if not any(leftward):
        return True
    return leftward[0] and leftward[-1] and not any(map(stringprep.in_table_d2, text))
