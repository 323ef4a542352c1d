"""CRAM-MD5 (RFC 2195 §2), and the tokens of GSSAPI and NTLM, which are carried to a context and back."""

import hmac

import pytest

from protocol.sasl_talk import HOSTNAME, NONCE, begun, first_move
from winpop.protocol.sasl.moves import Challenge, Continue, Malformed, Move, Proved, Step, Surroundings, Unavailable
from winpop.terms.credentials import CramMd5, Established, Failed

SENT = b"<1896.697170952@postoffice.reston.mci.net>"
EXAMPLE = Surroundings("1896.697170952", "postoffice.reston.mci.net")
DIGEST = b"b913a602c7eda7a495b4e6e7334d3890"


def answered(response: bytes) -> Move:
    exchange, move = begun("CRAM-MD5", None, EXAMPLE)
    assert move == Challenge(SENT)
    return exchange.respond(response)


def test_the_example_of_cram_md5() -> None:
    assert hmac.new(b"tanstaaftanstaaf", SENT, "md5").hexdigest().encode() == DIGEST
    assert answered(b"tim " + DIGEST) == Proved(CramMd5("tim", SENT, bytes.fromhex(DIGEST.decode())))


@pytest.mark.parametrize("name", ["tim@example.com", "tim and tom", " tim", "jörg", "b913 "])
def test_the_last_space_parts_the_name_from_the_digest(name: str) -> None:
    assert answered(name.encode() + b" " + DIGEST) == Proved(CramMd5(name, SENT, bytes.fromhex(DIGEST.decode())))


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b" ",
        DIGEST,
        b" " + DIGEST,
        b"tim" + DIGEST,
        b"tim " + DIGEST[:-1],
        b"tim " + DIGEST + b"0",
        b"tim " + DIGEST.upper(),
        b"tim " + DIGEST + b" ",
        b"tim " + DIGEST + b"\n",
        b"tim " + b"g" * 32,
        b"tim\t" + DIGEST,
        b"t\0m " + DIGEST,
        b"\xff " + DIGEST,
        b"tim " + "٣".encode() * 32,
    ],
)
def test_what_is_not_cram_md5(response: bytes) -> None:
    assert answered(response) == Malformed()


@pytest.mark.parametrize("initial", [b"", b"tim " + DIGEST])
def test_cram_md5_takes_no_initial_response_for_the_server_speaks_first(initial: bytes) -> None:
    assert first_move("CRAM-MD5", initial) == Malformed()


def test_the_challenge_holds_the_nonce_and_the_name_of_the_server() -> None:
    assert first_move("CRAM-MD5", None) == Challenge(f"<{NONCE}@{HOSTNAME}>".encode())


@pytest.mark.parametrize("mechanism", ["GSSAPI", "NTLM"])
@pytest.mark.parametrize("initial", [None, b"one"])
def test_tokens_go_to_the_context_and_back_until_it_ends(mechanism: str, initial: bytes | None) -> None:
    exchange, move = begun(mechanism, initial)
    if initial is None:
        assert move == Challenge(b"")
        move = exchange.respond(b"one")
    assert move == Step(mechanism, b"one", first=True)
    assert exchange.supply(Continue(b"two")) == Challenge(b"two")
    assert exchange.respond(b"") == Step(mechanism, b"")
    assert exchange.supply(Continue(b"")) == Challenge(b"")
    assert exchange.respond(b"\0three\xff") == Step(mechanism, b"\0three\xff")
    end = Proved(Established(mechanism, "alice@EXAMPLE.COM"))
    assert exchange.supply(end) == end


@pytest.mark.parametrize("mechanism", ["GSSAPI", "NTLM"])
def test_an_empty_initial_response_is_a_token(mechanism: str) -> None:
    assert first_move(mechanism, b"") == Step(mechanism, b"", first=True)


@pytest.mark.parametrize("end", [Proved(Failed("alice")), Malformed(), Unavailable()])
def test_what_the_context_says_last_ends_the_run(end: Proved | Malformed | Unavailable) -> None:
    exchange, _ = begun("NTLM", b"one")
    assert exchange.supply(end) == end
    assert exchange.respond(b"two") == Malformed()


def test_a_token_is_in_no_repr() -> None:
    assert "secret" not in repr(first_move("NTLM", b"secret")) + repr(Continue(b"secret")) + repr(Challenge(b"secret"))
