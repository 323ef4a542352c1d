"""Password hashes of the encrypted password file method: argon2id in the PHC string format (RFC 9106).

Invariant: a password is bytes, compared byte for byte: nothing is trimmed, cut, folded or normalised, and an
empty one never matches. Hashing is slow by design (28 ms here): call it outside of event loops.
"""

import base64
import re
import secrets

from winpop.directory.mailboxes import Kept
from winpop.protocol.sasl import scram_keys
from winpop.terms.refusals import Refusal, not_understood, out_of_reach

# OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
_MEMORY_KIB, _PASSES, _LANES = 19 * 1024, 2, 1
_LONGEST = 248
"""Octets: RFC 2449 §4 gives a command line 255, of which `PASS ` and CRLF take seven."""
ITERATIONS = 20_000
"""Of PBKDF2 for SCRAM: 5 times what RFC 7677 §4 asks for at least. Each client does as much work at each logon."""
_PHC = re.compile(
    r"\$argon2id\$v=19\$m=(?P<memory>[1-9][0-9]{0,6}),t=(?P<passes>[1-9][0-9]{0,2}),p=(?P<lanes>[1-9][0-9]?)"
    r"\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<digest>[A-Za-z0-9+/]{22,86})"
)
_MOST_KIB, _MOST_WORK = 2**18, 2**20  # KiB, and KiB times passes: well under a second here


def check(password: str) -> bytes:
    """Return the octets of a new password. Raises `Refusal` (`bad-password`), which does not quote it."""
    try:
        octets = password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON can bring it
        octets = b""
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


def keep(password: bytes) -> Kept:
    """Return what is kept of a new password: its hash, and beside it keys for SCRAM. Takes some 50 ms."""
    return Kept(make_hash(password), *scram_texts(password))


def scram_texts(password: bytes) -> tuple[str, str]:
    """Return the SCRAM keys of a password for SHA-1 and for SHA-256, with fresh salts, as texts (RFC 5803 §3)."""
    texts = [
        scram_keys.to_text(
            name, scram_keys.derive(password, name, secrets.token_bytes(scram_keys.SALT_OCTETS), ITERATIONS)
        )
        for name in ("SHA-1", "SHA-256")
    ]
    return texts[0], texts[1]


def verify(password_hash: str | None, password: bytes) -> bool:
    """Tell whether the password is right. Without a hash the answer is no, after the same work.

    Raises `Refusal` (`cannot-verify`) where that cannot be found out: no memory, a damaged hash.
    """
    from argon2 import PasswordHasher, exceptions  # see above

    if not password or b"\0" in password or len(password) > _LONGEST:
        return False
    try:
        PasswordHasher().verify(password_hash or _NOBODY, password)
    except exceptions.VerifyMismatchError:
        return False
    except (exceptions.VerificationError, exceptions.InvalidHashError) as error:
        raise out_of_reach("cannot-verify", f"A password cannot be verified: {error}.") from error
    return password_hash is not None


def check_hash(text: str) -> str:
    """Return a hash that was made elsewhere. Raises `Refusal` (`bad-password-hash`).

    Its costs are bounded: whoever could bring a hash of many gigabytes would stop every logon with it.
    """
    match = _PHC.fullmatch(text)
    if (
        match is None
        or not 8 * int(match["lanes"]) <= int(match["memory"]) <= _MOST_KIB  # the least: RFC 9106 §3.1
        or int(match["memory"]) * int(match["passes"]) > _MOST_WORK
        or not (_is_base64(match["salt"]) and _is_base64(match["digest"]))
    ):
        raise _bad_hash()
    return text


def _is_base64(text: str) -> bool:
    """Tell whether this is base64 without padding, and such that encoding gives it back (RFC 4648 §3.5)."""
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return False
    return base64.b64encode(octets).rstrip(b"=").decode("ascii") == text


def _bad_hash() -> Refusal:
    return not_understood(
        "bad-password-hash",
        f"That is not a hash of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash with at most {_MOST_KIB} KiB "
        f"of memory, and memory times passes at most {_MOST_WORK} KiB.",
    )


# The hash of a random password nobody has, at today's costs: what an unknown user is checked against, so that
# it takes as long as a known one.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$WkFlG57QHUr9hFtGqj89Xw$lCLXYSQpcAMXe75SQ3TJJZ5kZ0xCt+lU74jew48mwSU"
