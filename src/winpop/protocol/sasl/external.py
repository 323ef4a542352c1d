"""EXTERNAL (RFC 4422, appendix A): who the client is was shown below, by the certificate of the TLS handshake.

Invariant: nothing is proved here; whether there is a certificate, and whose, is for the methods to say.
"""

from winpop.protocol.sasl.moves import Malformed, Proved, Surroundings
from winpop.protocol.sasl.names import utf8
from winpop.protocol.sasl.run import Run, first
from winpop.terms.credentials import ClientCertificate


def external(_: Surroundings, initial: bytes | None) -> Run:
    """Read whom the client wants to be; empty: whom the certificate names."""
    name = utf8((yield from first(initial)))
    return Malformed() if name is None else Proved(ClientCertificate(name))
