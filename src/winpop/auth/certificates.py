"""Certificates and private keys: pairs are read and checked, a self-signed one is made, and what is in one is told.

Names are those of the extension subjectAltName (RFC 5280 §4.2.1.6); where it has none, the common name.
Invariant: a `Pair` that was read or made here can be shown to clients: its key is the certificate's, its chain is whole
and in order, and nothing in it is weak, expired or not valid yet. A private key stands in no repr and no sentence.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from winpop.auth.certificate_checks import (
    check_dates,
    check_issuers,
    check_kind,
    check_server_use,
    damaged,
    extension,
    is_authority,
    is_issued_by,
)
from winpop.auth.pem import read_certificates, read_key
from winpop.terms.files import File
from winpop.terms.refusals import Refusal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate, Name
    from cryptography.x509.oid import ObjectIdentifier

STAND_IN = "winpop, until there is another certificate"
"""The organization in self-signed certificates that are made here; they go when there is another pair."""

_SOON = 14
"""Days before its end from which a certificate is warned about."""
_DAY = 86400
_YEARS = 10
_LONGEST_COMMON_NAME = 64
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, itself first, and its private key (PKCS #8, not encrypted), both PEM."""

    chain: str
    private_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is in a certificate. Times are seconds since 1970, UTC."""

    names: tuple[str, ...]
    """Host names in lower case, `*.example.com` among them, and IP addresses; each once."""
    subject: str
    issuer: str
    not_before: int
    not_after: int
    self_signed: bool
    stand_in: bool
    """It was made by `make_self_signed`."""
    end_point: bytes | None = field(repr=False)
    """The channel binding tls-server-end-point; None where the RFC gives it none."""

    def days_left(self, now: float) -> int:
        """Return for how many whole days it is still valid; negative where it has expired."""
        return int((self.not_after - now) // _DAY)

    def ends_soon(self, now: float) -> bool:
        """Tell whether a person should be warned that it expires, or has expired."""
        return self.days_left(now) < _SOON

    def covers(self, hostname: str) -> bool:
        """Tell whether a client that looks for this host takes the certificate (RFC 9525 §6.3)."""
        return hostname in self.names or "*." + hostname.partition(".")[2] in self.names


def facts(chain: str) -> tuple[Facts, ...]:
    """Return what is in each certificate of a stored chain, at least one. Raises `Refusal` where one is damaged."""
    file = File("of the database", chain.encode())
    try:
        return tuple(_facts(certificate) for certificate in read_certificates(file))
    except ValueError:
        raise damaged(file) from None


def read_pair(chain_file: File, key_file: File, now: float) -> Pair:
    """Return the pair in two files, or in one that is given twice.

    Raises `Refusal`: the sentence names the file and says what is wrong with it.
    """
    chain = read_certificates(chain_file)
    key = read_key(key_file)
    for certificate in chain:
        check_kind(certificate, chain_file)
    public = key.public_key()
    if chain[0].public_key() != public:
        if any(certificate.public_key() == public for certificate in chain):
            raise Refusal(
                "chain-order",
                f"The file {chain_file} is out of order: the certificate that the private key belongs to comes first.",
            )
        raise Refusal(
            "key-mismatch",
            f"The private key in the file {key_file} is not that of the certificate in the file {chain_file}.",
        )
    check_dates(chain, chain_file, now)
    check_issuers(chain, chain_file)
    check_server_use(chain[0], chain_file)
    try:
        names = _names(chain[0])
    except ValueError:
        raise damaged(chain_file) from None
    if not names:
        raise Refusal("no-names", f"The certificate in the file {chain_file} has no host name in it.")
    return Pair(_pem(chain), _key_pem(key))


def read_authorities(file: File, now: float) -> str:
    """Return, as PEM, the certificates of the authorities that clients' must be signed by.

    Raises `Refusal`: the sentence names the file and says what is wrong with it.
    """
    certificates = read_certificates(file)
    for certificate in certificates:
        check_kind(certificate, file)
        if not is_authority(certificate):
            raise Refusal(
                "no-authority",
                f"The file {file} has a certificate in it that is no authority's; nothing can be signed by it.",
            )
    check_dates(certificates, file, now)
    return _pem(certificates)


def make_self_signed(hostname: str, now: float) -> Pair:
    """Make a certificate for this host that signs itself, ECDSA with P-256, valid for ten years."""
    import datetime as dt  # here, and so below: it takes long to import, and most commands do without

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, STAND_IN)]
    if len(hostname) <= _LONGEST_COMMON_NAME:
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, hostname))
    today = dt.datetime.fromtimestamp(now, dt.UTC).replace(microsecond=0)
    names = dict.fromkeys([hostname, "localhost"])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))  # for clients whose clock is slow
        .not_valid_after(today + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, **usage, encipher_only=False, decipher_only=False), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(_pem([certificate]), _key_pem(key))


def client_addresses(certificate: bytes) -> list[str]:
    """Return the e-mail addresses in a client's certificate (DER): rfc822Name, else emailAddress of the subject.

    They are as the certificate has them (RFC 5280 §4.2.1.6); one that cannot be read has none.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        parsed = x509.load_der_x509_certificate(certificate)
        found = extension(parsed, x509.SubjectAlternativeName)
        addresses = found.get_values_for_type(x509.RFC822Name) if found is not None else []
        return addresses or _attributes(parsed.subject, NameOID.EMAIL_ADDRESS)
    except ValueError:
        return []


def _facts(certificate: "Certificate") -> Facts:
    """Raise `ValueError` where extensions or names are damaged."""
    from cryptography.x509.oid import NameOID

    self_signed = is_issued_by(certificate, certificate)
    return Facts(
        _names(certificate),
        _shown(certificate.subject),
        _shown(certificate.issuer),
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
        self_signed,
        self_signed and _attributes(certificate.subject, NameOID.ORGANIZATION_NAME) == [STAND_IN],
        _end_point(certificate),
    )


def _names(certificate: "Certificate") -> tuple[str, ...]:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    found = extension(certificate, x509.SubjectAlternativeName)
    names = [name.lower() for name in found.get_values_for_type(x509.DNSName)] if found is not None else []
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)] if found is not None else []
    if not names and not addresses:
        names = [name.lower() for name in _attributes(certificate.subject, NameOID.COMMON_NAME)]
        addresses = [name for name in names if _is_address(name)]
    hosts = [name for name in names if _NAME.fullmatch(name) and not _is_address(name)]
    return tuple(dict.fromkeys([*hosts, *addresses]))


def _end_point(certificate: "Certificate") -> bytes | None:
    """Return the binding tls-server-end-point (RFC 5929 §4.1): a hash by the signature's, never by MD5 or SHA-1."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes

    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:  # such as Ed25519: not one hash
        return None
    return certificate.fingerprint(hashes.SHA256() if algorithm.name in {"md5", "sha1"} else algorithm)


def _shown(name: "Name") -> str:
    """Return what people call it by: organization and common name, or all there is."""
    from cryptography.x509.oid import NameOID

    parts = [*_attributes(name, NameOID.ORGANIZATION_NAME), *_attributes(name, NameOID.COMMON_NAME)]
    return ", ".join(parts) or name.rfc4514_string()


def _attributes(name: "Name", oid: "ObjectIdentifier") -> list[str]:
    return [text for attribute in name.get_attributes_for_oid(oid) if isinstance(text := attribute.value, str)]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _pem(certificates: "list[Certificate]") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def _key_pem(key: "PrivateKeyTypes") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
