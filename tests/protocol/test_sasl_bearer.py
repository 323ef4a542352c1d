"""OAUTHBEARER and XOAUTH2: RFC 7628 §3.1, §3.2.2, §3.2.3 and §4.3, RFC 6750 §2.1."""

import base64
import json

import pytest

from protocol.sasl_talk import SURROUNDINGS, ends
from winpop.protocol.sasl.mechanisms import MECHANISMS, begin
from winpop.protocol.sasl.moves import Malformed, Proved
from winpop.terms.credentials import Failed, Token

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
# The example of RFC 7628, section 4.1, as it crosses the wire.
EXAMPLE = base64.b64decode(
    "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52"
    "YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)


def auth(value: str) -> bytes:
    return f"n,a=user@example.com,\x01auth={value}\x01\x01".encode()


@pytest.mark.parametrize(
    ("message", "credentials"),
    [
        (EXAMPLE, Token("user@example.com", TOKEN)),
        (b"n,,\x01auth=Bearer abc\x01\x01", Token("", "abc")),
        (b"y,a=j=2Co=3De,\x01auth=Bearer abc\x01\x01", Token("j,o=e", "abc")),
        (auth("bearer abc"), Token("user@example.com", "abc")),
        (b"n,,\x01auth=Bearer abc\x01unheard=of it\r\n\x01\x01", Token("", "abc")),
        (auth(""), Failed("user@example.com")),  # asks what it would need: RFC 7628 §4.3
        (auth("Bearer"), Failed("user@example.com")),
        (auth("Bearer "), Failed("user@example.com")),
        (auth("Bearer a b"), Failed("user@example.com")),
        (auth("Bearer a=b"), Failed("user@example.com")),
        (auth("Basic YTpi"), Failed("user@example.com")),
    ],
)
def test_oauthbearer(message: bytes, credentials: Token | Failed) -> None:
    assert ends("OAUTHBEARER", message) == Proved(credentials)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",  # ends a failed exchange, and begins none
        b"n,,",
        b"n,,\x01\x01",
        b"n,,\x01host=server.example.com\x01\x01",
        b"n,,\x01auth=Bearer abc\x01",
        b"n,,\x01auth=Bearer abc\x01\x01\x01",
        b"n,,\x01auth=Bearer abc\x01auth=Bearer abd\x01\x01",
        b"n,,auth=Bearer abc\x01\x01",
        b"n,a=,\x01auth=Bearer abc\x01\x01",
        b"n,a=j=2co,\x01auth=Bearer abc\x01\x01",
        b"p=tls-exporter,,\x01auth=Bearer abc\x01\x01",
        b"x,,\x01auth=Bearer abc\x01\x01",
        b"n,,\x01auth=Bearer \xc3\xa4\x01\x01",
        b"n,,\x01auth=Bearer a\0b\x01\x01",
        b"n,,\x01k1=v\x01auth=Bearer abc\x01\x01",
        b"n,a=\xff,\x01auth=Bearer abc\x01\x01",
    ],
)
def test_what_is_not_oauthbearer(message: bytes) -> None:
    assert ends("OAUTHBEARER", message) == Malformed()


@pytest.mark.parametrize(
    ("message", "move"),
    [
        # The example of Google's documentation.
        (
            b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01",
            Proved(Token("someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")),
        ),
        ("user=jörg\x01auth=Bearer abc\x01\x01".encode(), Proved(Token("jörg", "abc"))),
        (b"user=a=b,c\x01auth=Bearer abc\x01\x01", Proved(Token("a=b,c", "abc"))),
        (b"user=\x01auth=Bearer abc\x01\x01", Proved(Token("", "abc"))),
        (b"user=joe\x01auth=Bearer \x01\x01", Proved(Failed("joe"))),
        (b"user=joe\x01auth=abc\x01\x01", Proved(Failed("joe"))),
        (b"", Malformed()),
        (b"user=joe\x01auth=Bearer abc\x01", Malformed()),
        (b"user=joe\x01auth=Bearer abc\x01\x01x", Malformed()),
        (b"user=j\0e\x01auth=Bearer abc\x01\x01", Malformed()),
        (b"user=\xff\x01auth=Bearer abc\x01\x01", Malformed()),
        (b"auth=Bearer abc\x01\x01", Malformed()),
    ],
)
def test_xoauth2(message: bytes, move: Proved | Malformed) -> None:
    assert ends("XOAUTH2", message) == move


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_only_these_two_tell_the_client_more_before_a_refusal(mechanism: str) -> None:
    failure = begin(mechanism, SURROUNDINGS).failure()
    if mechanism in ("OAUTHBEARER", "XOAUTH2"):
        assert failure is not None
        assert json.loads(failure) == {"status": "invalid_token", "schemes": "bearer"}
    else:
        assert failure is None


def test_a_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(ends("OAUTHBEARER", EXAMPLE))
