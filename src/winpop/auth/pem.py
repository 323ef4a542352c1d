"""PEM files with certificates and private keys, as administrators have them.

Invariant: each thing that is wrong with a file is one sentence that names the file and why; none quotes what is in it.
Text around the blocks is no error, since many programs write some; a file may hold both, certificates and a key.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from winpop.auth.certificate_checks import damaged
from winpop.terms.files import File
from winpop.terms.refusals import Refusal, not_understood

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

_MOST = 20
"""Certificates in a file: chains have two or three, and what is more costs each handshake."""
_CERTIFICATE, _KEY = ("CERTIFICATE", "X509 CERTIFICATE"), "PRIVATE KEY"


def read_certificates(file: File) -> "list[Certificate]":
    """Return the certificates of a file in its order, at least one.

    Raises `Refusal` (`not-pem`, `no-certificate`, `too-many-certificates`, `bad-certificate`).
    """
    from cryptography import x509  # here, and so below: it takes long to import, and most commands do without

    every = _blocks(file)
    blocks = [octets for label, octets in every if label in _CERTIFICATE]
    if not blocks:
        keys = any(label.endswith(_KEY) for label, _ in every)
        but = ", but a private key: the certificate's file comes first" if keys else ""
        raise not_understood("no-certificate", f"The file {file} has no certificate in it{but}.")
    if len(blocks) > _MOST:
        raise not_understood("too-many-certificates", f"The file {file} has more than {_MOST} certificates in it.")
    try:
        return [x509.load_pem_x509_certificate(octets) for octets in blocks]
    except ValueError:
        raise damaged(file) from None


def read_key(file: File) -> "PrivateKeyTypes":
    """Return the private key of a file.

    Raises `Refusal` (`not-pem`, `no-key`, `several-keys`, `key-encrypted`, `bad-key`, `unsupported-kind`).
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    blocks = [(label, octets) for label, octets in _blocks(file) if label.endswith(_KEY)]
    if not blocks:
        raise not_understood("no-key", f"The file {file} has no private key in it.")
    if len(blocks) > 1:
        raise not_understood("several-keys", f"The file {file} has several private keys in it; leave only one.")
    [(label, octets)] = blocks
    other = Refusal("unsupported-kind", f"The private key in the file {file} is of a kind that is not for TLS.")
    if label.startswith("OPENSSH"):
        raise other
    try:
        if "ENCRYPTED" not in label:
            return load_pem_private_key(octets, None)
    except TypeError:
        pass  # it is encrypted, and only its headers say so
    except UnsupportedAlgorithm:
        raise other from None
    except ValueError:
        raise not_understood("bad-key", f"The private key in the file {file} is damaged.") from None
    raise Refusal(
        "key-encrypted",
        f"The private key in the file {file} is encrypted with a passphrase, which nobody could type when the service "
        "starts; give it without, as 'openssl pkey' writes it.",
    )


def _blocks(file: File) -> list[tuple[str, bytes]]:
    """Return the blocks of a file, each with its label. Raises `Refusal` (`not-pem`)."""
    blocks = list(_scan(file.octets))
    if not blocks:
        what = "is not PEM, which begins with -----BEGIN"
        if b"-----BEGIN" in file.octets:
            what = "is cut short: a -----BEGIN has no -----END"
        elif not file.octets.strip():
            what = "is empty"
        raise not_understood("not-pem", f"The file {file} {what}; 'openssl x509' and 'openssl pkcs12' convert to it.")
    return blocks


def _scan(octets: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the blocks that have an end, in one pass however many have none."""
    label, lines = b"", list[bytes]()
    for line in map(bytes.strip, octets.removeprefix(b"\xef\xbb\xbf").splitlines()):
        if line.startswith(b"-----BEGIN ") and line.endswith(b"-----"):
            label, lines = line[11:-5], [line]
        elif label:
            lines.append(line)
            if line == b"-----END " + label + b"-----":
                yield label.decode("ascii", "replace"), b"\n".join([*lines, b""])
                label = b""
