"""The TLS context of one pair: what is offered and taken, and how a pair gets into it without lying on a disk.

TLS 1.2 and 1.3 (RFC 9325 §3.1.1); with 1.2 only ephemeral keys and authenticated encryption (RFC 9325 §4.2); no
compression, no renegotiation. ALPN names the protocol (RFC 7301 §3.2). Invariant: a private key is never left on disk.
"""

import contextlib
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from winpop.auth.certificates import Pair

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
PROTOCOL = "pop3"
_OTHERS = (
    "http/1.1", "h2", "http/1.0", "http/0.9", "spdy/3", "spdy/2", "spdy/1", "h2c", "h3", "webrtc", "c-webrtc", "ftp",
    "imap", "managesieve", "smtp", "xmpp-client", "xmpp-server", "stun.turn", "stun.nat-discovery", "coap", "co",
    "acme-tls/1", "mqtt", "dot", "doq", "ntske/1", "sunrpc", "smb", "irc", "nntp", "nnsp", "sip/2", "tds/8.0", "dicom",
    "postgresql", "radius/1.0", "radius/1.1",
)  # fmt: skip
"""Other protocols that a client may name. They are taken only so that it shows afterwards: the standard library lets a
handshake in which no name fits go on as if none had been named, and who wanted HTTP would talk to POP3."""


class Context(ssl.SSLContext):
    """A context that knows which certificate it shows, also after it is no longer in use for others."""

    end_point: bytes | None = None
    """The channel binding tls-server-end-point of the certificate."""


def make_context(pair: Pair, end_point: bytes | None, authorities: str = "") -> Context:
    """Return a context that shows the pair; with `authorities` (PEM) clients may show certificates signed by these.

    Raises `OSError` (`ssl.SSLError` is one) where the pair or the authorities cannot be loaded.
    """
    context = Context(ssl.PROTOCOL_TLS_SERVER)
    context.end_point = end_point
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.num_tickets = 1  # each costs some 20 µs, and a mail client comes back on one connection
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([PROTOCOL, *_OTHERS])
    with in_file(pair.private_key + pair.chain) as path:
        # The library would ask the terminal for a passphrase; a key that has one is damaged here.
        context.load_cert_chain(path, password="")
    if authorities:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # who was named is trusted, be it a root or not
        context.load_verify_locations(cadata=authorities)
    return context


@contextlib.contextmanager
def in_file(text: str) -> Iterator[str]:
    """Give the path of a file with this text, which only this process can read and which is gone afterwards."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(_in_memory(text))
        except OSError:  # no such files here, or no /proc
            path = stack.enter_context(_on_disk(text))
        yield path


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    if sys.platform != "linux":
        raise OSError
    with open(os.memfd_create("winpop-pair"), "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor has no path
        file.write(text)
        file.flush()
        path = f"/proc/self/fd/{file.fileno()}"
        os.stat(path)  # noqa: PTH116 - see above
        yield path


@contextlib.contextmanager
def _on_disk(text: str) -> Iterator[str]:
    descriptor, path = tempfile.mkstemp(prefix="winpop-")  # readable for its owner alone
    try:
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(text)
        yield path
    finally:
        Path(path).unlink()
