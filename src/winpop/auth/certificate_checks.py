"""What a certificate and its chain must be, so that clients take them and nobody can forge them.

Invariant: each rule that is broken is a `Refusal` of one sentence that names the file, the certificate and the rule.
"""

import time
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from winpop.terms.files import File
from winpop.terms.refusals import Refusal, not_understood, readable

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, ExtensionType

    Extension = TypeVar("Extension", bound=ExtensionType)

_LEAST_RSA = 2048
"""Bits: 112 bits of security, the least that RFC 9325 §4.5 and today's libraries take."""
_CURVES = frozenset(["secp256r1", "secp384r1", "secp521r1"])
_WEAK_HASHES = frozenset(["md5", "sha1"])


def check_kind(certificate: "Certificate", file: File) -> None:
    """Refuse keys and signatures that are weak or unknown to clients (`too-weak`, `unsupported-kind`)."""
    from cryptography.exceptions import UnsupportedAlgorithm  # here, and so below: it takes long to import
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    which = _named(certificate, file)
    other = Refusal("unsupported-kind", f"{which} has a key or signature of a kind that mail clients do not take.")
    try:
        key, signed_with = certificate.public_key(), certificate.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        raise other from None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _LEAST_RSA:
            raise Refusal("too-weak", f"{which} has an RSA key of {key.key_size} bits; it takes {_LEAST_RSA} or more.")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise other
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise other
    is_root = is_authority(certificate) and certificate.issuer == certificate.subject
    # What a root says of itself is believed without its signature.
    if signed_with is not None and signed_with.name in _WEAK_HASHES and not is_root:
        raise Refusal("too-weak", f"{which} is signed with {signed_with.name.upper()}, which can be forged.")


def check_dates(certificates: "list[Certificate]", file: File, now: float) -> None:
    """Refuse what is not valid at this time (`expired`, `not-yet-valid`)."""
    for certificate in certificates:
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        if now > end:
            raise Refusal("expired", f"{_named(certificate, file)} expired on {_day(end)}; get a new one.")
        if now < begin:
            raise Refusal(
                "not-yet-valid",
                f"{_named(certificate, file)} is not valid before {_day(begin)}; is this computer's clock right?",
            )


def check_issuers(chain: "list[Certificate]", file: File) -> None:
    """Refuse a chain in which one is not issued by the next (`chain-order`, `chain-broken`)."""
    for certificate, issuer in pairwise(chain):
        if is_issued_by(certificate, issuer):
            continue
        if any(is_issued_by(certificate, other) for other in chain if other is not certificate):
            raise Refusal(
                "chain-order",
                f"The file {file} is out of order: after each certificate comes the one that it is issued by.",
            )
        raise Refusal(
            "chain-broken",
            f"{_named(certificate, file)} is not issued by the one after it, '{_subject(issuer)}'; take that one out, "
            "or put in the right one.",
        )


def check_server_use(certificate: "Certificate", file: File) -> None:
    """Refuse a certificate that says itself that it is not for servers (`not-for-servers`)."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        uses = extension(certificate, x509.ExtendedKeyUsage)
    except ValueError:
        raise damaged(file) from None
    if uses and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(uses):
        raise Refusal(
            "not-for-servers", f"{_named(certificate, file)} is not for servers: its extended key usage says so."
        )


def is_authority(certificate: "Certificate") -> bool:
    """Tell whether others may be signed by it, as it says itself."""
    from cryptography import x509

    try:
        constraints = extension(certificate, x509.BasicConstraints)
    except ValueError:
        return False
    return constraints is not None and constraints.ca


def extension(certificate: "Certificate", kind: "type[Extension]") -> "Extension | None":
    """Return an extension of a certificate. Raises `ValueError` where its extensions are damaged."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from None


def damaged(file: File) -> Refusal:
    """Make the refusal of a certificate that cannot be read."""
    return not_understood("bad-certificate", f"A certificate in the file {file} is damaged; fetch it once more.")


def is_issued_by(certificate: "Certificate", issuer: "Certificate") -> bool:
    """Tell whether the name and the signature say so."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _named(certificate: "Certificate", file: File) -> str:
    return f"The certificate '{_subject(certificate)}' in the file {file}"


def _subject(certificate: "Certificate") -> str:
    from cryptography.x509.oid import NameOID

    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return readable(str(names[0].value) if names else certificate.subject.rfc4514_string())
    except ValueError:
        return "?"


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
