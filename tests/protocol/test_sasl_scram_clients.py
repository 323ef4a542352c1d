"""SCRAM against a client that others wrote (scramp), with and without the binding of RFC 5929."""

from dataclasses import replace

import pytest
from scramp import ScramClient, ScramException  # type: ignore[import-untyped]  # it has no types

from protocol.sasl_talk import SURROUNDINGS, begun
from winpop.protocol.sasl import scram_keys
from winpop.protocol.sasl.moves import Challenge, Keys, Malformed, Move, Proved, Surroundings
from winpop.terms.credentials import Failed, Scram

CERTIFICATE = ("tls-server-end-point", b"digest of the certificate")
BOUND = replace(SURROUNDINGS, bindings=dict([CERTIFICATE]), binding_offered=True)
MECHANISMS = ["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]


def logged_on(client: ScramClient, password: str, surroundings: Surroundings) -> Move:
    """Let the client log on where the account has this password; return the last move."""
    exchange, move = begun(client.mechanism_name, client.get_client_first().encode(), surroundings)
    if not isinstance(move, Keys):
        return move
    move = exchange.supply(scram_keys.derive(password.encode(), move.hash_name, b"salt of the account", 4096))
    assert isinstance(move, Challenge)
    client.set_server_first(move.data.decode())
    move = exchange.respond(client.get_client_final().encode())
    if not isinstance(move, Challenge):
        return move
    client.set_server_final(move.data.decode())  # it checks our proof
    return exchange.respond(b"")


def client_of(mechanism: str, password: str, binding: tuple[str, bytes] = CERTIFICATE) -> ScramClient:
    return ScramClient(
        [mechanism], "alice,=@example.com", password, channel_binding=binding if mechanism.endswith("-PLUS") else None
    )


@pytest.mark.parametrize("password", ["pencil", "pässwörd", "I\u00adX", "\u2168", "a\u00a0b", "\U0001f511 key"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_client_of_others_comes_in_with_the_right_password(mechanism: str, password: str) -> None:
    try:
        client = client_of(mechanism, password)
        move = logged_on(client, password, BOUND)
    except ScramException:
        assert password == "\U0001f511 key"  # it prepares no code points younger than Unicode 3.2
        return
    assert isinstance(move, Proved)
    assert isinstance(move.credentials, Scram)
    assert move.credentials.name == "alice,=@example.com"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_client_of_others_does_not_come_in_with_a_wrong_one(mechanism: str) -> None:
    assert logged_on(client_of(mechanism, "pencil"), "Pencil", BOUND) == Proved(Failed("alice,=@example.com"))


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_a_client_of_others_sees_who_stands_between(mechanism: str) -> None:
    client = client_of(mechanism, "pencil", ("tls-server-end-point", b"digest of another certificate"))
    assert logged_on(client, "pencil", BOUND) == Proved(Failed("alice,=@example.com"))


def test_a_client_of_others_that_was_not_told_of_binding_is_refused() -> None:
    client = ScramClient(["SCRAM-SHA-256"], "alice", "pencil", channel_binding=CERTIFICATE)
    assert client.get_client_first().startswith("y,")
    client = ScramClient(["SCRAM-SHA-256"], "alice", "pencil", channel_binding=CERTIFICATE)
    assert logged_on(client, "pencil", BOUND) == Proved(Failed("alice"))
    client = ScramClient(["SCRAM-SHA-256"], "alice", "pencil", channel_binding=CERTIFICATE)
    assert isinstance(logged_on(client, "pencil", SURROUNDINGS), Proved)


def test_a_client_of_others_that_binds_otherwise_is_refused() -> None:
    client = client_of("SCRAM-SHA-256-PLUS", "pencil", ("tls-unique", b"Finished"))
    assert logged_on(client, "pencil", BOUND) == Proved(Failed("alice,=@example.com"))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_client_of_others_does_not_believe_a_server_without_the_keys(mechanism: str) -> None:
    client = client_of(mechanism, "pencil")
    exchange, move = begun(mechanism, client.get_client_first().encode(), BOUND)
    assert isinstance(move, Keys)
    keys = scram_keys.derive(b"pencil", move.hash_name, b"salt of the account", 4096)
    move = exchange.supply(replace(keys, server_key=bytes(len(keys.server_key))))
    assert isinstance(move, Challenge)
    client.set_server_first(move.data.decode())
    move = exchange.respond(client.get_client_final().encode())
    assert isinstance(move, Challenge)
    with pytest.raises(ScramException):
        client.set_server_final(move.data.decode())
    assert exchange.respond(b"*") == Malformed()
