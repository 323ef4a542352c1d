"""What is read from files, what is refused and with which words, what is made, and what is told of a certificate."""

import hashlib
import ipaddress
import string
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from auth.authorities import (
    NOW,
    authority,
    blocks,
    chain_file,
    der_of,
    ec_key,
    issued,
    key_file,
    odd,
    openssl,
    pem_of,
    root_of,
    rsa_key,
)
from winpop.auth import certificates
from winpop.auth.certificates import Pair, client_addresses, facts, make_self_signed, read_authorities, read_pair
from winpop.auth.pem import read_certificates, read_key
from winpop.terms.files import File
from winpop.terms.refusals import Kind, Refusal


def refused(chain: str | bytes, key: str | bytes, now: float = NOW) -> Refusal:
    """Read what must be refused in one sentence that quotes nothing of the key."""
    with pytest.raises(Refusal) as caught:
        read_pair(chain_file(chain), key_file(key), now)
    sentence = caught.value.sentence
    assert sentence.endswith((".", "?"))
    assert "chain.pem" in sentence or "key.pem" in sentence
    assert sentence.isprintable()
    return caught.value


def three() -> tuple[Pair, str]:
    """Return a pair with one authority between itself and the root, and the root."""
    root = trustme.CA()
    pair = issued("mail.example.com", by=root.create_child_ca())
    assert len(blocks(pair.chain)) == 2
    return pair, root_of(root)


def test_a_pair_is_read_with_its_chain() -> None:
    pair, root = three()
    assert blocks(read_pair(chain_file(pair.chain), key_file(pair.private_key), NOW).chain) == blocks(pair.chain)
    assert blocks(read_pair(chain_file(pair.chain + root), key_file(pair.private_key), NOW).chain) == blocks(
        pair.chain + root
    )


def test_one_file_may_hold_both_and_text_around_them() -> None:
    pair = issued("mail.example.com")
    both = "\ufeffBag Attributes\r\n" + (pair.private_key + "subject=CN\n" + pair.chain).replace("\n", "\r\n")
    read = read_pair(chain_file(both), key_file(both), NOW)
    assert "PRIVATE" not in read.chain
    assert read.chain == pair.chain
    assert read.private_key.count("BEGIN") == 1


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_a_key_may_be_in_any_pem_form_and_is_kept_in_one(form: PrivateFormat) -> None:
    pair = odd(key=ec_key())
    octets = openssl("pkey", "-in", "/dev/stdin", "-traditional", given=pair.private_key.encode())
    if form is PrivateFormat.PKCS8:
        octets = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + octets
    assert b"EC PRIVATE KEY" in octets
    assert read_pair(chain_file(pair.chain), key_file(octets), NOW) == pair


@pytest.mark.parametrize(
    "pair",
    [
        lambda: odd(key=rsa_key()),
        lambda: odd(key=ec.generate_private_key(ec.SECP384R1())),
        lambda: odd(key=ed25519.Ed25519PrivateKey.generate()),
        lambda: odd(subject="", names=(x509.DNSName("mail.example.com"),)),
        lambda: odd(extra=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),)),
    ],
)
def test_what_clients_take_is_taken(pair: "object") -> None:
    made = pair()  # type: ignore[operator]  # made when the test runs
    assert read_pair(chain_file(made.chain), key_file(made.private_key), NOW) == made


@pytest.mark.parametrize("where", ["chain", "key"])
@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"", "not-pem"),
        (b" \r\n", "not-pem"),
        (b"\x30\x82\x01\x00\x00", "not-pem"),
        ("-----BEGIN CERTIFICATE-----\n".encode("utf-16"), "not-pem"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "not-pem"),
        (b"-----BEGIN CERTIFICATE-----\n" * 10_000, "not-pem"),
    ],
)
def test_what_is_not_pem_is_refused(where: str, octets: bytes, code: str) -> None:
    pair = issued("mail.example.com")
    refusal = refused(octets, pair.private_key) if where == "chain" else refused(pair.chain, octets)
    assert (refusal.code, refusal.kind) == (code, Kind.NOT_UNDERSTOOD)
    assert f"{where}.pem" in refusal.sentence


def test_files_that_were_swapped_or_hold_something_else() -> None:
    pair = issued("mail.example.com")
    swapped = refused(pair.private_key, pair.chain)
    assert swapped.code == "no-certificate"
    assert "comes first" in swapped.sentence
    other = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
    assert refused(other, pair.private_key).code == "no-certificate"
    assert refused(pair.chain, pair.chain).code == "no-key"
    assert refused(pair.chain, pair.private_key * 2).code == "several-keys"
    assert refused(pair.chain * 21, pair.private_key).code == "too-many-certificates"


def test_damaged_blocks_are_refused() -> None:
    pair = issued("mail.example.com")
    lines = pair.chain.splitlines()
    assert refused("\n".join([*lines[:5], *lines[6:]]), pair.private_key).code == "bad-certificate"
    lines = pair.private_key.splitlines()
    assert refused(pair.chain, "\n".join([lines[0], *lines[2:]])).code == "bad-key"


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_a_key_with_a_passphrase_is_refused(form: PrivateFormat) -> None:
    octets = rsa_key().private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"passphrase"))
    refusal = refused(odd(key=rsa_key()).chain, octets)
    assert refusal.code == "key-encrypted"
    assert "openssl pkey" in refusal.sentence


def test_a_key_of_another_certificate_is_refused() -> None:
    pair, other = issued("mail.example.com"), issued("mail.example.com")
    refusal = refused(pair.chain, other.private_key)
    assert refusal.code == "key-mismatch"
    assert "key.pem" in refusal.sentence
    assert "chain.pem" in refusal.sentence


def test_dates_are_minded_of_every_certificate() -> None:
    old, new = issued("mail.example.com", since=-20, days=-10), issued("mail.example.com", since=2)
    assert refused(old.chain, old.private_key).code == "expired"
    assert "clock" in refused(new.chain, new.private_key).sentence
    assert refused(new.chain, new.private_key).code == "not-yet-valid"
    pair, root = three()
    last = x509.load_pem_x509_certificate(blocks(pair.chain)[0].encode()).not_valid_after_utc.timestamp()
    read_pair(chain_file(pair.chain), key_file(pair.private_key), last)
    assert refused(pair.chain, pair.private_key, last + 1).code == "expired"
    far = x509.load_pem_x509_certificate(root.encode()).not_valid_after_utc.timestamp()
    assert "Authority" not in refused(pair.chain + root, pair.private_key, far + 1).code


def test_a_chain_must_be_in_order_and_whole() -> None:
    pair, root = three()
    leaf, between = blocks(pair.chain)
    for chain in (between + leaf, leaf + root + between):
        refusal = refused(chain, pair.private_key)
        assert refusal.code == "chain-order"
        assert "out of order" in refusal.sentence
    stranger = root_of(trustme.CA())
    for chain in (leaf + root, leaf + stranger, pair.chain + stranger, leaf + leaf, pair.chain + root + stranger):
        assert refused(chain, pair.private_key).code == "chain-broken"


def test_what_is_weak_is_refused() -> None:
    """RFC 9325 §4.5."""
    weak = odd(key=rsa_key(1024))
    assert "1024 bits" in refused(weak.chain, weak.private_key).sentence
    assert refused(weak.chain, weak.private_key).code == "too-weak"
    made = _by_openssl("-sha1", "-addext", "basicConstraints=CA:FALSE")
    refusal = refused(made, pem_of(ec_key()))
    assert (refusal.code, "SHA1" in refusal.sentence) == ("too-weak", True)


def test_what_clients_do_not_take_is_refused() -> None:
    unknown = odd(key=ec.generate_private_key(ec.SECP256K1()))
    assert refused(unknown.chain, unknown.private_key).code == "unsupported-kind"
    old = odd(key=dsa.generate_private_key(2048))
    assert refused(old.chain, old.private_key).code == "unsupported-kind"
    ssh = ec_key().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    assert refused(odd().chain, ssh).code == "unsupported-kind"
    person = odd(extra=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]),))
    assert refused(person.chain, person.private_key).code == "not-for-servers"
    for nobody in (odd(subject="Alice Smith"), odd(subject="")):
        assert refused(nobody.chain, nobody.private_key).code == "no-names"


def test_names_come_from_the_extension_and_else_from_the_subject() -> None:
    """RFC 5280 §4.2.1.6: where there is a subjectAltName, the common name says nothing."""
    names = (
        x509.DNSName("Mail.Example.COM"),
        x509.DNSName("*.example.org"),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        x509.DNSName("mail.example.com"),
        x509.RFC822Name("alice@example.com"),
    )
    assert facts(odd(names=names).chain)[0].names == ("mail.example.com", "*.example.org", "2001:db8::1")
    assert facts(odd(subject="POP.example.com").chain)[0].names == ("pop.example.com",)
    assert facts(odd(subject="192.0.2.1").chain)[0].names == ("192.0.2.1",)
    assert facts(odd(subject="*.example.com").chain)[0].names == ("*.example.com",)
    assert facts(odd(subject="evil\x1b[2J").chain)[0].names == ()


def test_a_wildcard_covers_one_label() -> None:
    """RFC 9525 §6.3."""
    [about] = facts(odd(names=(x509.DNSName("*.example.com"), x509.DNSName("example.com"))).chain)
    assert all(map(about.covers, ["example.com", "mail.example.com"]))
    assert not any(map(about.covers, ["a.mail.example.com", "com", "example.org", "", "*.mail.example.com"]))


def test_days_are_counted_to_the_end() -> None:
    [about] = facts(issued("mail.example.com", days=15).chain)
    assert about.days_left(about.not_after - 86400 * 14) == 14
    assert not about.ends_soon(about.not_after - 86400 * 14)
    assert about.ends_soon(about.not_after - 86400 * 14 + 1)
    assert about.days_left(about.not_after + 1) == -1


def test_authorities_are_read_and_nothing_else() -> None:
    roots = root_of(authority()) + root_of(trustme.CA())
    assert blocks(read_authorities(chain_file(roots), NOW)) == blocks(roots)
    for octets, code in (
        (issued("alice@example.com").chain, "no-authority"),
        (issued("alice@example.com").private_key, "no-certificate"),
        ("", "not-pem"),
    ):
        with pytest.raises(Refusal) as caught:
            read_authorities(chain_file(octets), NOW)
        assert (caught.value.code, "chain.pem" in caught.value.sentence) == (code, True)
    with pytest.raises(Refusal, match="expired"):
        read_authorities(chain_file(roots), NOW + 86400 * 365 * 1000)


def test_an_old_root_may_be_signed_with_sha1_but_nobody_below_it() -> None:
    assert read_authorities(chain_file(_by_openssl("-sha1")), NOW + 3600)


def _by_openssl(*arguments: str) -> bytes:
    command = ("req", "-x509", "-key", "/dev/stdin", "-subj", "/CN=mail.example.com", "-days", "30", *arguments)
    return openssl(*command, given=pem_of(ec_key()).encode())


@pytest.mark.parametrize("host", ["mail.example.com", "localhost", "x" * 63 + ".example.com"])
def test_a_self_signed_certificate_is_as_others_must_be(host: str, tmp_path: Path) -> None:
    pair = make_self_signed(host, NOW)
    assert read_pair(chain_file(pair.chain), key_file(pair.private_key), NOW) == pair
    [about] = facts(pair.chain)
    assert about.names == tuple(dict.fromkeys([host, "localhost"]))
    assert (about.self_signed, about.stand_in, about.days_left(NOW)) == (True, True, 3649)
    parsed = x509.load_pem_x509_certificate(pair.chain.encode())
    assert isinstance(key := parsed.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert not parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    (tmp_path / "own.pem").write_text(pair.chain)
    own = str(tmp_path / "own.pem")
    openssl("verify", "-purpose", "sslserver", "-verify_hostname", host, "-trusted", own, own)


def test_each_self_signed_certificate_is_another() -> None:
    one, other = make_self_signed("localhost", NOW), make_self_signed("localhost", NOW)
    assert one.private_key != other.private_key
    assert one.chain != other.chain


def test_only_what_was_made_here_is_a_stand_in() -> None:
    [own] = facts(odd().chain)
    assert (own.self_signed, own.stand_in) == (True, False)
    [given_out] = facts(issued("mail.example.com").chain)
    assert (given_out.self_signed, given_out.stand_in) == (False, False)
    forged = trustme.CA(organization_name=certificates.STAND_IN)
    assert not facts(issued("mail.example.com", by=forged).chain)[0].stand_in


@pytest.mark.parametrize(("signed_with", "digest"), [("-sha1", "sha256"), ("-sha256", "sha256"), ("-sha384", "sha384")])
def test_the_end_point_is_the_hash_that_openssl_makes(signed_with: str, digest: str) -> None:
    """RFC 5929 §4.1: the hash of the signature, and SHA-256 instead of SHA-1."""
    made = _by_openssl(signed_with)
    der = openssl("x509", "-outform", "DER", given=made)
    assert facts(made.decode())[0].end_point == hashlib.new(digest, der).digest()
    fingerprint = openssl("x509", "-noout", "-fingerprint", f"-{digest}", given=made).strip().rpartition(b"=")[2]
    assert facts(made.decode())[0].end_point == bytes.fromhex(fingerprint.replace(b":", b"").decode())


def test_a_signature_without_a_hash_has_no_end_point() -> None:
    """RFC 5929 §4.1: undefined."""
    assert facts(odd(key=ed25519.Ed25519PrivateKey.generate()).chain)[0].end_point is None
    assert facts(odd(key=rsa_key(), signed_with=hashes.SHA512()).chain)[0].end_point is not None


def test_the_addresses_of_a_client() -> None:
    """RFC 5280 §4.2.1.6: rfc822Name is where they belong; the subject's emailAddress is how it was before."""
    both = odd(email="old@example.com", names=(x509.RFC822Name("alice@example.com"), x509.RFC822Name("a@b.example")))
    assert client_addresses(der_of(both.chain)) == ["alice@example.com", "a@b.example"]
    named = odd(email="old@example.com", names=(x509.DNSName("mail.example.com"),))
    assert client_addresses(der_of(named.chain)) == ["old@example.com"]
    assert client_addresses(der_of(odd().chain)) == []
    assert client_addresses(b"\x30\x03nonsense") == []


def test_a_key_stands_in_no_repr() -> None:
    pair = issued("mail.example.com")
    secret = pair.private_key.splitlines()[1]
    file = key_file(pair.private_key)
    assert secret not in f"{pair!r}{pair}{file!r}{file}{facts(pair.chain)!r}"
    assert str(File("a\x1b[2Jb", b"")) == r"a\x1b[2Jb"


_PAIR = issued("mail.example.com")


@given(st.data())
@settings(max_examples=200)
def test_whatever_is_in_the_files_there_is_a_pair_or_a_refusal(data: st.DataObject) -> None:
    octets = bytearray((_PAIR.chain + _PAIR.private_key).encode())
    letters = (string.ascii_letters + string.digits + "+/=\n -\0").encode()
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(octets) - 1))
        octets[place : place + data.draw(st.integers(0, 2))] = bytes([data.draw(st.sampled_from(letters))])
    sentences = []
    for read in (read_certificates, read_key, lambda file: read_pair(file, file, NOW)):
        try:
            read(chain_file(bytes(octets)))
        except Refusal as refusal:
            sentences.append(refusal.sentence)
    assert all(sentence.isprintable() for sentence in sentences)
