"""SCRAM: the examples of RFC 7677 §3 and RFC 5802 §5, its grammar (RFC 5802 §7), and what those in between try."""

import base64
from dataclasses import replace

import pytest

from protocol.sasl_talk import NONCE, SURROUNDINGS, begun, ends, final, first_move
from winpop.protocol.sasl import scram_keys
from winpop.protocol.sasl.moves import Challenge, Keys, Malformed, Move, Proved, Surroundings, Unavailable
from winpop.terms.credentials import Failed, Scram

PASSWORD = b"pencil"
KEYS = scram_keys.derive(PASSWORD, "SHA-256", b"sixteen octets..", 64)
BARE = "n=user,r=of-the-client"
END_POINT, EXPORTER = b"digest of the certificate", b"keying material of this connection"
BOUND = replace(
    SURROUNDINGS, bindings={"tls-server-end-point": END_POINT, "tls-exporter": EXPORTER}, binding_offered=True
)
FAILED = Proved(Failed("user"))


def example(mechanism: str, hash_name: str, salt: str, messages: list[bytes]) -> None:
    client_first, server_first, client_final, server_final = messages
    client_nonce = client_first.partition(b"r=")[2]
    nonce = server_first.partition(b",")[0].removeprefix(b"r=" + client_nonce).decode()
    keys = scram_keys.derive(PASSWORD, hash_name, base64.b64decode(salt), 4096)
    exchange, move = begun(mechanism, client_first, Surroundings(nonce, "localhost"))
    assert move == Keys("user", hash_name)
    assert exchange.supply(keys) == Challenge(server_first)
    assert exchange.respond(client_final) == Challenge(server_final)
    assert exchange.respond(b"") == Proved(Scram("user", hash_name, keys.stored_key))


def test_the_example_of_scram_sha_1() -> None:
    example(
        "SCRAM-SHA-1",
        "SHA-1",
        "QSXCR+Q6sek8bf92",
        [
            b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ],
    )


def test_the_example_of_scram_sha_256() -> None:
    example(
        "SCRAM-SHA-256",
        "SHA-256",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        [
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            (
                b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
            ),
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ],
    )


def ran(  # noqa: PLR0913 - each is a thing to lie about
    mechanism: str,
    header: str,
    surroundings: Surroundings = SURROUNDINGS,
    *,
    bare: str = BARE,
    bound: bytes | None = None,
    nonce: str | None = None,
    extra: str = "",
    password: bytes = PASSWORD,
) -> Move:
    """Run the exchange until the answer to the client's last message."""
    exchange, asked = begun(mechanism, (header + bare).encode(), surroundings)
    if not isinstance(asked, Keys):
        return asked
    offer = exchange.supply(KEYS)
    assert isinstance(offer, Challenge)
    proven = final(
        "sha256",
        password,
        bare,
        offer.data,
        bound=header.encode() if bound is None else bound,
        nonce=nonce,
        extra=extra,
    )
    return exchange.respond(proven)


def proven(move: Move) -> bool:
    return isinstance(move, Challenge) and move.data.startswith(b"v=")


def test_a_right_proof_is_answered_with_the_servers_and_then_taken() -> None:
    assert proven(ran("SCRAM-SHA-256", "n,,"))
    assert ran("SCRAM-SHA-256", "n,,", password=b"pencil ") == FAILED


@pytest.mark.parametrize(("binding", "data"), [("tls-server-end-point", END_POINT), ("tls-exporter", EXPORTER)])
def test_a_client_that_bound_the_connection_comes_in(binding: str, data: bytes) -> None:
    header = f"p={binding},,"
    assert proven(ran("SCRAM-SHA-256-PLUS", header, BOUND, bound=header.encode() + data))


def test_a_client_that_cannot_bind_comes_in_also_where_binding_is_offered() -> None:
    assert proven(ran("SCRAM-SHA-256", "n,,", BOUND))


def test_a_client_that_could_bind_comes_in_where_binding_is_not_offered() -> None:
    assert proven(ran("SCRAM-SHA-256", "y,,"))


def test_a_client_that_could_bind_but_was_not_told_that_we_do_is_refused() -> None:
    # RFC 5802 §6: somebody took the -PLUS mechanisms out of the list.
    assert ends("SCRAM-SHA-256", b"y,," + BARE.encode(), BOUND) == FAILED
    assert ends("SCRAM-SHA-1", b"y,," + BARE.encode(), BOUND) == FAILED


@pytest.mark.parametrize("said", ["n,,", "y,,", "n,a=user,"])
def test_a_client_that_says_in_its_proof_that_it_began_otherwise_is_refused(said: str) -> None:
    for began in ("n,,", "y,,", "n,a=user,"):
        move = ran("SCRAM-SHA-256", began, bound=said.encode())
        assert proven(move) if began == said else move == FAILED


@pytest.mark.parametrize(
    "bound",
    [
        b"p=tls-server-end-point,,",
        b"p=tls-server-end-point,," + END_POINT[:-1],
        b"p=tls-server-end-point,," + END_POINT + b"x",
        b"p=tls-server-end-point,,digest of the certificate of who stands between",
        b"p=tls-server-end-point,," + EXPORTER,
        b"p=tls-exporter,," + END_POINT,
        b"n,,",
        END_POINT,
    ],
)
def test_a_client_that_bound_another_connection_is_refused(bound: bytes) -> None:
    assert ran("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,", BOUND, bound=bound) == FAILED


@pytest.mark.parametrize("binding", ["tls-unique", "tls-server-end-point-2", "TLS-EXPORTER", "x"])
def test_a_binding_that_we_do_not_have_is_refused(binding: str) -> None:
    assert ends("SCRAM-SHA-256-PLUS", f"p={binding},,{BARE}".encode(), BOUND) == FAILED


def test_a_binding_without_data_binds_nothing() -> None:
    empty = replace(BOUND, bindings={"tls-exporter": b""})
    assert first_move("SCRAM-SHA-256-PLUS", f"p=tls-exporter,,{BARE}".encode(), empty) == FAILED


@pytest.mark.parametrize("header", ["n,,", "y,,"])
def test_a_mechanism_with_binding_wants_one(header: str) -> None:
    assert ends("SCRAM-SHA-256-PLUS", (header + BARE).encode(), BOUND) == Malformed()


def test_a_mechanism_without_binding_wants_none() -> None:
    assert ends("SCRAM-SHA-256", f"p=tls-exporter,,{BARE}".encode(), BOUND) == Malformed()


@pytest.mark.parametrize("message", ["n,,m=x,n=user,r=abc", "n,,n=user,r=abc,m=x", "n,,n=user,r=abc,x=1,m=x"])
def test_an_extension_that_must_be_understood_is_not(message: str) -> None:
    # RFC 5802 §5.1, the attribute m.
    assert ends("SCRAM-SHA-256", message.encode()) == Malformed()


def test_an_extension_that_must_be_understood_is_not_at_the_end_either() -> None:
    assert ran("SCRAM-SHA-256", "n,,", extra=",m=x") == Malformed()


def test_other_extensions_are_passed_over_and_signed() -> None:
    assert proven(ran("SCRAM-SHA-256", "n,,", bare=BARE + ",x=ö=1,y=2", extra=",z=3"))


@pytest.mark.parametrize(
    ("saslname", "name"),
    [
        ("user", "user"),
        ("a=2Cb", "a,b"),
        ("a=3Db", "a=b"),
        ("=3D2C", "=2C"),
        ("=3D=2C=3D3D", "=,=3D"),
        ("jörg@example.com", "jörg@example.com"),
        ("two words", "two words"),
    ],
)
def test_commas_and_equals_signs_in_names_are_written_otherwise(saslname: str, name: str) -> None:
    assert ends("SCRAM-SHA-256", f"n,,n={saslname},r=abc".encode()) == Keys(name, "SHA-256")


@pytest.mark.parametrize("saslname", ["", "a=b", "a=2c", "a=3d", "a=", "a=2", "a=00b", "a,b", "a\0b"])
def test_names_that_are_written_wrongly_are_not_taken(saslname: str) -> None:
    assert ends("SCRAM-SHA-256", f"n,,n={saslname},r=abc".encode()) == Malformed()


@pytest.mark.parametrize("authzid", ["user", "USER", "u=73er"])
def test_a_user_may_be_himself_alone(authzid: str) -> None:
    move = ends("SCRAM-SHA-256", f"n,a={authzid},{BARE}".encode())
    assert move == (Malformed() if "=" in authzid else Keys("user", "SHA-256"))
    assert ends("SCRAM-SHA-256", f"n,a=admin,{BARE}".encode()) == FAILED


def test_the_name_to_be_is_written_like_a_name() -> None:
    assert ends("SCRAM-SHA-1", b"n,a=a=2Cb,n=A=2CB,r=abc") == Keys("A,B", "SHA-1")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"n=user,r=abc",
        b",,n=user,r=abc",
        b"x,,n=user,r=abc",
        b"N,,n=user,r=abc",
        b"nn,,n=user,r=abc",
        b"F,n,,n=user,r=abc",
        b"p,,n=user,r=abc",
        b"p=,,n=user,r=abc",
        b"p=tls_exporter,,n=user,r=abc",
        b"n,user,n=user,r=abc",
        b"n,a=,n=user,r=abc",
        b"n,,n=user",
        b"n,,r=abc,n=user",
        b"n,,n=user,r=",
        b"n,,n=user,r=a c",
        b"n,,n=user,r=\xc3\xa4",
        b"n,,n=user,r=abc,",
        b"n,,n=user,r=abc,x",
        b"n,,n=user,r=abc,x=",
        b"n,,n=user,r=abc,1=x",
        b"n,,n=user,r=abc\n",
        b"n,,n=\xff,r=abc",
        b" n,,n=user,r=abc",
    ],
)
def test_what_is_no_first_message(message: bytes) -> None:
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"):
        assert ends(mechanism, message, BOUND) == Malformed()


@pytest.mark.parametrize(
    "nonce",
    [
        "of-the-client",
        NONCE,
        f"of-the-client{NONCE[:-1]}",
        f"of-the-client{NONCE}x",
        f"of-the-client{NONCE.upper()}",
        "of-the-client" + NONCE[::-1],
    ],
)
def test_a_message_with_another_nonce_is_one_of_another_time(nonce: str) -> None:
    assert ran("SCRAM-SHA-256", "n,,", nonce=nonce) == FAILED


def test_an_exchange_that_was_overheard_proves_nothing_later() -> None:
    exchange, _ = begun("SCRAM-SHA-256", b"n,," + BARE.encode())
    offer = exchange.supply(KEYS)
    assert isinstance(offer, Challenge)
    overheard = final("sha256", PASSWORD, BARE, offer.data)
    assert proven(exchange.respond(overheard))

    later, _ = begun("SCRAM-SHA-256", b"n,," + BARE.encode(), replace(SURROUNDINGS, nonce="another-of-the-server"))
    later.supply(KEYS)
    assert later.respond(overheard) == FAILED


@pytest.mark.parametrize(
    ("old", "new", "move"),
    [
        (b"c=biws,", b"", Malformed()),
        (b"c=biws,", b"c=,", FAILED),
        (b"c=biws,", b"c=biw,", Malformed()),
        (b"c=biws,", b"c=bi s,", Malformed()),
        (b"c=biws,", b"c=eSws,", FAILED),  # y,,
        (b",p=", b",p=!", Malformed()),
        (b",p=", b",p=A", Malformed()),
        (b",p=", b",p=AAAA", FAILED),
        (b",p=", b",x=", Malformed()),
        (b",p=", b",p=AAAA,p=", FAILED),
        (b",p=", b",p=\xff", Malformed()),
    ],
)
def test_a_last_message_that_was_changed_on_the_way(old: bytes, new: bytes, move: Move) -> None:
    exchange, _ = begun("SCRAM-SHA-256", b"n,," + BARE.encode())
    offer = exchange.supply(KEYS)
    assert isinstance(offer, Challenge)
    sent = final("sha256", PASSWORD, BARE, offer.data)
    assert old in sent
    assert exchange.respond(sent.replace(old, new, 1)) == move


@pytest.mark.parametrize(
    "proof", ["", "AAAA", base64.b64encode(bytes(20)).decode(), base64.b64encode(bytes(32)).decode()]
)
def test_a_proof_of_nothing_proves_nothing(proof: str) -> None:
    exchange, _ = begun("SCRAM-SHA-256", b"n,," + BARE.encode())
    exchange.supply(KEYS)
    move = exchange.respond(f"c=biws,r=of-the-client{NONCE},p={proof}".encode())
    assert move == FAILED


def test_the_client_has_nothing_to_say_to_the_servers_proof() -> None:
    exchange, _ = begun("SCRAM-SHA-256", b"n,," + BARE.encode())
    offer = exchange.supply(KEYS)
    assert isinstance(offer, Challenge)
    exchange.respond(final("sha256", PASSWORD, BARE, offer.data))
    assert exchange.respond(b"x") == Malformed()


def test_keys_that_cannot_be_had_now_end_the_run() -> None:
    exchange, _ = begun("SCRAM-SHA-256", b"n,," + BARE.encode())
    assert exchange.supply(Unavailable()) == Unavailable()


def test_the_keys_of_nobody_are_offered_like_others_and_never_proven() -> None:
    keys = scram_keys.unknown("user", "SHA-256", b"secret", 64)
    exchange, _ = begun("SCRAM-SHA-256", b"n,," + BARE.encode())
    offer = exchange.supply(keys)
    assert isinstance(offer, Challenge)
    assert exchange.respond(final("sha256", PASSWORD, BARE, offer.data)) == FAILED


def test_keys_are_in_no_repr() -> None:
    shown = repr(KEYS) + repr(Proved(Scram("user", "SHA-256", KEYS.stored_key)))
    assert repr(KEYS.stored_key) not in shown
    assert repr(KEYS.server_key) not in shown
