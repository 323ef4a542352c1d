"""Passwords are bytes, compared byte for byte (threats.md A5, A8)."""

import argon2
import pytest

from winpop.auth import passwords
from winpop.protocol.sasl import scram_keys
from winpop.terms.refusals import Kind, Refusal

RIGHT = "S\u00e9cret pass".encode()
# Fixed, since it stands in the names of tests.
HASH = "$argon2id$v=19$m=19456,t=2,p=1$Rkp/NjjDNYoL4oZ1HaqEFA$TL4GjqeGj8Nj/Wa/mceSzHhK7uyWXZ7Cpd0++1IOo8Q"
SALT, DIGEST = HASH.split("$")[-2:]


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes against which something was verified, in order."""
    seen: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(hasher: argon2.PasswordHasher, password_hash: str, password: bytes) -> bool:
        seen.append(password_hash)
        return verify(hasher, password_hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    return seen


@pytest.mark.parametrize("password", ["a", "p\u00e4ssword", " a ", "a" * 248, "\u00fc" * 124, "\udcff\udc80"])
def test_a_password_is_its_octets_up_to_248(password: str) -> None:
    octets = passwords.check(password)
    assert octets.decode("utf-8", "surrogateescape") == password
    assert passwords.verify(passwords.make_hash(octets), octets)


@pytest.mark.parametrize("password", ["", "a" * 249, "\u00fc" * 125, "a\0b", "\0", "a\rb", "a\n", "a\ud800"])
def test_what_cannot_be_sent_cannot_be_a_password_and_is_not_quoted(password: str) -> None:
    with pytest.raises(Refusal) as caught:
        passwords.check(password)
    assert (caught.value.code, caught.value.kind) == ("bad-password", Kind.NOT_UNDERSTOOD)
    assert caught.value.sentence.startswith("A password has 1 to 248 octets")


def test_the_password_matches() -> None:
    assert passwords.verify(HASH, RIGHT)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\0",
        RIGHT + b"\0",
        RIGHT + b"\0anything",
        RIGHT + b" ",
        b" " + RIGHT,
        RIGHT[:-1],
        RIGHT.swapcase(),
        RIGHT.replace("\u00e9".encode(), b"\xe9"),  # the same word in Latin-1
        RIGHT.replace("\u00e9".encode(), "e\u0301".encode()),  # the same word, decomposed
        RIGHT + b"x" * 248,
    ],
)
def test_nothing_else_matches(wrong: bytes) -> None:
    assert not passwords.verify(HASH, wrong)


def test_nothing_is_cut_off_a_long_password() -> None:
    password_hash = passwords.make_hash(b"x" * 247 + b"a")
    assert passwords.verify(password_hash, b"x" * 247 + b"a")
    assert not passwords.verify(password_hash, b"x" * 247 + b"b")


def test_an_unknown_user_costs_the_work_of_a_known_one_and_never_matches(verifications: list[str]) -> None:
    assert not passwords.verify(None, RIGHT)
    assert not passwords.verify(HASH, b"wrong")
    nobody, somebody = map(argon2.extract_parameters, verifications)
    assert nobody == somebody


def test_who_has_no_hash_is_not_let_in_by_the_password_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_NOBODY", HASH)
    assert not passwords.verify(None, RIGHT)


@pytest.mark.parametrize("password", [b"", b"a\0b", b"x" * 249])
@pytest.mark.parametrize("password_hash", [None, HASH])
def test_what_cannot_be_a_password_costs_nothing_whoever_it_is_for(
    verifications: list[str], password_hash: str | None, password: bytes
) -> None:
    assert not passwords.verify(password_hash, password)
    assert verifications == []


def test_a_hash_has_a_salt_of_its_own_and_the_costs_that_are_recommended() -> None:
    assert passwords.make_hash(b"a") != passwords.make_hash(b"a")
    assert HASH.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize(
    "damaged", ["", "secret", HASH[:-5] + "!", "$argon2id$v=19$m=8,t=1,p=99$" + SALT + "$" + DIGEST]
)
def test_a_damaged_hash_says_neither_yes_nor_no(damaged: str) -> None:
    with pytest.raises(Refusal) as caught:
        passwords.verify(damaged or "$", RIGHT)
    assert (caught.value.code, caught.value.kind) == ("cannot-verify", Kind.OUT_OF_REACH)


def test_a_hash_made_elsewhere_is_taken_and_works() -> None:
    made = argon2.PasswordHasher(1, 64, 2, 16, 8).hash(RIGHT)
    assert passwords.check_hash(made) == made
    assert passwords.verify(made, RIGHT)
    assert passwords.check_hash(HASH) == HASH


def _with(costs: str, salt: str = SALT, digest: str = DIGEST, kind: str = "argon2id") -> str:
    return f"${kind}$v=19${costs}${salt}${digest}"


def test_costs_are_taken_up_to_their_bounds() -> None:
    for costs in ("m=262144,t=4,p=99", "m=1024,t=999,p=1", "m=8,t=1,p=1"):
        assert passwords.check_hash(_with(costs)) == _with(costs)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        _with("m=262145,t=2,p=1"),
        _with("m=9999999,t=2,p=1"),
        _with("m=19456,t=54,p=1"),  # a logon must not take many seconds
        _with("m=19456,t=0,p=1"),
        _with("m=0,t=2,p=1"),
        _with("m=7,t=2,p=1"),  # RFC 9106 §3.1: eight KiB a lane at least
        _with("m=64,t=2,p=9"),
        _with("m=19456,t=2,p=100"),
        _with("m=19456,t=2,p=0"),
        _with("m=019456,t=2,p=1"),
        _with("m=19456,t=2,p=1", kind="argon2i"),
        _with("m=19456,t=2,p=1", salt="c2hvcnQ"),
        _with("m=19456,t=2,p=1", salt=SALT + "aaa"),  # 25 characters are no base64, RFC 4648 §3.5
        _with("m=19456,t=2,p=1", salt=SALT[:-1] + "x"),  # bits left over
        _with("m=19456,t=2,p=1", digest="*" * 43),
        _with("m=19456,t=2,p=1", digest=DIGEST + "A" * 90),
        _with("m=19456,t=2,p=1") + "\n",
        " " + _with("m=19456,t=2,p=1"),
        HASH.replace("v=19", "v=16"),
        "$2b$12$WApznUPhDubN0oeveSXHp.Rk0rMbfmhjdHwIeDH3JCTy2B9lRUT6u",
    ],
)
def test_a_hash_that_could_not_be_computed_here_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        passwords.check_hash(text)
    assert (caught.value.code, caught.value.kind) == ("bad-password-hash", Kind.NOT_UNDERSTOOD)


def test_what_is_kept_for_scram_is_right_and_dear_enough_to_guess() -> None:
    """RFC 5803 §3 has the form, RFC 7677 §4 the least of rounds."""
    kept = passwords.keep(b"secret")
    assert passwords.verify(kept.password_hash, b"secret")
    for text, name in ((kept.scram_sha_1, "SHA-1"), (kept.scram_sha_256, "SHA-256")):
        assert text is not None
        hash_name, keys = scram_keys.from_text(text)
        assert hash_name == name
        assert keys.iterations >= 4096
        assert keys == scram_keys.derive(b"secret", name, keys.salt, keys.iterations)
        assert keys != scram_keys.derive(b"Secret", name, keys.salt, keys.iterations)
    assert passwords.keep(b"secret").scram_sha_256 != kept.scram_sha_256
