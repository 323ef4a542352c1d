"""Who has mail in the benchmark: kinds of mailboxes, the same for every server, with their passwords and a certificate.

Invariant: each server gets the same mailboxes with the same mail (the same octets, handed in by the same generator) and
the same certificate; what differs is the domain, where an opponent keeps a kind of mailbox in several ways.
"""

import base64
import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "correct horse"  # noqa: S105 - of mailboxes on loopback that live for a quarter of an hour
DOMAIN = "example.com"
KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kind:
    """Mailboxes of one kind: how many, and each one's messages with their octets.

    `cheap`: in winpop their passwords are hashed with the least parameters, since there are too many of them to hash
    all once; for rows in which no hash is computed anyway.
    """

    name: str
    mailboxes: int
    messages: int = 0
    octets: int = 0
    cheap: bool = False

    def addresses(self, domain: str = DOMAIN) -> list[str]:
        """Return their addresses in a domain."""
        return [f"{self.name}{number}@{domain}" for number in range(self.mailboxes)]


EMPTY = Kind("empty", 700)
HUNDRED = Kind("hundred", 16, 100, 2 * KIB)
MANY = Kind("many", 2, 10_000, 512)
MEDIUM = Kind("medium", 8, 100, 20 * KIB)
LARGE = Kind("large", 4, 10, MIB)
HUGE = Kind("huge", 2, 2, 20 * MIB)
LEAVING = Kind("leaving", 128, 20, 2 * KIB)
INBOX = Kind("inbox", 64)
PROVIDER = Kind("provider", 512)
HELD = Kind("held", 2000, cheap=True)
WARM = 64
LOGON = Kind("logon", WARM + 2000)
"""The first `WARM` of them log on again and again, each of the others once."""
KINDS = (EMPTY, HUNDRED, MANY, MEDIUM, LARGE, HUGE, LEAVING, INBOX, PROVIDER, HELD, LOGON)


def active(count: int, of: int, name: str = "grown") -> list[str]:
    """Return `count` addresses, spread evenly over a population of so many."""
    return [f"{name}{number * of // count}@{DOMAIN}" for number in range(min(count, of))]


def write_users(path: Path, addresses: list[str]) -> Path:
    """Write the file from which the generator takes its users."""
    path.write_text("".join(f"{address},{PASSWORD}\n" for address in addresses))
    return path


def slow_hash() -> str:
    """Return the password's hash as winpop makes it: argon2id, 19 MiB, two passes, one lane."""
    from winpop.auth.passwords import make_hash

    return make_hash(PASSWORD.encode())


def cheap_hash() -> str:
    """Return an argon2id hash of the password with the least parameters that there are."""
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


def plain_digest() -> str:
    """Return the password as Dovecot's quickest scheme that does not keep it readable has it."""
    return "{SHA256}" + base64.b64encode(hashlib.sha256(PASSWORD.encode()).digest()).decode()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate (ECDSA, P-256) that signs itself, and its key: files in PEM."""

    chain: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """Make the certificate that all servers show."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mail.{DOMAIN}")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"mail.{DOMAIN}")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.touch(0o600)
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificate(chain, secret)
