"""PLAIN, LOGIN and EXTERNAL: RFC 4616 §2, and RFC 4422 §3 on who speaks first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sasl_talk import begun, ends, first_move
from winpop.protocol.sasl.moves import Challenge, Malformed, Proved
from winpop.terms.credentials import ClientCertificate, Failed, Password

PASSWORDS = st.binary(min_size=1).filter(lambda octets: b"\0" not in octets)
NAMES = st.text(min_size=1).filter(lambda text: "\0" not in text)


@pytest.mark.parametrize(
    ("message", "credentials"),
    [
        (b"\0tim\0tanstaaftanstaaf", Password("tim", b"tanstaaftanstaaf")),  # the examples of RFC 4616, section 4
        (b"Ursel\0Kurt\0xipj3plmq", Failed("Kurt")),
        (b"tim\0tim\0x", Password("tim", b"x")),
        (b"TIM@example.COM\0tim@Example.com\0x", Password("tim@Example.com", b"x")),
        ("\0jörg@example.com\0pässwörd".encode(), Password("jörg@example.com", "pässwörd".encode())),
        (b"\0tim\0 \xff\x01 \r\n ", Password("tim", b" \xff\x01 \r\n ")),
        (b"tim\0tim@example.com\0x", Failed("tim@example.com")),
    ],
)
def test_plain(message: bytes, credentials: Password | Failed) -> None:
    assert ends("PLAIN", message) == Proved(credentials)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"tim",
        b"tim\0x",
        b"\0tim\0",  # an empty password would be an anonymous bind
        b"tim\0tim\0",
        b"\0\0x",
        b"tim\0\0x",
        b"\0\0",
        b"\0tim\0pass\0word",
        b"\0tim\0password\0",
        b"\0\xff\xfe\0x",
        b"\xff\0tim\0x",
        b"\0tim\xed\xa0\x80\0x",
    ],
)
def test_what_is_not_plain(message: bytes) -> None:
    assert ends("PLAIN", message) == Malformed()


@given(name=NAMES, password=PASSWORDS)
def test_a_password_is_taken_octet_for_octet(name: str, password: bytes) -> None:
    expected = Proved(Password(name, password))
    assert first_move("PLAIN", b"\0" + name.encode() + b"\0" + password) == expected
    exchange, _ = begun("LOGIN", name.encode())
    assert exchange.respond(password) == expected


@pytest.mark.parametrize("early", [False, True])
def test_login_prompts_for_a_name_that_was_not_given_and_a_password(early: bool) -> None:  # noqa: FBT001 - a parameter
    exchange, move = begun("LOGIN", b"tim" if early else None)
    if not early:
        assert move == Challenge(b"Username:")
        move = exchange.respond(b"tim")
    assert move == Challenge(b"Password:")
    assert exchange.respond(b"secret") == Proved(Password("tim", b"secret"))


@pytest.mark.parametrize("name", [b"", b"\xff", b"a\0b"])
def test_login_wants_a_name(name: bytes) -> None:
    assert first_move("LOGIN", name) == Malformed()
    exchange, _ = begun("LOGIN", None)
    assert exchange.respond(name) == Malformed()


@pytest.mark.parametrize("password", [b"", b"\0", b"secret\0"])
def test_login_wants_a_password(password: bytes) -> None:
    exchange, _ = begun("LOGIN", b"tim")
    assert exchange.respond(password) == Malformed()


@pytest.mark.parametrize(
    ("message", "move"),
    [
        (b"", Proved(ClientCertificate(""))),  # as in RFC 4422, appendix A
        (b"fred@example.com", Proved(ClientCertificate("fred@example.com"))),
        ("jörg".encode(), Proved(ClientCertificate("jörg"))),
        (b"fred\0", Malformed()),
        (b"\xc3", Malformed()),
    ],
)
def test_external(message: bytes, move: Proved | Malformed) -> None:
    assert ends("EXTERNAL", message) == move


def test_a_password_is_in_no_repr() -> None:
    assert "secret" not in repr(first_move("PLAIN", b"\0tim\0secret"))
    exchange, _ = begun("LOGIN", b"tim")
    assert "secret" not in repr(exchange.respond(b"secret")) + repr(exchange)
