"""The keys of SCRAM (RFC 5802 §2.2 and §3), their text form, and SASLprep (RFC 4013 §2)."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramMechanism  # type: ignore[import-untyped]  # it has no types
from scramp.utils import saslprep  # type: ignore[import-untyped]  # it has no types

from winpop.protocol.sasl.saslprep import prepare
from winpop.protocol.sasl.scram_keys import HASHES, SALT_OCTETS, derive, from_text, to_text, unknown
from winpop.terms.credentials import ScramKeys

SIZES = {"SHA-1": 20, "SHA-256": 32}
SALTS = st.binary(min_size=1, max_size=40)
TEXT = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)
SOFT_HYPHEN, NO_BREAK_SPACE, KEY = "\u00ad", "\u00a0", "\U0001f511"


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        # The examples of RFC 4013, section 3.
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u0007", None),
        ("\u0627\u0031", None),
        # And what else it says.
        (f"a{NO_BREAK_SPACE}b", "a b"),
        ("a\u3000b", "a b"),
        ("e\u0301", "\u00e9"),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\u0031\u0627", None),
        ("\u0627a\u0628", None),
        ("\ue000", None),
        ("\ufffd", None),
        ("\u2ff0", None),
        ("\u200e", None),
        ("\U000e0041", None),
        (chr(0xD800), None),
        ("\ufdd0", None),
        ("\u06dd", None),
        ("\u0221", None),  # not in Unicode 3.2
        (KEY, None),
        (SOFT_HYPHEN, ""),
        ("", ""),
    ],
)
def test_saslprep(text: str, prepared: str | None) -> None:
    assert prepare(text) == prepared


@given(st.text())
def test_saslprep_is_that_of_others_and_changes_nothing_twice(text: str) -> None:
    try:
        theirs = saslprep(text)
    except Exception:  # noqa: BLE001 - whatever it raises, it means no
        theirs = None
    assert prepare(text) == theirs
    if theirs is not None:
        assert prepare(theirs) == theirs


@given(
    password=st.text(min_size=1, alphabet=st.characters(codec="ascii", exclude_categories=["Cc"])),
    salt=st.binary(min_size=12, max_size=40),  # others take no shorter one, and no fewer iterations
    iterations=st.integers(4096, 4200),
    hash_name=st.sampled_from(list(HASHES)),
)
def test_keys_are_those_of_others(password: str, salt: bytes, iterations: int, hash_name: str) -> None:
    mechanism = ScramMechanism(f"SCRAM-{hash_name}")
    _, stored_key, server_key, _ = mechanism.make_auth_info(password, iterations, salt)
    assert derive(password.encode(), hash_name, salt, iterations) == ScramKeys(salt, iterations, stored_key, server_key)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pass\u00adwörd", "passwörd"),
        ("passwo\u0308rd", "passwörd"),
        (f"a{NO_BREAK_SPACE}b", "a b"),
        ("\u2168", "IX"),
        ("\uff21", "A"),
    ],
)
def test_a_password_is_the_same_however_it_was_typed(one: str, other: str) -> None:
    assert derive(one.encode(), "SHA-1", b"salt", 1) == derive(other.encode(), "SHA-1", b"salt", 1)


def test_what_cannot_be_prepared_is_taken_as_it_is() -> None:
    passwords = [
        b"a",
        b"a\x07",
        b" a",
        b"a ",
        b"A",
        b"\xff",
        "ä".encode("latin-1"),
        "ä".encode(),
        KEY.encode(),
        unicodedata.normalize("NFD", f"ä{KEY}").encode(),
        f"ä{KEY}".encode(),
        SOFT_HYPHEN.encode(),  # it would become the empty password
        SOFT_HYPHEN.encode() * 2,
        b"\xed\xa0\x80",
    ]
    keys = {derive(password, "SHA-256", b"salt", 1).stored_key for password in passwords}
    assert len(keys) == len(passwords)
    assert derive(b"", "SHA-256", b"salt", 1).stored_key not in keys


def test_the_text_form_is_the_one_that_others_keep() -> None:
    # The salt of the example of RFC 7677; the keys as the example's own messages prove them.
    hash_name, keys = from_text(TEXT)
    assert (hash_name, keys) == ("SHA-256", derive(b"pencil", "SHA-256", keys.salt, 4096))
    assert to_text(hash_name, keys) == TEXT


@given(salt=SALTS, iterations=st.integers(1, 10**9 - 1), hash_name=st.sampled_from(list(HASHES)), data=st.data())
def test_text_gives_back_the_keys(salt: bytes, iterations: int, hash_name: str, data: st.DataObject) -> None:
    size = SIZES[hash_name]
    stored_key, server_key = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    keys = ScramKeys(salt, iterations, stored_key, server_key)
    assert from_text(to_text(hash_name, keys)) == (hash_name, keys)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCRAM-SHA-256", "SCRAM-SHA-1"),
        ("SCRAM-SHA-256", "SCRAM-SHA-512"),
        ("SCRAM-SHA-256", "scram-sha-256"),
        ("SCRAM-", ""),
        ("4096", "0"),
        ("4096", "04096"),
        ("4096", "-1"),
        ("4096", "٤٠٩٦"),
        ("4096", "1" * 5000),
        ("4096:", ""),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22ZaJ0SNY7soEsUEjb6gQ"),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22ZaJ0SNY7soEsUEjb6gR=="),  # bits beyond the last octet
        ("2dU=", "2dU"),
        ("2dU=", "2dU=\n"),
        ("2dU=", "2dU= "),
        ("2dU=", ""),
        ("$WG5d", ":WG5d"),
        ("4qY=:", "4qY=$"),
    ],
)
def test_damaged_text_is_refused_and_not_quoted(old: str, new: str) -> None:
    damaged = TEXT.replace(old, new, 1)
    assert damaged != TEXT
    with pytest.raises(ValueError, match="SCRAM keys") as caught:
        from_text(damaged)
    assert "WG5d" not in str(caught.value)


@given(st.text() | st.integers(0, len(TEXT)).map(lambda cut: TEXT[:cut] + TEXT[cut + 1 :]))
def test_text_is_keys_or_refused(text: str) -> None:
    try:
        hash_name, keys = from_text(text)
    except ValueError:
        return
    assert to_text(hash_name, keys) == text


@given(name=st.text(), hash_name=st.sampled_from(list(HASHES)))
def test_the_keys_of_nobody_are_the_same_each_time(name: str, hash_name: str) -> None:
    keys = unknown(name, hash_name, b"secret", 4096)
    assert keys == unknown(name, hash_name, b"secret", 4096)
    assert (len(keys.salt), keys.iterations) == (SALT_OCTETS, 4096)
    assert (len(keys.stored_key), len(keys.server_key)) == (SIZES[hash_name],) * 2
    assert from_text(to_text(hash_name, keys)) == (hash_name, keys)


def test_the_keys_of_nobody_are_others_for_each_name_installation_and_hash_function() -> None:
    seen = [
        unknown(name, hash_name, secret, 4096)
        for name in ("alice", "bob", "", "\udcff")
        for hash_name in HASHES
        for secret in (b"one", b"other")
    ]
    octets = [part for keys in seen for part in (keys.salt, keys.stored_key[:16], keys.server_key[:16])]
    assert len(set(octets)) == len(octets)


def test_a_name_in_other_case_is_the_same_nobody() -> None:
    # Accounts are found in any case, so a salt that changed with it would tell that there is none.
    assert unknown("Alice@Example.COM", "SHA-1", b"x", 1) == unknown("alice@example.com", "SHA-1", b"x", 1)
