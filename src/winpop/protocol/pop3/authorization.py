"""The AUTHORIZATION state of POP3: who a client says it is (RFC 1939 §4 and §7, RFC 5034, RFC 6856 §2).

Invariants: here stands all that a client has said of itself, so that a new one of these has forgotten it; a command
either replies or asks for something, never both; what is not offered is refused before its argument is looked at.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable

from winpop.protocol.pop3 import replies
from winpop.protocol.pop3.needs import InUse, Locked, Logon, Offer, Refused, TooSoon, Unavailable
from winpop.protocol.pop3.output import Output
from winpop.protocol.sasl import moves
from winpop.protocol.sasl.mechanisms import begin
from winpop.terms.credentials import Apop, Credentials, Password

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_DIGEST = re.compile(rb"[0-9a-f]{32}")
_NONCE = 36
"""Characters of a nonce; each has four bits."""


class Authorization:
    """What a client has said before its logon, and the AUTH that is going on."""

    __slots__ = ("_exchange", "_exchanges", "_number", "_offer", "_output", "_refused", "_user", "_utf8")

    def __init__(self, output: Output, offer: Offer, number: int = 0) -> None:
        """Know nothing of the client."""
        self._output = output
        self._offer = offer
        self._number = number
        self._user: str | None = None
        self._utf8 = False
        self._exchange: moves.Exchange | None = None
        self._exchanges = 0
        self._refused = False
        """What the client says next ends an exchange that was refused already (RFC 7628 §3.2.3)."""

    @property
    def in_exchange(self) -> bool:
        """Tell whether the next line is no command: it belongs to AUTH."""
        return self._exchange is not None

    def utf8_command(self, argument: bytes | None) -> None:
        """UTF8 (RFC 6856 §2): from now on this client reads UTF-8 in headers."""
        if argument is not None:
            self._output.error(replies.NO_ARGUMENT)
        else:
            self._utf8 = True
            self._output.put(replies.UTF8)

    # --- USER and PASS, APOP ---

    def user_command(self, argument: bytes | None) -> None:
        """USER name (RFC 1939 §7): always +OK, so that it tells nothing about who has a mailbox."""
        self._user = None  # whatever this USER is, a name from before it no longer counts
        if not self._offer.passwords:
            self._output.error(self._no_logon())
        elif not argument or _CONTROL.search(argument):
            self._output.error(replies.BAD_USER)
        elif (user := _utf8(argument)) is None:
            self._output.error(replies.NOT_UTF8)
        else:
            self._user = user
            self._output.put(replies.NOW_PASSWORD)

    def pass_command(self, argument: bytes | None) -> None:
        """PASS string (RFC 1939 §7): the rest of the line, spaces included, byte for byte."""
        if not self._offer.passwords:
            self._output.error(self._no_logon())
        elif self._user is None:
            self._output.error(replies.NO_USER)
        elif not argument or b"\0" in argument:
            # An empty password would be an anonymous bind to a directory, and succeed.
            self._output.error(replies.BAD_PASS)
        else:
            self._log_on(Password(self._user, argument))

    def apop_command(self, argument: bytes | None) -> None:
        """APOP name digest (RFC 1939 §7): 32 digits of lower-case hexadecimal."""
        name, _, digest = (argument or b"").rpartition(b" ")
        if self._offer.timestamp is None:
            self._output.error(replies.UNKNOWN_COMMAND)
        elif not self._offer.logons:
            self._output.error(self._no_logon())
        elif not name or _CONTROL.search(name) or not _DIGEST.fullmatch(digest):
            self._output.error(replies.BAD_APOP)
        elif (user := _utf8(name)) is None:
            self._output.error(replies.NOT_UTF8)
        else:
            self._log_on(Apop(user, self._offer.timestamp, bytes.fromhex(digest.decode("ascii"))))

    # --- AUTH ---

    def auth_command(self, argument: bytes | None) -> None:
        """AUTH [mechanism [initial-response]] (RFC 5034 §4); alone it lists the mechanisms."""
        offer = self._offer
        word, space, text = (argument or b"").partition(b" ")
        mechanism = word.upper().decode("ascii", "replace")
        initial = _initial(text) if space else None
        if not offer.logons:
            self._output.error(self._no_logon())
        elif argument is None:
            self._output.put_lines(replies.MECHANISMS, [name.encode("ascii") for name in offer.mechanisms])
        elif mechanism not in offer.mechanisms:
            self._output.error(replies.NO_MECHANISM)
        elif space and initial is None:
            self._output.error(replies.NOT_BASE64)
        else:
            self._exchange = begin(mechanism, self._surroundings())
            self._move(self._exchange.start(initial))

    def respond(self, line: bytes) -> None:
        """Take a line of the client within AUTH: base64, or `*` to cancel (RFC 5034 §4)."""
        assert self._exchange is not None
        if self._refused:
            self._exchange, self._refused = None, False
            self._output.failed(replies.WRONG)
        elif line == b"*":
            self._exchange = None
            self._output.error(replies.CANCELLED)
        elif (response := _decoded(line)) is None:
            self._exchange = None
            self._output.error(replies.NOT_BASE64)
        else:
            self._move(self._exchange.respond(response))

    def supply(self, answer: moves.Answer) -> None:
        """Answer what the mechanism asked for."""
        assert self._exchange is not None
        self._move(self._exchange.supply(answer))

    def not_opened(self, answer: Refused | Locked | InUse | TooSoon | Unavailable) -> None:
        """Say why a logon did not hold (RFC 3206 §4 and §5); of what was wrong only that it was."""
        self._user = None
        exchange, self._exchange = self._exchange, None
        match answer:
            case InUse():
                self._output.put(replies.IN_USE)
            case TooSoon():
                self._output.put(replies.TOO_SOON)
            case Unavailable():
                self._output.put(replies.CANNOT_SAY)
            case Locked(what):
                self._output.failed(replies.LOCKED[what])
            case Refused():
                told = exchange.failure() if exchange is not None else None
                if told is None:
                    self._output.failed(replies.WRONG)
                else:
                    self._exchange, self._refused = exchange, True
                    self._challenge(told)

    def _move(self, move: moves.Move) -> None:
        match move:
            case moves.Challenge(data):
                self._challenge(data)
            case moves.Keys() | moves.Step():
                self._output.need = move
            case moves.Proved(credentials):
                self._log_on(credentials)
            case moves.Malformed():
                self._exchange = None
                self._output.error(replies.MALFORMED)
            case moves.Unavailable():
                self._exchange = None
                self._output.put(replies.CANNOT_SAY)

    def _challenge(self, data: bytes) -> None:
        self._output.add(b"+ " + base64.b64encode(data) + b"\r\n")

    def _surroundings(self) -> moves.Surroundings:
        """Return what a run is given: a nonce that no other run has."""
        offer = self._offer
        self._exchanges += 1
        number = self._number.to_bytes(8, "big") if self._number else b""
        nonce = hashlib.sha256(offer.seed + number + self._exchanges.to_bytes(4, "big")).hexdigest()[:_NONCE]
        plus = any(mechanism.endswith("-PLUS") for mechanism in offer.mechanisms)
        return moves.Surroundings(nonce, offer.hostname, offer.bindings, plus)

    # --- small things ---

    def _log_on(self, credentials: Credentials) -> None:
        self._output.need = Logon(credentials, self._utf8)

    def _no_logon(self) -> bytes:
        """Say why nobody logs on in this way: a password does not cross the network in clear (RFC 2595 §2.3)."""
        return replies.TLS_FIRST if self._offer.stls else replies.IN_CLEAR


def _utf8(name: bytes) -> str | None:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _initial(text: bytes) -> bytes | None:
    """Return an initial response, or None where it is none; one of no octets is written `=` (RFC 5034 §4)."""
    return b"" if text == b"=" else _decoded(text) if text else None


def _decoded(text: bytes) -> bytes | None:
    """Return what base64 without a flaw stands for (RFC 4648 §3.5 and §4), or None."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data) == text else None


COMMANDS: dict[bytes, Callable[[Authorization, bytes | None], None]] = {
    b"APOP": Authorization.apop_command,
    b"AUTH": Authorization.auth_command,
    b"PASS": Authorization.pass_command,
    b"USER": Authorization.user_command,
    b"UTF8": Authorization.utf8_command,
}
"""The commands by which a client says who it is and what it reads."""
