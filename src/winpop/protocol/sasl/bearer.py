"""OAUTHBEARER (RFC 7628 §3.1) and XOAUTH2 (Google's, documented with Gmail): an OAuth 2.0 token for a name.

Invariant: only what has the form of a bearer token (RFC 6750 §2.1) becomes one. A message of the right form without
such a token fails like a wrong one: so clients ask what they need one for (RFC 7628 §4.3).
"""

import re

from winpop.protocol.sasl.moves import Malformed, Proved, Surroundings
from winpop.protocol.sasl.names import GS2_HEADER, unescape, utf8
from winpop.protocol.sasl.run import Run, first
from winpop.terms.credentials import Failed, Token

FAILURE = b'{"status":"invalid_token","schemes":"bearer"}'
"""What the client is told when its token is not taken (RFC 7628 §3.2.2)."""

_PAIR = r"[A-Za-z]+=[\t\n\r -~]*\x01"
_OAUTHBEARER = re.compile(rf"{GS2_HEADER}\x01(?P<pairs>(?:{_PAIR})*)\x01")
_XOAUTH2 = re.compile(r"user=(?P<name>[^\0\x01]*)\x01auth=(?P<auth>[ -~]*)\x01\x01")
_BEARER = re.compile(r"bearer +(?P<token>[A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


def oauthbearer(_: Surroundings, initial: bytes | None) -> Run:
    """Read a header that names the user, and pairs of which `auth` has the token; unknown keys are passed over."""
    match = _OAUTHBEARER.fullmatch(utf8((yield from first(initial))) or "")
    if match is None or match["binding"] is not None:  # no binding is defined for it
        return Malformed()
    pairs = [pair.split("=", 1) for pair in match["pairs"].split("\x01")[:-1]]
    given = [value for key, value in pairs if key == "auth"]
    return _token(unescape(match["authzid"] or ""), given[0]) if len(given) == 1 else Malformed()


def xoauth2(_: Surroundings, initial: bytes | None) -> Run:
    """Read `user=NAME ^A auth=Bearer TOKEN ^A ^A`."""
    match = _XOAUTH2.fullmatch(utf8((yield from first(initial))) or "")
    return Malformed() if match is None else _token(match["name"], match["auth"])


def _token(name: str, auth: str) -> Proved:
    match = _BEARER.fullmatch(auth)
    return Proved(Failed(name) if match is None else Token(name, match["token"]))
