"""Looking at the whole store while it is in use: rows against octets, files against rows.

    flaws         what is found, what was read, and what the parts share
    identifiers   counters and unique-ids
    bodies        every body and its messages, compared in `octets`, read from `rows`
    files         the mail root and the files that are to go
    mends         what a flaw brings along for its repair

Invariant: nothing is changed here; a flaw brings along what would mend it, for a transaction of whoever wants that,
and no mend takes away or changes an octet of a body. Reading is done in short queries, so that the log can be reset
meanwhile, and memory is bounded however much mail there is. Deliveries and deletions go on: what looks wrong is looked
at again, and only what is wrong twice is a flaw.
"""

from winpop.store.inspection.bodies import inspect_bodies
from winpop.store.inspection.files import access, inspect_discarded, inspect_files
from winpop.store.inspection.flaws import Flaw, Found, Inspection, Read, bear
from winpop.store.inspection.identifiers import inspect_sequences, inspect_unique_ids

__all__ = [
    "Flaw",
    "Found",
    "Inspection",
    "Read",
    "access",
    "bear",
    "inspect_bodies",
    "inspect_discarded",
    "inspect_files",
    "inspect_sequences",
    "inspect_unique_ids",
]
