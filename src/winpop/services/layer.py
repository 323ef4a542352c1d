"""TLS between a connection and its socket: records come in and go out, octets are read and written; no input or output.

Invariant: nothing is given out as an octet of the client that did not come in a record after the handshake, so no byte
that came in clear is ever read as if it had come over TLS.

The event loops' own TLS was measured before: asyncio's keeps 256 KiB a connection, uvloop's 25 KiB, and 50 KiB for half
a minute for a handshake that a client left in its middle; and neither answers a client that has closed its half.
"""

import contextlib
import ssl

HANDSHAKE = 30.0
"""Seconds for a handshake, at most."""
FIRST = b"\x16"
"""What TLS begins with (RFC 8446 §5.1)."""
_RECORD = 16 * 1024
"""Octets of the content of a record, at most (RFC 8446 §5.1). No more is written at once, so that the buffer of a
connection that has sent much is no larger than of one that has not."""


class Layer:
    """The server's side of one connection."""

    __slots__ = ("_incoming", "_outgoing", "answered", "ended", "object")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.answered = False
        """Something was said in answer to the client's first message."""
        self.ended = False
        """The client has said that it will send no more."""

    def handshake(self, records: bytes) -> bool:
        """Go on with these records; tell whether the handshake is over.

        Raises `ssl.SSLError`; what `records` returns is to be sent all the same.
        """
        self._incoming.write(records)
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def records(self) -> bytes:
        """Return what is to be sent to the client: of the handshake, or why it failed."""
        records = self._outgoing.read()
        self.answered = self.answered or bool(records)
        return records

    def open(self, records: bytes) -> bytes:
        """Return the octets in these records and those before that were not whole. Raises `ssl.SSLError`."""
        if self.ended:
            return b""  # what comes behind the end is nothing (RFC 8446 §6.1), and is not kept
        self._incoming.write(records)
        pieces = []
        try:
            while self._incoming.pending or self.object.pending():
                piece = self.object.read(_RECORD)
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # half a record
        except ssl.SSLZeroReturnError:
            self.ended = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def seal(self, octets: bytes) -> bytes:
        """Return the records that bring these octets. Raises `ssl.SSLError`."""
        if len(octets) <= _RECORD:
            self.object.write(octets)
            return self._outgoing.read()
        view = memoryview(octets)
        records = []
        for start in range(0, len(octets), _RECORD):
            self.object.write(view[start : start + _RECORD])
            records.append(self._outgoing.read())
        return b"".join(records)

    def close(self) -> bytes:
        """Return the record that says that no more will come (RFC 8446 §6.1)."""
        with contextlib.suppress(ssl.SSLError):  # the client has not said so yet, or there is nothing to end
            self.object.unwrap()
        return self._outgoing.read()


def why(error: BaseException | None) -> str:
    """Say in a few words why a handshake failed."""
    if error is None:
        return "the client has gone"
    return (isinstance(error, ssl.SSLError) and error.reason) or type(error).__name__
