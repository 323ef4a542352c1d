"""PLAIN (RFC 4616 §2) and LOGIN (draft-murchison-sasl-login): the password itself, for connections that hide it.

Invariant: the password is the client's octets, none added, cut or changed; it is never empty and has no NUL, so that it
can be no anonymous bind and no other password to a library that stops there.
"""

from winpop.protocol.sasl.moves import Malformed, Proved, Surroundings
from winpop.protocol.sasl.names import same, utf8
from winpop.protocol.sasl.run import Run, challenge, first
from winpop.terms.credentials import Failed, Password


def plain(_: Surroundings, initial: bytes | None) -> Run:
    """Read `authzid NUL name NUL password`."""
    message = yield from first(initial)
    match message.split(b"\0"):
        case [who, logon, password]:
            authzid, name = utf8(who), utf8(logon)
        case _:
            return Malformed()
    if authzid is None or not name or not password:
        return Malformed()
    return Proved(Password(name, password) if same(authzid, name) else Failed(name))


def login(_: Surroundings, initial: bytes | None) -> Run:
    """Prompt for a name and a password. Some clients give the name as their initial response."""
    logon = (yield from challenge(b"Username:")) if initial is None else initial
    name = utf8(logon)
    if not name:
        return Malformed()
    password = yield from challenge(b"Password:")
    return Proved(Password(name, password)) if password and b"\0" not in password else Malformed()
