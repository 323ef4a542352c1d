"""What the server keeps of a password for SCRAM (RFC 5802 §3), and its text form (RFC 5803).

Invariant: from the keys nobody gets the password but by guessing, each guess as dear as a derivation. Deriving is slow
by design: call it outside of event loops.
"""

import base64
import hashlib
import hmac
import re

from winpop.protocol.sasl.saslprep import prepare
from winpop.terms.credentials import ScramKeys

HASHES = {"SHA-1": "sha1", "SHA-256": "sha256"}
"""The hash functions of SCRAM by the names that the mechanisms give them, as hashlib calls them."""
SALT_OCTETS = 16

BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
"""A pattern: base64 with its padding and nothing else, which the decoder alone does not insist on."""
_TEXT = re.compile(
    rf"SCRAM-(?P<hash>SHA-1|SHA-256)\$(?P<iterations>[1-9][0-9]{{0,8}}):(?P<salt>{BASE64})"
    rf"\$(?P<stored>{BASE64}):(?P<server>{BASE64})"
)


def derive(password: bytes, hash_name: str, salt: bytes, iterations: int) -> ScramKeys:
    """Return the keys of a password; `hash_name` is `SHA-1` or `SHA-256`.

    A password beyond ASCII is prepared first, as clients do it (RFC 5802 §2.2), where it can be; else, and in ASCII, it
    is taken as it is.
    """
    digest = HASHES[hash_name]
    salted = hashlib.pbkdf2_hmac(digest, _prepared(password), salt, iterations)
    stored_key = hashlib.new(digest, hmac.digest(salted, b"Client Key", digest)).digest()
    return ScramKeys(salt, iterations, stored_key, hmac.digest(salted, b"Server Key", digest))


def unknown(name: str, hash_name: str, secret: bytes, iterations: int) -> ScramKeys:
    """Return what stands for the keys of a name that has none: the same each time, and nobody can prove to have them.

    `secret` is the installation's; without it the salt looks like any other. `name` in any case is the same name.
    """
    size = hashlib.new(HASHES[hash_name]).digest_size
    seed = name.casefold().encode("utf-8", "surrogatepass")

    def made(what: bytes, octets: int) -> bytes:
        return hmac.digest(secret, b"\0".join((b"SCRAM", hash_name.encode(), what, seed)), "sha256")[:octets]

    return ScramKeys(made(b"salt", SALT_OCTETS), iterations, made(b"stored key", size), made(b"server key", size))


def to_text(hash_name: str, keys: ScramKeys) -> str:
    """Return the keys as `SCRAM-SHA-256$iterations:salt$stored key:server key`."""
    salt, stored, server = (
        base64.b64encode(octets).decode("ascii") for octets in (keys.salt, keys.stored_key, keys.server_key)
    )
    return f"SCRAM-{hash_name}${keys.iterations}:{salt}${stored}:{server}"


def from_text(text: str) -> tuple[str, ScramKeys]:
    """Return the name of the hash function and the keys. Raises `ValueError` where the text is damaged."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError("not SCRAM keys in the form of RFC 5803")
    salt, stored, server = (base64.b64decode(match[part]) for part in ("salt", "stored", "server"))
    keys = ScramKeys(salt, int(match["iterations"]), stored, server)
    size = hashlib.new(HASHES[match["hash"]]).digest_size
    if not salt or {len(stored), len(server)} != {size} or to_text(match["hash"], keys) != text:
        raise ValueError(f"SCRAM keys without a salt, or not of {size} octets")
    return match["hash"], keys


def _prepared(password: bytes) -> bytes:
    if password.isascii():
        return password
    try:
        prepared = prepare(password.decode("utf-8"))
    except UnicodeDecodeError:
        return password
    return prepared.encode("utf-8") if prepared else password  # one that became empty would be everybody's
