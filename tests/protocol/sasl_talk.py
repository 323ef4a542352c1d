"""What the tests of the mechanisms share: surroundings, and a SCRAM client of their own that can be made to lie."""

import base64
import hashlib
import hmac

from winpop.protocol.sasl.mechanisms import begin
from winpop.protocol.sasl.moves import Challenge, Exchange, Move, Surroundings

NONCE = "3rfcNHYJY1ZVvWVs7j-of-the-server"
HOSTNAME = "mail.example.com"
SURROUNDINGS = Surroundings(NONCE, HOSTNAME)


def begun(mechanism: str, initial: bytes | None, surroundings: Surroundings = SURROUNDINGS) -> tuple[Exchange, Move]:
    """Begin a run and return it with its first move."""
    exchange = begin(mechanism, surroundings)
    return exchange, exchange.start(initial)


def first_move(mechanism: str, initial: bytes | None, surroundings: Surroundings = SURROUNDINGS) -> Move:
    return begun(mechanism, initial, surroundings)[1]


def ends(mechanism: str, message: bytes, surroundings: Surroundings = SURROUNDINGS) -> Move:
    """Return the move that follows a client's first message: the same with and without an initial response."""
    exchange, asked = begun(mechanism, None, surroundings)
    assert asked == Challenge(b"")
    late = exchange.respond(message)
    assert late == first_move(mechanism, message, surroundings)
    return late


def final(  # noqa: PLR0913 - each is a thing to lie about
    digest: str,
    password: bytes,
    bare: str,
    server_first: bytes,
    *,
    bound: bytes = b"n,,",
    nonce: str | None = None,
    extra: str = "",
) -> bytes:
    """Return the client's last message, with a proof that is right for it, by the formulas of RFC 5802 §3."""
    given = dict(part.split("=", 1) for part in server_first.decode().split(","))
    without = f"c={base64.b64encode(bound).decode()},r={nonce or given['r']}{extra}"
    salt, iterations = base64.b64decode(given["s"]), int(given["i"])
    block = whole = hmac.new(password, salt + b"\0\0\0\1", digest).digest()
    for _ in range(iterations - 1):
        block = hmac.new(password, block, digest).digest()
        whole = bytes(a ^ b for a, b in zip(whole, block, strict=True))
    client_key = hmac.new(whole, b"Client Key", digest).digest()
    message = f"{bare},{server_first.decode()},{without}".encode()
    signature = hmac.new(hashlib.new(digest, client_key).digest(), message, digest).digest()
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{without},p={base64.b64encode(proof).decode()}".encode()
