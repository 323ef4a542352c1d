"""What a client shows to prove who it is, and what a method keeps to check it.

Invariant: what is secret stands in no repr. A name is as the client wrote it: it is parsed where it is looked up.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Password:
    """A name and its password: USER and PASS, and the SASL mechanisms PLAIN and LOGIN."""

    name: str
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Apop:
    """The MD5 digest of the greeting's `timestamp` (its angle brackets included) and a secret (RFC 1939 §7, APOP)."""

    name: str
    timestamp: bytes
    digest: bytes = field(repr=False)
    """16 octets."""


@dataclass(frozen=True, slots=True)
class CramMd5:
    """The keyed MD5 digest of the server's `challenge` with a secret (RFC 2195)."""

    name: str
    challenge: bytes
    digest: bytes = field(repr=False)
    """16 octets."""


@dataclass(frozen=True, slots=True)
class Scram:
    """A SCRAM exchange whose proof was right (RFC 5802 §3): the client knows the key that hashes to `stored_key`."""

    name: str
    hash_name: str
    """`SHA-1` or `SHA-256`."""
    stored_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """An OAuth 2.0 bearer token (RFC 7628). `name` is who the client says it is for; it may be empty."""

    name: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate that the client showed in the handshake (EXTERNAL); `name` is whom it wants to be, or empty."""

    name: str


@dataclass(frozen=True, slots=True)
class Established:
    r"""A security context that the operating system or a directory has vouched for (GSSAPI, NTLM).

    `principal` is who that is in the words of the mechanism (`alice@REALM`, `DOMAIN\alice`); `name` is whom the
    client wants to be, or empty.
    """

    mechanism: str
    principal: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """An exchange whose proof was wrong: it is refused as a wrong password is, and in the same time."""

    name: str


Credentials = Password | Apop | CramMd5 | Scram | Token | ClientCertificate | Established | Failed


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What the server keeps of a password for SCRAM (RFC 5802 §3); for a name that nobody has, something like it."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
