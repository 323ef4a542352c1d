"""Certificates for tests: authorities made by trustme, and those that no good authority would give out."""

import datetime as dt
import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from winpop.auth.certificates import Pair
from winpop.terms.files import File

NOW = dt.datetime.now(dt.UTC).timestamp()
DAY = dt.timedelta(days=1)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


def openssl(*arguments: str, given: bytes = b"", status: int = 0) -> bytes:
    """Run openssl; return what it wrote to standard output."""
    path = shutil.which("openssl")
    if path is None:
        reason = "openssl is not installed; run: sudo apt install openssl"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run([path, *arguments], input=given, capture_output=True, timeout=30, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


@functools.cache
def authority(name: str = "Test Authority") -> trustme.CA:
    return trustme.CA(organization_name=name)


@functools.cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def issued(*names: str, by: trustme.CA | None = None, days: float = 90, since: float = -1) -> Pair:
    """Return a pair that an authority has issued, with the chain but without the root."""
    now = dt.datetime.now(dt.UTC)
    leaf = (by or authority()).issue_cert(*names, not_before=now + since * DAY, not_after=now + days * DAY)
    chain = "".join(blob.bytes().decode() for blob in leaf.cert_chain_pems)
    return Pair(chain, leaf.private_key_pem.bytes().decode())


def root_of(ca: trustme.CA) -> str:
    return ca.cert_pem.bytes().decode()


def odd(  # noqa: PLR0913 - whatever may be odd about a certificate
    *,
    subject: str = "mail.example.com",
    email: str = "",
    names: tuple[x509.GeneralName, ...] = (),
    key: Key | None = None,
    signed_with: hashes.SHA512 | None = None,
    extra: tuple[x509.ExtensionType, ...] = (),
) -> Pair:
    """Return a pair that signs itself."""
    key = key or ec_key()
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []
    attributes += [x509.NameAttribute(NameOID.EMAIL_ADDRESS, email)] if email else []
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(x509.Name(attributes))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 90 * DAY)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extra:
        builder = builder.add_extension(extension, critical=False)
    hash_of = None if isinstance(key, ed25519.Ed25519PrivateKey) else signed_with or hashes.SHA256()
    certificate = builder.sign(key, hash_of)
    return Pair(certificate.public_bytes(Encoding.PEM).decode(), pem_of(key))


def pem_of(key: Key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def der_of(chain: str) -> bytes:
    return x509.load_pem_x509_certificate(chain.encode()).public_bytes(Encoding.DER)


def blocks(pem: str) -> list[str]:
    return [block.public_bytes(Encoding.PEM).decode() for block in x509.load_pem_x509_certificates(pem.encode())]


def chain_file(text: str | bytes) -> File:
    return File("chain.pem", text if isinstance(text, bytes) else text.encode())


def key_file(text: str | bytes) -> File:
    return File("key.pem", text if isinstance(text, bytes) else text.encode())


def written(directory: Path, pair: Pair, name: str = "pair") -> tuple[str, str]:
    """Write a pair into two files; return their paths."""
    chain, key = directory / f"{name}.chain.pem", directory / f"{name}.key.pem"
    chain.write_text(pair.chain)
    key.write_text(pair.private_key)
    return str(chain), str(key)
