"""Password hashes of the encrypted password file method: argon2id in the PHC string format (RFC 9106).

Invariant: a password is bytes, compared byte for byte: nothing is trimmed, cut, folded or normalised, and an
empty one never matches. Hashing is slow by design (28 ms here): call it outside of event loops.
"""

import re

from winpop.terms.refusals import Refusal, not_understood

# OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
_MEMORY_KIB, _PASSES, _LANES = 19 * 1024, 2, 1
_LONGEST = 248
"""Octets: RFC 2449 §4 gives a command line 255, of which `PASS ` and CRLF take seven."""
_PHC = re.compile(
    r"\$argon2id\$v=19\$m=(?P<memory>[1-9][0-9]{0,6}),t=(?P<passes>[1-9][0-9]{0,2}),p=(?P<lanes>[1-9][0-9]?)"
    r"\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}"
)
_MOST_KIB, _MOST_PASSES = 2**18, 64


def check(password: str) -> bytes:
    """Return the octets of a new password. Raises `Refusal` (`bad-password`), which does not quote it."""
    octets = password.encode("utf-8", "surrogateescape")
    if not 1 <= len(octets) <= _LONGEST or any(octet in b"\0\r\n" for octet in octets):
        raise not_understood(
            "bad-password",
            f"A password has 1 to {_LONGEST} octets, none of them NUL, CR or LF; choose another.",
        )
    return octets


def make_hash(password: bytes) -> str:
    """Return the hash of a password, with a fresh salt."""
    from argon2 import PasswordHasher  # here: most commands of the tool hash nothing

    return PasswordHasher(_PASSES, _MEMORY_KIB, _LANES).hash(password)


def verify(password_hash: str | None, password: bytes) -> bool:
    """Tell whether the password is right. Without a hash the answer is no, after the same work."""
    from argon2 import PasswordHasher, exceptions  # see above

    if not password or b"\0" in password or len(password) > _LONGEST:
        return False
    try:
        PasswordHasher().verify(password_hash or _NOBODY, password)
    except (exceptions.VerifyMismatchError, exceptions.InvalidHashError):
        return False
    return password_hash is not None


def check_hash(text: str) -> str:
    """Return a hash that was made elsewhere. Raises `Refusal` (`bad-password-hash`).

    Its costs are bounded: whoever could bring a hash of many gigabytes would stop every logon with it.
    """
    match = _PHC.fullmatch(text)
    if match is None or int(match["memory"]) > _MOST_KIB or int(match["passes"]) > _MOST_PASSES:
        raise _bad_hash()
    return text


def _bad_hash() -> Refusal:
    return not_understood(
        "bad-password-hash",
        f"That is not a hash of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash with at most {_MOST_KIB} KiB "
        f"and {_MOST_PASSES} passes.",
    )


# The hash of a random password nobody has, at today's costs: what an unknown user is checked against, so that
# it takes as long as a known one.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$WkFlG57QHUr9hFtGqj89Xw$lCLXYSQpcAMXe75SQ3TJJZ5kZ0xCt+lU74jew48mwSU"
