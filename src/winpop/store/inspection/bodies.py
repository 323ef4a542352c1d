"""Every body is read, and held against its row and the messages that have it.

Invariant: each body that is there or is named is read, in the order in which they came in; where the rows of bodies or
the index of messages cannot be listed, by mailbox. What looks wrong is read twice.
"""

import os
import stat

from winpop.store.blobs import PIECE
from winpop.store.inspection.flaws import RESTORE, Flaw, Inspection, Letter
from winpop.store.inspection.octets import Octets, compare
from winpop.store.inspection.rows import BLOB, Body, fetch_body, last_body, letters_of, listing, mailboxes, next_bodies
from winpop.terms.refusals import Refusal


def inspect_bodies(inspection: Inspection) -> None:
    """Every body, in the order in which they came in, and the messages that have it."""
    last = 0
    try:
        top = last_body(inspection.database)
        while last < top:
            ids, end = next_bodies(inspection, last, top)
            for body_id in ids:
                _inspect(inspection, body_id)
                last = body_id
            last = end
    except Refusal as refusal:
        said = f"What follows body {last} cannot be listed, so its messages are read by mailbox"
        inspection.found(Flaw("engine", "winpop.db", f"{said}: {inspection.because(refusal)}."))
        _by_mailbox(inspection, last)


def _by_mailbox(inspection: Inspection, after: int) -> None:
    for mailbox_id in mailboxes(inspection.database):
        try:
            for letter, body_id in listing(inspection, mailbox_id):
                if body_id > after:
                    _inspect(inspection, body_id, letter)
        except Refusal as refusal:  # said by `inspect_unique_ids`
            inspection.because(refusal)


def _inspect(inspection: Inspection, body_id: int, only: Letter | None = None) -> None:
    flaws, octets, messages = _examine(inspection, body_id, only)
    if any(flaw.kind != "no-checksum" for flaw in flaws):
        once = {flaw.key for flaw in flaws}
        flaws = [flaw for flaw in _examine(inspection, body_id, only)[0] if flaw.key in once]
    inspection.found_all(flaws)
    inspection.read.bodies += 1
    inspection.read.octets += octets
    inspection.read.messages += messages
    inspection.went_on()


def _examine(inspection: Inspection, body_id: int, only: Letter | None) -> tuple[list[Flaw], int, int]:
    """Return the flaws of a body and its messages, and how many octets and messages were read."""
    where = f"body {body_id}"
    body: Body | None = None
    octets = Octets()
    try:
        body = fetch_body(inspection.database, body_id)
        if body is None:
            trouble = "body-missing", f"The row of its body is missing; {RESTORE}."
        else:
            trouble = read_octets(inspection, body, octets)
    except Refusal as refusal:
        trouble = "unreadable", f"Its body cannot be read ({inspection.because(refusal)}); {RESTORE}."
    letters, lost = letters_of(inspection, body_id, only)
    said = f"The row of this message cannot be read; {RESTORE}."
    flaws = [Flaw("unreadable", f"message row {letter.id}", said, letter) for letter in lost]
    if body is not None and not letters and not lost:
        flaws.append(Flaw("body-unnamed", where, "No message has this body; it is left as it is."))
    if body is None or trouble[1]:
        flaws += [Flaw(trouble[0], where, trouble[1], letter) for letter in letters]
    else:
        flaws += compare(body, octets, letters)
    return flaws, octets.size + sum(len(letter.prefix or b"") for letter in letters), len(letters) + len(lost)


def read_octets(inspection: Inspection, body: Body, octets: Octets) -> tuple[str, str]:
    """Read a body; return the code and the sentence of what hinders it, or nothing."""
    if body.content is not None:
        octets.feed(body.content)
        return "", ""
    if body.blob is None or not BLOB.fullmatch(body.blob):
        return "body-missing", f"Its row names no file that could be its body; {RESTORE}."
    try:
        if not stat.S_ISREG(inspection.blobs.path(body.blob).lstat().st_mode):
            return "body-missing", f"What is in the place of its file is no file; {RESTORE}."
        descriptor = inspection.blobs.open(body.blob)
        try:
            while piece := os.read(descriptor, PIECE):
                octets.feed(piece)
                inspection.went_on()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return "body-missing", f"Its file {body.blob} is missing; {RESTORE}."
    except PermissionError:
        return "unreadable", f"Its file {body.blob} may not be read; see whose it and its directory are."
    except OSError as error:
        return "unreadable", f"Its file {body.blob} cannot be read ({error.strerror}); {RESTORE}."
    inspection.read.blobs += 1
    return "", ""
