"""Bodies whose header is beyond ASCII, as clients without UTF8 get them (RFC 6858 §4).

Invariant: what is stored is what came in. Beside it stands only the size that the body has with its header downgraded,
so that STAT, LIST and RETR agree; the header itself is made anew whenever it is given out, from octets whose checksum
was right. A body without a row here (its header is ASCII, is no UTF-8, or came in before there were rows) is given out
as it is to everybody.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from winpop.db.contract import Transaction
from winpop.protocol import downgrade
from winpop.store.blobs import PIECE, Blobs, Content, unusable


def reckon(content: Content, blobs: Blobs) -> Content:
    """Return a body with its size for clients without UTF8, where that is another body.

    It reads the beginning of a blob, and a long header takes a while: not for an event loop. Raises `Refusal`
    (`mailroot-unusable`).
    """
    beginning = content.octets if content.octets is not None else _beginning(content, blobs)
    header = downgrade.header_of(beginning)
    if not downgrade.is_international(header):
        return content
    return replace(content, downgraded=content.size - len(header) + len(downgrade.downgrade(header)))


def insert(transaction: Transaction, body: int, content: Content) -> None:
    """Note for the row of a body what was reckoned."""
    if content.downgraded is not None:
        transaction.insert("INSERT INTO downgrade (body_id, size) VALUES (?, ?)", body, content.downgraded)


def downgraded(octets: bytes) -> bytes:
    """Return a body, or the beginning of one that `beginning` has read, with its header downgraded."""
    header = downgrade.header_of(octets)
    return downgrade.downgrade(header) + octets[len(header) :]


def beginning(read: Callable[[], bytes]) -> bytes:
    """Read pieces until the header is there, or there are too many octets or no more."""
    octets = b""
    while len(octets) <= downgrade.LIMIT:
        piece = read()
        octets += piece
        if not piece or downgrade.has_end(octets):
            break
    return octets


def _beginning(content: Content, blobs: Blobs) -> bytes:
    assert content.blob is not None
    try:
        descriptor = blobs.open(content.blob)
        try:
            return beginning(lambda: os.read(descriptor, PIECE))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unusable(blobs.root, error) from error
