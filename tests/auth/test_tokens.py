"""OAuth bearer tokens: which are taken, and which are refused (RFC 7628 §3.2). The attacks are those of RFC 8725."""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from hypothesis import given
from hypothesis import strategies as st

from auth.issuer import (
    ALICE,
    AUDIENCE,
    AUTHORITY,
    ISSUER,
    NOW,
    OTHER_RSA,
    RSA,
    Bench,
    Issuer,
    Private,
    answer,
    claims,
    encoded,
    jwk,
    rsa_key,
    signed,
    write,
)
from winpop.auth.contract import CannotSay, Wrong
from winpop.auth.tokens import Whose

P256 = ec.generate_private_key(ec.SECP256R1())
KEYS_OF: dict[str, Private] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": P256,
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the key k1, RSA."""
    path = tmp_path / "keys.json"
    write(path, jwk(RSA, "RS256"))
    return path


def refused(path: Path, token: str, why: str) -> None:
    """Assert that the token is refused for this reason, and that the same bench takes a valid one."""

    async def both() -> None:
        bench = Bench(keys=str(path))
        assert await bench.check(token) == Wrong(why)
        assert await bench.check(signed(RSA, "RS256", claims(ISSUER))) == ALICE

    asyncio.run(both())


# What is taken (RFC 7519 §2 and §4.1, RFC 7518 §3.1, RFC 8037 §3.1).


@pytest.mark.parametrize("algorithm", KEYS_OF)
def test_each_algorithm_of_the_list_is_taken(algorithm: str, file: Path) -> None:
    write(file, jwk(KEYS_OF[algorithm], algorithm))
    assert answer(file, signed(KEYS_OF[algorithm], algorithm, claims(ISSUER))) == ALICE


def test_eddsa_is_also_ed448(file: Path) -> None:
    key = ed448.Ed448PrivateKey.generate()
    write(file, jwk(key, "EdDSA"))
    assert answer(file, signed(key, "EdDSA", claims(ISSUER))) == ALICE


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", AUDIENCE]},
        {"exp": NOW + 0.5},
        {"nbf": NOW + 59, "iat": NOW + 59},
        {"iat": None},
        {"email_verified": True},
        {"email_verified": "true"},
    ],
)
def test_claims_that_are_taken(changes: dict[str, object], file: Path) -> None:
    assert answer(file, signed(RSA, "RS256", claims(ISSUER, **changes))) == ALICE


def test_the_claim_is_a_setting(file: Path) -> None:
    token = signed(RSA, "RS256", claims(ISSUER, upn="bob@example.com", email_verified=False))
    assert answer(file, token, claim="upn") == Whose("bob@example.com")


@pytest.mark.parametrize("kind", [None, "jwt", "at+jwt", "application/at+JWT"])
def test_kinds_of_tokens_that_are_taken(kind: str | None, file: Path) -> None:
    assert answer(file, signed(RSA, "RS256", claims(ISSUER), typ=kind)) == ALICE


def test_a_token_that_names_no_key_is_taken_where_the_issuer_has_one(file: Path) -> None:
    token = signed(RSA, "RS256", claims(ISSUER), kid=None)
    assert answer(file, token) == ALICE
    write(file, jwk(RSA, "RS256"), jwk(P256, "ES256", "k2"))  # for this algorithm it is still one
    assert answer(file, token) == ALICE
    write(file, jwk(RSA, "RS256"), jwk(OTHER_RSA, "RS256", "k2"))
    assert answer(file, token) == Wrong("token signed with a key that the issuer does not have")


# What is refused (RFC 8725 §3.1, §3.10 and §3.11).


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": ISSUER + "/"}, "token of another issuer"),
        ({"iss": None}, "token of another issuer"),
        ({"iss": [ISSUER]}, "token of another issuer"),
        ({"aud": "other"}, "token for another audience"),
        ({"aud": None}, "token for another audience"),
        ({"aud": ["other", [AUDIENCE]]}, "token for another audience"),
        ({"aud": {AUDIENCE: 1}}, "token for another audience"),
        ({"exp": NOW}, "token expired"),
        ({"exp": None}, "token expired"),
        ({"exp": str(NOW + 300)}, "token whose claim exp is no time"),
        ({"exp": True}, "token whose claim exp is no time"),
        ({"exp": float("nan")}, "token whose claim exp is no time"),
        ({"exp": float("inf")}, "token whose claim exp is no time"),
        ({"exp": 10**400}, "token whose claim exp is no time"),
        ({"nbf": NOW + 61}, "token not valid yet"),
        ({"iat": NOW + 61}, "token not valid yet"),
        ({"nbf": {}}, "token whose claim nbf is no time"),
        ({"email": None}, "token without the claim email"),
        ({"email": ""}, "token without the claim email"),
        ({"email": ["alice@example.com"]}, "token without the claim email"),
        ({"email_verified": False}, "token with an e-mail address that its issuer has not verified"),
        ({"email_verified": "false"}, "token with an e-mail address that its issuer has not verified"),
    ],
)
def test_claims_that_are_refused(changes: dict[str, object], why: str, file: Path) -> None:
    refused(file, signed(RSA, "RS256", claims(ISSUER, **changes)), why)


def test_a_token_without_a_signature_is_refused(file: Path) -> None:
    text = encoded(json.dumps(claims(ISSUER)).encode()).decode()
    for algorithm in ("none", "None", "NONE", "nOnE"):
        head = encoded(json.dumps({"alg": algorithm, "kid": "k1"}).encode()).decode()
        refused(file, f"{head}.{text}.", "not a signed token")
        refused(file, f"{head}.{text}.AAAA", "token with an algorithm that is not taken")


def test_the_public_key_is_no_shared_secret(file: Path) -> None:
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    start = b".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "k1"}, claims(ISSUER)))
    for secret in (pem, pem.rstrip(), json.dumps(jwk(RSA, "RS256")).encode()):
        token = start + b"." + encoded(hmac.digest(secret, start, hashlib.sha256))
        refused(file, token.decode(), "token with an algorithm that is not taken")


def test_a_shared_secret_among_the_keys_is_not_used(file: Path) -> None:
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode(), "kid": "k2"}
    write(file, jwk(RSA, "RS256"), secret)
    refused(file, signed(RSA, "RS256", claims(ISSUER), "k2"), "token signed with a key that the issuer does not have")


@pytest.mark.parametrize(
    ("key", "algorithm", "members"),
    [
        (RSA, "RS256", {"alg": "RS512"}),
        (RSA, "RS256", {"use": "enc"}),
        (RSA, "RS256", {"key_ops": ["encrypt"]}),
        (RSA, "RS256", {"key_ops": "verify"}),
        (KEYS_OF["ES384"], "ES384", {"alg": "ES256"}),
    ],
)
def test_a_key_is_used_for_what_it_was_made_for(
    key: Private, algorithm: str, members: dict[str, object], file: Path
) -> None:  # RFC 7517 §4.1, §4.2, §4.3 and §4.4
    write(file, jwk(RSA, "RS256"), jwk(key, algorithm, "k2", **members))
    refused(file, signed(key, algorithm, claims(ISSUER), "k2"), "token signed with a key that the issuer does not have")


@pytest.mark.parametrize("bits", [1024, 8200])
def test_rsa_keys_have_a_sensible_length(bits: int, file: Path) -> None:  # RFC 7518 §3.3
    short = rsa_key(1024)
    public = jwk(short, "RS256", "k2")
    if bits > 8192:
        public["n"] = encoded(b"\xff" * (bits // 8)).decode()
    write(file, jwk(RSA, "RS256"), public)
    token = signed(short, "RS256", claims(ISSUER), "k2")
    refused(file, token, "token signed with an RSA key that is too short or too long")


def test_a_key_that_is_none_is_a_wrong_signature(file: Path) -> None:
    broken = [
        {"kty": "RSA", "kid": "k2"},
        {"kty": "RSA", "kid": "k2", "n": 5, "e": ["AQAB"]},
        {"kty": "RSA", "kid": "k2", "n": "", "e": ""},
        {"kty": "RSA", "kid": "k2", "n": "!!", "e": "AQAB"},
    ]
    for key in broken:
        write(file, jwk(RSA, "RS256"), key)
        refused(file, signed(RSA, "RS256", claims(ISSUER), "k2"), "token with a wrong signature")


def test_keys_that_the_token_brings_or_points_to_are_ignored(file: Path) -> None:
    with Issuer(AUTHORITY) as issuer:
        issuer.publish(jwk(OTHER_RSA, "RS256"))
        place = f"{issuer.url}/keys"
        brought = {"jku": place, "x5u": place, "jwk": jwk(OTHER_RSA, "RS256"), "x5c": ["AA=="]}
        refused(file, signed(OTHER_RSA, "RS256", claims(ISSUER), **brought), "token with a wrong signature")
        assert issuer.asked == []


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}])
def test_extensions_are_refused(header: dict[str, object], file: Path) -> None:  # RFC 7515 §4.1 and §4.1.11
    refused(file, signed(RSA, "RS256", claims(ISSUER), **header), "token with an extension")


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "secevent+jwt", "", 1, ["JWT"]])
def test_tokens_of_another_kind_are_refused(kind: object, file: Path) -> None:
    refused(file, signed(RSA, "RS256", claims(ISSUER), typ=kind), "token of another kind")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d.e",
        "a.b.c\n",
        "\x00.\x00.\x00",
        "é.é.é",
        "W10.W10.W10",
        encoded(b"[" * 5000).decode() + ".e30.AA",
        encoded(b'{"alg":' + b"9" * 5000).decode() + ".e30.AA",
        encoded(b'{"alg":"RS256","kid":["k1"]}').decode() + ".e30.AA",
    ],
)
def test_garbage_is_no_token(token: str, file: Path) -> None:
    refused(file, token, "not a signed token")


@pytest.mark.parametrize("payload", [b"[]", b"null", b"{", b"\xff", b'{"iss":' + b"[" * 5000])
def test_a_signature_over_garbage_is_refused(payload: bytes, file: Path) -> None:
    refused(file, signed(RSA, "RS256", payload), "not a signed token")


def test_a_token_has_at_most_8192_octets(file: Path) -> None:
    short = signed(RSA, "RS256", claims(ISSUER, pad=""))
    room = 8192 - len(short)
    pad = "x" * (room * 3 // 4)
    while len(longest := signed(RSA, "RS256", claims(ISSUER, pad=pad))) > 8192:
        pad = pad[:-1]
    assert len(longest) > 8188
    assert answer(file, longest) == ALICE
    refused(file, signed(RSA, "RS256", claims(ISSUER, pad=pad + "xxxx")), "not a signed token")
    refused(file, "x" * 4_000_000, "not a signed token")


_TOKEN = signed(RSA, "RS256", claims(ISSUER))
_HEADERS = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    path = tmp_path_factory.mktemp("tokens") / "keys.json"
    write(path, jwk(RSA, "RS256"))
    return Bench(keys=str(path))


@given(where=st.integers(0, len(_TOKEN) - 2), to=st.characters(min_codepoint=32, max_codepoint=126))
def test_a_token_that_was_touched_anywhere_is_refused(bench: Bench, where: int, to: str) -> None:
    touched = _TOKEN[:where] + to + _TOKEN[where + 1 :]  # the last character also holds bits that mean nothing
    said = asyncio.run(bench.check(touched))
    assert said == ALICE if touched == _TOKEN else isinstance(said, Wrong)


@given(st.dictionaries(_HEADERS, st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_no_header_makes_it_raise(bench: Bench, header: dict[str, object]) -> None:
    kid = header.pop("kid", "k1")
    head = encoded(json.dumps({"alg": "RS256", "kid": kid} | header).encode()).decode()
    said = asyncio.run(bench.check(signed(RSA, "RS256", claims(ISSUER), kid, **header)))
    assert said == ALICE or isinstance(said, Wrong)
    assert isinstance(asyncio.run(bench.check(f"{head}.e30.AAAA")), Wrong)


@pytest.mark.parametrize(("issuer", "audience", "name"), [("", AUDIENCE, "oauthissuer"), (ISSUER, "", "oauthaudience")])
def test_without_its_settings_no_token_is_taken(issuer: str, audience: str, name: str, file: Path) -> None:
    token = signed(RSA, "RS256", claims(issuer, aud=audience))
    said = asyncio.run(Bench(issuer, str(file), audience=audience).check(token))
    assert isinstance(said, CannotSay)
    assert f"the setting {name} is empty" in said.why


def test_without_pyjwt_no_token_is_taken_and_the_log_is_told_what_to_install(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    said = asyncio.run(Bench(keys=str(file)).check(_TOKEN))
    assert isinstance(said, CannotSay)
    assert "winpop[oauth]" in said.why


def test_no_answer_holds_a_part_of_a_token(file: Path) -> None:
    for token in (_TOKEN[:-4], _TOKEN.replace(".", ".A"), signed(RSA, "RS256", claims(ISSUER, iss="CaNaRy"))):
        said = answer(file, token)
        assert isinstance(said, Wrong)
        assert not any(token[i : i + 6] in said.why for i in range(len(token) - 6))
        assert "CaNaRy" not in said.why
