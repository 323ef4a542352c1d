"""CRAM-MD5 (RFC 2195 §2): a keyed digest of a challenge that is never used again.

Invariant: the challenge is of the form of a message identifier, and the server speaks first.
"""

import re

from winpop.protocol.sasl.moves import Malformed, Proved, Surroundings
from winpop.protocol.sasl.names import utf8
from winpop.protocol.sasl.run import Run, challenge
from winpop.terms.credentials import CramMd5

_DIGEST = re.compile(rb"[0-9a-f]{32}")


def cram_md5(surroundings: Surroundings, initial: bytes | None) -> Run:
    """Read `name SP digest`. A name may hold spaces: the last one parts it from the digest."""
    if initial is not None:
        return Malformed()
    sent = f"<{surroundings.nonce}@{surroundings.hostname}>".encode()
    logon, _, digest = (yield from challenge(sent)).rpartition(b" ")
    name = utf8(logon)
    if not name or not _DIGEST.fullmatch(digest):
        return Malformed()
    return Proved(CramMd5(name, sent, bytes.fromhex(digest.decode("ascii"))))
