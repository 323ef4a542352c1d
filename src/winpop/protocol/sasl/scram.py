"""SCRAM (RFC 5802 §3 and §5, RFC 7677 §3): both sides prove that they know a password, and neither says it.

With channel binding (-PLUS: tls-server-end-point of RFC 5929, tls-exporter of RFC 9266) both also see that they are the
ends of one TLS connection. Invariant: a client that asks for binding and gets none, or could have had it and was not
told so, is refused whatever it proves (RFC 5802 §6): somebody stands between.
"""

import base64
import hashlib
import hmac

from winpop.protocol.sasl.moves import Keys, Malformed, Proved, Surroundings
from winpop.protocol.sasl.names import same
from winpop.protocol.sasl.run import Run, Talk, challenge, first
from winpop.protocol.sasl.scram_keys import HASHES
from winpop.protocol.sasl.scram_messages import First, parse_final, parse_first
from winpop.terms.credentials import Failed, Scram, ScramKeys


def scram(surroundings: Surroundings, initial: bytes | None, *, hash_name: str, plus: bool) -> Run:
    """Run SCRAM with a hash function, bound to the TLS connection (`plus`) or not."""
    begun = parse_first((yield from first(initial)))
    if begun is None or (begun.binding is not None) != plus:
        return Malformed()
    data = _binding_data(surroundings, begun)
    if data is None or not same(begun.authzid, begun.name):
        return Proved(Failed(begun.name))

    keys = yield from _keys(begun.name, hash_name)
    nonce = begun.nonce + surroundings.nonce
    salt = base64.b64encode(keys.salt).decode("ascii")
    offer = f"r={nonce},s={salt},i={keys.iterations}"
    final = parse_final((yield from challenge(offer.encode("ascii"))))
    if final is None:
        return Malformed()

    message = f"{begun.bare},{offer},{final.signed}".encode()
    if not (
        hmac.compare_digest(final.nonce.encode("ascii"), nonce.encode("ascii"))
        and hmac.compare_digest(final.binding, begun.header.encode() + data)
        and _proves(final.proof, keys.stored_key, message, HASHES[hash_name])
    ):
        return Proved(Failed(begun.name))
    signature = hmac.digest(keys.server_key, message, HASHES[hash_name])
    if (yield from challenge(b"v=" + base64.b64encode(signature))):
        return Malformed()
    return Proved(Scram(begun.name, hash_name, keys.stored_key))


def _binding_data(surroundings: Surroundings, begun: First) -> bytes | None:
    """Return the data that the client must have bound; None where it must not go on (RFC 5802 §6)."""
    if begun.binding is not None:
        return surroundings.bindings.get(begun.binding) or None
    return None if begun.flag == "y" and surroundings.binding_offered else b""


def _keys(name: str, hash_name: str) -> Talk[ScramKeys]:
    keys = yield Keys(name, hash_name)
    assert isinstance(keys, ScramKeys)
    return keys


def _proves(proof: bytes, stored_key: bytes, message: bytes, digest: str) -> bool:
    """Tell whether the proof hides, under the signature of the message, the key that hashes to `stored_key`."""
    signature = hmac.digest(stored_key, message, digest)
    if len(proof) != len(signature):
        return False
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    return hmac.compare_digest(hashlib.new(digest, client_key).digest(), stored_key)
