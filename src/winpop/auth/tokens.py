"""OAuth 2.0 bearer tokens: signed JWTs of one issuer, for the mechanisms OAUTHBEARER and XOAUTH2 (RFC 7628 §3.2).

Rules kept: the algorithm is one of a list without `none` and without shared secrets, and one that the key is made for
(RFC 8725 §3.1); the key is the issuer's own, never one that the token brings or points to (RFC 8725 §3.10); issuer,
audience and times are as RFC 7519 §4.1 has them, and a token of another kind is refused (RFC 8725 §3.11).
Invariant: no part of a token stands in an answer but the address that a valid one holds.
"""

import base64
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from winpop.auth.contract import CannotSay, Wrong
from winpop.auth.issuer_keys import IssuerKeys, Jwk
from winpop.telemetry.log import Log
from winpop.terms.refusals import Refusal

_LARGEST = 8192
"""Octets of a token."""
_LEEWAY = 60
"""Seconds by which the issuer's clock may be ahead of ours."""
_END = 1e12
"""More seconds than any time has. Python reads NaN, Infinity and 1e999 as JSON; NaN is less than nothing."""
_JWS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_KEY_OF: dict[str, tuple[str, tuple[str | None, ...]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", (None,))),
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
"""The type and the curve of a key by the algorithm (RFC 7518 §3.1, RFC 8037 §3.1)."""
_KINDS = (None, "jwt", "at+jwt", "application/at+jwt")
_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
_LEAST_BITS, _MOST_BITS = 2048, 8192
"""Of an RSA key: RFC 7518 §3.3 has the least; with more than the most one signature would take too long."""


@dataclass(frozen=True, slots=True)
class Whose:
    """The token is valid, and its claim holds this text: a mailbox address, not parsed yet."""

    name: str


TokenAnswer = Whose | Wrong | CannotSay


class _RefusedError(Exception):
    """The token is refused; the text says why and holds none of it."""


class Tokens:
    """Checks the tokens of one issuer. Belongs to one event loop, which it never blocks; nothing here raises."""

    def __init__(  # noqa: PLR0913 - four settings, and what tests give it
        self,
        issuer: str,
        audience: str,
        keys: str,
        claim: str,
        log: Log,
        *,
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the settings `oauthissuer`, `oauthaudience`, `oauthkeys` and `oauthclaim`."""
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        self._keys = IssuerKeys(issuer, keys, log, context, clock)
        self._lacking = _lacking(issuer, audience)

    async def check(self, token: str, now: float) -> TokenAnswer:
        """Tell whose token this is; `now` is in seconds since 1970."""
        if self._lacking:
            return CannotSay(self._lacking)
        try:
            header = _header(token)
            keys = await self._keys.find(header.get("kid"))
            claims = _object(_payload(token, header["alg"], keys))
            self._check(claims, now)
            return Whose(self._name(claims))
        except _RefusedError as refused:
            return Wrong(str(refused))
        except Refusal as refusal:
            return CannotSay(refusal.sentence)

    async def close(self) -> None:
        """End what is under way."""
        await self._keys.close()

    def _check(self, claims: dict[str, Any], now: float) -> None:
        """Check issuer, audience and times (RFC 7519 §4.1)."""
        if claims.get("iss") != self._issuer:
            raise _RefusedError("token of another issuer")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise _RefusedError("token for another audience")
        if not now < _time(claims, "exp", 0):
            raise _RefusedError("token expired")
        if not max(_time(claims, "nbf", now), _time(claims, "iat", now)) <= now + _LEEWAY:
            raise _RefusedError("token not valid yet")

    def _name(self, claims: dict[str, Any]) -> str:
        name = claims.get(self._claim)
        if not isinstance(name, str) or not name:
            raise _RefusedError(f"token without the claim {self._claim}")
        if self._claim == "email" and claims.get("email_verified", True) not in (True, "true"):
            raise _RefusedError("token with an e-mail address that its issuer has not verified")
        return name


def _lacking(issuer: str, audience: str) -> str:
    """Return what is missing here for tokens to be checked at all."""
    for name, value in (("oauthissuer", issuer), ("oauthaudience", audience)):
        if not value:
            return f"No token can be checked: the setting {name} is empty; give it with 'winpop set {name}'."
    try:
        import jwt  # noqa: F401 - an optional part; whether it is there, and so that no logon waits for it
    except ImportError:
        return "No token can be checked: PyJWT is missing; install winpop with its part oauth: winpop[oauth]."
    return ""


def _header(token: str) -> dict[str, Any]:
    """Return the header of a token, which nobody has vouched for yet (RFC 7515 §4.1)."""
    parts = _JWS.fullmatch(token) if len(token) <= _LARGEST else None
    if parts is None:
        raise _RefusedError("not a signed token")
    try:
        header = _object(base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), "-_", validate=True))
    except ValueError as error:
        raise _RefusedError("not a signed token") from error
    algorithm, kind, kid = header.get("alg"), header.get("typ"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _KEY_OF:
        raise _RefusedError("token with an algorithm that is not taken")
    if (kind.lower() if isinstance(kind, str) else kind) not in _KINDS:
        raise _RefusedError("token of another kind")
    if "crit" in header:  # RFC 7515 §4.1.11: what must be understood, and we understand no extension
        raise _RefusedError("token with an extension")
    if not isinstance(kid, str | None):
        raise _RefusedError("not a signed token")
    return header


def _payload(token: str, algorithm: str, keys: list[Jwk]) -> bytes:
    """Return what is signed, with the one key that fits. Where several fit and none is named, none is tried."""
    from cryptography.exceptions import UnsupportedAlgorithm  # here: see the next line
    from jwt import PyJWK, PyJWS, PyJWTError  # an optional part, see _lacking

    fitting = [key for key in keys if _fits(key, algorithm)]
    if len(fitting) != 1:
        raise _RefusedError("token signed with a key that the issuer does not have")
    public = {member: text for member, text in fitting[0].items() if member in _PUBLIC and isinstance(text, str)}
    try:
        key = PyJWK(public, algorithm)
        if public["kty"] == "RSA" and not _LEAST_BITS <= key.key.key_size <= _MOST_BITS:
            raise _RefusedError("token signed with an RSA key that is too short or too long")
        payload: bytes = PyJWS().decode_complete(token, key, [algorithm])["payload"]
    except (PyJWTError, UnsupportedAlgorithm, ValueError) as error:  # its text may hold a part of the token
        raise _RefusedError("token with a wrong signature") from error
    return payload


def _fits(key: Jwk, algorithm: str) -> bool:
    """Tell whether the issuer made this key for that (RFC 7517 §4.1, §4.2, §4.3, §4.4)."""
    kind, curves = _KEY_OF[algorithm]
    operations = key.get("key_ops", ["verify"])
    return (
        key.get("kty") == kind
        and (key.get("crv") in curves or kind == "RSA")
        and key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and key.get("alg", algorithm) == algorithm
    )


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _RefusedError("not a signed token") from error
    if not isinstance(found, dict):
        raise _RefusedError("not a signed token")
    return found


def _time(claims: dict[str, Any], name: str, otherwise: float) -> float:
    """Return a claim in seconds since 1970 (RFC 7519 §2, NumericDate)."""
    value = claims.get(name, otherwise)
    if (
        isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _END
    ):  # NaN is less than nothing
        raise _RefusedError(f"token whose claim {name} is no time")
    return value
