"""Counters and unique-ids: what must not be given out a second time.

Invariant: memory is bounded however many messages a mailbox has, because those of a large one are compared in parts.
"""

from functools import partial
from zlib import crc32

from winpop.store.inspection import mends
from winpop.store.inspection.flaws import Flaw, Inspection, Letter
from winpop.store.inspection.rows import as_integer, listing, mailboxes
from winpop.terms.mail import UNIQUE_ID
from winpop.terms.refusals import Refusal

_IDS_AT_ONCE = 50_000
_TABLES = ("domain", "mailbox", "body", "message", "audit")


def inspect_sequences(inspection: Inspection) -> None:
    """No identifier may be given a second time: the counters must not lag behind."""
    for table in _TABLES:
        with inspection.database.snapshot() as reader:
            most = as_integer(reader.one(f"SELECT max(id) FROM {table}"))
            given = as_integer(reader.one("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", table))
        if given < most:
            said = f"Its counter is at {given} and the highest identifier is {most}, so one could be given twice."
            mend = partial(mends.raise_sequence, table=table)
            inspection.found(Flaw("sequence", f"table {table}", said, mend=mend))


def inspect_unique_ids(inspection: Inspection) -> None:
    """They have the form that RFC 1939 §7 gives them, and no mailbox has one twice."""
    for mailbox_id in mailboxes(inspection.database):
        try:
            _of_mailbox(inspection, mailbox_id)
        except Refusal as refusal:
            said = f"The messages of this mailbox cannot be listed: {inspection.because(refusal)}."
            inspection.found(Flaw("unreadable", "", said, Letter(0, mailbox_id, b"")))


def _of_mailbox(inspection: Inspection, mailbox_id: int) -> None:
    count = inspection.database.number("SELECT count(*) FROM message WHERE mailbox_id = ?", mailbox_id)
    parts = count // _IDS_AT_ONCE + 1
    for part in range(parts):
        seen: set[bytes] = set()
        for letter, _ in listing(inspection, mailbox_id):
            if part == 0 and not UNIQUE_ID.fullmatch(letter.unique_id):
                said = "Its unique-id is not 1 to 70 characters from ! to ~"
                _wrong(inspection, "unique-id-bad", said, letter)
            elif crc32(letter.unique_id) % parts == part:
                if letter.unique_id in seen:
                    _wrong(inspection, "unique-id-twice", "An earlier message has the same unique-id", letter)
                seen.add(letter.unique_id)


def _wrong(inspection: Inspection, kind: str, said: str, letter: Letter) -> None:
    if mends.still_wrong(inspection.database, letter):
        said += "; /repair gives it a new one, and clients will take it for a new message."
        inspection.found(Flaw(kind, "", said, letter, partial(mends.renew_unique_id, letter=letter)))
