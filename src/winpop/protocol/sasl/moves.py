"""What one run of a SASL mechanism says to the protocol that carries it (RFC 4422 §3), and what it can be told.

Invariant: a run makes one move at a time, and after `Proved` or `Malformed` none. It touches no socket, clock, random
source, thread or database; what it needs of these it was given, or asks for.
"""

from dataclasses import dataclass, field
from typing import Protocol

from winpop.terms.credentials import Credentials, ScramKeys


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send this to the client (it may be empty), and give its response to `respond`."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proved:
    """The client has said all: whether it may come in is for the methods to say."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Malformed:
    """What the client said is not of this mechanism's form; the run is over."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Look up the SCRAM keys of a name; answers: `ScramKeys`, `Unavailable`."""

    name: str
    hash_name: str
    """`SHA-1` or `SHA-256`."""


@dataclass(frozen=True, slots=True)
class Step:
    """Give a token to the security context of this session; answers: `Continue`, `Proved`, `Malformed`, `Unavailable`.

    The `first` step of a run begins a new context. A context that refuses answers `Proved(Failed(name))`.
    """

    mechanism: str
    token: bytes = field(repr=False)
    first: bool = False


@dataclass(frozen=True, slots=True)
class Continue:
    """The context goes on: this token is for the client."""

    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """It cannot be said now; the run is over."""


Ask = Keys | Step
Answer = ScramKeys | Continue | Proved | Malformed | Unavailable
Move = Challenge | Proved | Malformed | Unavailable | Keys | Step


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run is given. `bindings` are the channel bindings of the TLS connection by their registered names."""

    nonce: str
    """At least 18 characters that nobody can guess, printable ASCII without a comma, other for each run."""
    hostname: str
    bindings: dict[str, bytes] = field(default_factory=dict, repr=False)
    binding_offered: bool = False
    """Whether a -PLUS mechanism is among those the client was offered (RFC 5802 §6)."""


class Exchange(Protocol):
    """One run of a mechanism, the server's side."""

    def start(self, initial: bytes | None) -> Move:
        """Begin, with the client's initial response if it sent one."""
        ...

    def respond(self, response: bytes) -> Move:
        """Take the client's response to a `Challenge`."""
        ...

    def supply(self, answer: Answer) -> Move:
        """Take the answer to `Keys` or `Step`."""
        ...

    def failure(self) -> bytes | None:
        """Return what the client is told before a refusal (RFC 7628 §3.2.3), or None."""
        ...
