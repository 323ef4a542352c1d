"""The messages of SCRAM that the client sends, by their grammar (RFC 5802 §7).

Invariant: what the client wrote is kept as written where it goes into signatures. The attribute `m`, wherever it
stands, is an extension that we would have to understand, so the message is none (RFC 5802 §5.1).
"""

import base64
import re
from dataclasses import dataclass, field

from winpop.protocol.sasl.names import GS2_HEADER, SASLNAME, unescape, utf8
from winpop.protocol.sasl.scram_keys import BASE64

_EXTENSIONS = r"(?:,[A-Za-ln-z]=[^\0,]+)*"
_NONCE = r"(?P<nonce>[!-+\--~]+)"
_FIRST = re.compile(rf"{GS2_HEADER}(?P<bare>n=(?P<name>{SASLNAME}),r={_NONCE}{_EXTENSIONS})")
_FINAL = re.compile(rf"(?P<signed>c=(?P<binding>{BASE64}),r={_NONCE}{_EXTENSIONS}),p=(?P<proof>{BASE64})")


@dataclass(frozen=True, slots=True)
class First:
    """`client-first-message`. `binding` is the name of the channel binding that the client uses, or None."""

    header: str
    flag: str
    binding: str | None
    authzid: str
    name: str
    nonce: str
    bare: str


@dataclass(frozen=True, slots=True)
class Final:
    """`client-final-message`; `signed` is all of it before the proof."""

    binding: bytes = field(repr=False)
    """The header of the first message and the data of the channel binding."""
    nonce: str
    proof: bytes = field(repr=False)
    signed: str = field(repr=False)


def parse_first(message: bytes) -> First | None:
    """Return what the client says first; None where that is not of this form."""
    match = _FIRST.fullmatch(utf8(message) or "")
    if match is None:
        return None
    authzid, name = unescape(match["authzid"] or ""), unescape(match["name"])
    return First(match["header"], match["flag"], match["binding"], authzid, name, match["nonce"], match["bare"])


def parse_final(message: bytes) -> Final | None:
    """Return what the client says last; None where that is not of this form."""
    match = _FINAL.fullmatch(utf8(message) or "")
    if match is None:
        return None
    binding, proof = (base64.b64decode(match[part]) for part in ("binding", "proof"))
    return Final(binding, match["nonce"], proof, match["signed"])
