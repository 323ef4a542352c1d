"""What holds of every mechanism, whatever the client says: it never raises, and one move comes at a time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sasl_talk import SURROUNDINGS, begun
from winpop.protocol.sasl import scram_keys
from winpop.protocol.sasl.mechanisms import MECHANISMS, begin
from winpop.protocol.sasl.moves import (
    Answer,
    Challenge,
    Continue,
    Keys,
    Malformed,
    Move,
    Proved,
    Step,
    Unavailable,
)
from winpop.terms.credentials import Failed, Scram

BOUND = replace(SURROUNDINGS, bindings={"tls-exporter": b"material"}, binding_offered=True)
KEYS = {name: scram_keys.derive(b"pencil", name, b"salt", 1) for name in scram_keys.HASHES}
PIECES = st.sampled_from(
    [
        b"n,,",
        b"y,,",
        b"p=tls-exporter,,",
        b"n=user",
        b",r=",
        b"abc",
        b",a=",
        b"\0",
        b"\x01",
        b"auth=Bearer ",
        b"user=",
        b"=2C",
        b"c=biws",
        f",r=abc{SURROUNDINGS.nonce}".encode(),
        b",p=",
        b"AAAA",
        b" ",
        b"0" * 32,
        b"m=",
        b"\xff",
    ]
)
MESSAGES = st.binary(max_size=60) | st.lists(PIECES, max_size=8).map(b"".join)
ANSWERS: st.SearchStrategy[Answer] = st.sampled_from(
    [Continue(b"token"), Proved(Failed("user")), Malformed(), Unavailable(), *KEYS.values()]
)
ENDS = (Proved, Malformed, Unavailable)


@given(
    mechanism=st.sampled_from(list(MECHANISMS)),
    initial=st.none() | MESSAGES,
    said=st.lists(MESSAGES, min_size=4, max_size=4),
    bound=st.booleans(),
)
def test_whatever_a_client_says_is_followed_by_a_move(
    *, mechanism: str, initial: bytes | None, said: list[bytes], bound: bool
) -> None:
    exchange, move = begun(mechanism, initial, BOUND if bound else SURROUNDINGS)
    for message in said:
        if isinstance(move, Keys):
            move = exchange.supply(KEYS[move.hash_name])
        elif isinstance(move, Step):
            move = exchange.supply(Continue(b"token"))
        else:
            over = isinstance(move, ENDS)
            move = exchange.respond(message)
            assert not over or move == Malformed()
        assert isinstance(move, Move)
        assert not (isinstance(move, Proved) and isinstance(move.credentials, Scram))  # nobody guesses a proof


@given(
    mechanism=st.sampled_from(list(MECHANISMS)),
    initial=st.none() | MESSAGES,
    said=st.lists(MESSAGES | ANSWERS, max_size=6),
)
def test_what_does_not_fit_the_last_move_ends_the_run(
    mechanism: str, initial: bytes | None, said: list[bytes | Answer]
) -> None:
    exchange, move = begun(mechanism, initial)
    for word in said:
        fits = isinstance(word, bytes) == isinstance(move, Challenge) and not isinstance(move, ENDS)
        move = exchange.respond(word) if isinstance(word, bytes) else exchange.supply(word)
        assert isinstance(move, Move)
        assert fits or move == Malformed()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_nobody_vouches_for_a_client_of_scram(mechanism: str) -> None:
    exchange, move = begun(mechanism, b"n,,n=user,r=abc")
    assert isinstance(move, Keys)
    assert exchange.supply(Proved(Scram("user", "SHA-1", b""))) == Malformed()


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS.keys() - {"LOGIN", "CRAM-MD5"}))
def test_a_client_that_speaks_first_and_says_nothing_is_asked(mechanism: str) -> None:
    # RFC 4422 §3: an empty initial response is one, and none is not.
    exchange, move = begun(mechanism, None)
    assert move == Challenge(b"")
    assert exchange.respond(b"") == begun(mechanism, b"")[1] != move


def test_the_table_says_what_crosses_the_wire_and_what_binds() -> None:
    assert {name for name, record in MECHANISMS.items() if record.in_clear} == {
        "PLAIN",
        "LOGIN",
        "OAUTHBEARER",
        "XOAUTH2",
    }
    assert {name for name, record in MECHANISMS.items() if record.binds} == {
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-256-PLUS",
    }


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_names_are_as_sasl_has_them(mechanism: str) -> None:
    assert 1 <= len(mechanism) <= 20
    assert set(mechanism) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@pytest.mark.parametrize("mechanism", ["", "plain", "ANONYMOUS", "SCRAM-SHA-512"])
def test_other_mechanisms_are_not_begun(mechanism: str) -> None:
    with pytest.raises(KeyError):
        begin(mechanism, SURROUNDINGS)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("piece", [b"=2C", b",x=1", b"k=v\x01", b"=", b" ", b"\0", b"bearer "])
@pytest.mark.timeout(5)
def test_long_messages_cost_no_more_than_their_length(mechanism: str, piece: bytes) -> None:
    for lead in (b"n,,n=", b"n,,n=user,r=abc", b"n,,\x01", b"user=joe\x01auth=Bearer ", b""):
        begun(mechanism, lead + piece * (12288 // len(piece)))
