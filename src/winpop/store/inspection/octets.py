"""The octets of a body, held against its row and those of its messages.

Invariant: what is told of octets does not depend on the pieces in which they came. Where the checksum denies them, they
are told as damaged and nothing else is concluded from them.
"""

import hashlib

from winpop.store.inspection import mends
from winpop.store.inspection.flaws import RESTORE, Flaw, Letter
from winpop.store.inspection.rows import Body


class Octets:
    """What a body's octets tell, taken piece by piece."""

    def __init__(self) -> None:
        """Begin with none."""
        self.size = 0
        self.dotted = False
        """A line begins with a dot."""
        self._hashed = hashlib.sha256()
        self._single = self._pairs = 0
        self._tail = b"\r\n"

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self.size += len(data)
        self._hashed.update(data)
        self.dotted = self.dotted or b"\r\n." in data or b"\r\n." in self._tail + data[:2]
        self._single += data.count(b"\r") + data.count(b"\n")
        self._pairs += data.count(b"\r\n") + (self._tail[-1:] + data[:1] == b"\r\n")
        self._tail = (self._tail + data[-2:])[-2:]

    @property
    def bare(self) -> bool:
        """Tell whether a CR or a LF stands alone."""
        return self._single != 2 * self._pairs

    def checksum(self, prefix: bytes) -> bytes:
        """Return the checksum of a message with this body and this prefix."""
        whole = self._hashed.copy()
        whole.update(prefix)
        return whole.digest()


def compare(body: Body, octets: Octets, letters: list[Letter]) -> list[Flaw]:
    """Hold octets against rows. What damage has changed too is told as damage and nothing else."""
    where = f"body {body.id}"
    flaws, whole = [], []
    for letter in letters:
        if body.checksum is not None and octets.checksum(letter.prefix or b"") != body.checksum:
            size = "" if octets.size == body.size else f", and they are {octets.size} instead of {body.size}"
            said = f"Its octets are not those that came in{size}; {RESTORE}."
            flaws.append(Flaw("damaged", where, said, letter))
        else:
            whole.append(letter)
    if not whole:
        return flaws
    proven, first = body.checksum is not None, whole[0]
    if octets.size != body.size:
        said = f"The body has {octets.size} octets and its row says {body.size}"
        if not proven:
            return [*flaws, Flaw("body-size", where, f"{said}; {RESTORE}.", first)]
        said += ", which is wrong, as the checksum proves."
        mend = mends.by_statement("UPDATE body SET size = ? WHERE id = ? AND size = ?", octets.size, body.id, body.size)
        flaws.append(Flaw("body-size", where, said, first, mend))
    if body.plain and octets.dotted:
        said = "A line begins with a dot and its row says that none does, so that RETR gives out something else."
        mend = mends.by_statement("UPDATE body SET plain = 0 WHERE id = ? AND plain", body.id)
        flaws.append(Flaw("plain-flag", where, said, first, mend))
    if octets.bare:
        said = "A CR or LF stands alone in it; it came in so, and is left as it is."
        flaws.append(Flaw("bare-newline", where, said, first))
    for letter in whole:
        real = len(letter.prefix or b"") + octets.size
        if letter.size != real:
            said = f"It has {real} octets and its row says {letter.size}."
            sql = "UPDATE message SET size = ? WHERE id = ? AND size = ?"
            mend = mends.by_statement(sql, real, letter.id, letter.size)
            flaws.append(Flaw("message-size", where, said, letter, mend))
    return flaws if proven else [*flaws, _without_checksum(body, octets, whole)]


def _without_checksum(body: Body, octets: Octets, letters: list[Letter]) -> Flaw:
    """Return the flaw, with a mend where all messages would have the same checksum."""
    prefixes = {letter.prefix or b"" for letter in letters}
    mend = None
    if len(prefixes) == 1:
        sql = "UPDATE body SET checksum = ? WHERE id = ? AND checksum IS NULL"
        mend = mends.by_statement(sql, octets.checksum(prefixes.pop()), body.id)
    return Flaw("no-checksum", f"body {body.id}", "It came in before there were checksums.", letters[0], mend)
