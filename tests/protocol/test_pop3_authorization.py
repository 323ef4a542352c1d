"""The AUTHORIZATION state where a dialogue cannot show it: long lines, handshakes, secrets, answers that do not fit."""

import base64
from dataclasses import replace

import pytest

from dialogues.world import ALICE, EVERY, IN_TLS, offer
from winpop.protocol import pop3
from winpop.protocol.pop3 import authorization
from winpop.protocol.pop3 import session as commands
from winpop.protocol.pop3.state import State
from winpop.protocol.sasl import moves
from winpop.terms.credentials import Failed, Password, ScramKeys
from winpop.terms.mail import Listing

RESPONSE = pop3.Limits().response
DIGESTS = offer(frozenset({"digests"}))
OPENED = pop3.Opened(Listing((10, 20), ("a", "b")))
KEYS = ScramKeys(b"salt", 1, b"0" * 32, b"1" * 32)


def session(offered: pop3.Offer = DIGESTS) -> pop3.Session:
    """Return a session whose greeting was read."""
    opened = pop3.Session(pop3.Limits(), offered)
    opened.to_send()
    return opened


def said(to: pop3.Session, data: bytes) -> bytes:
    to.receive(data)
    return to.to_send()


def plain(password: bytes) -> bytes:
    return base64.b64encode(b"\0alice@example.com\0" + password)


def longest(before: bytes) -> bytes:
    """Return a response, its line end with it, that is as long as a line may be behind `before`."""
    octets = (RESPONSE - len(before) - 2) // 4 * 3
    return plain(b"p" * (octets - len(plain(b"")) // 4 * 3)) + b"\r\n"


# --- long lines (RFC 5034 §4) ---


def test_a_response_may_be_as_long_as_its_limit() -> None:
    authenticating = session()
    assert said(authenticating, b"AUTH PLAIN\r\n") == b"+ \r\n"
    line = longest(b"")
    assert len(line) in range(RESPONSE - 4, RESPONSE + 1)
    assert said(authenticating, line) == b""
    assert isinstance(authenticating.needs(), pop3.Logon)


def test_an_initial_response_may_be_as_long_as_a_response() -> None:
    authenticating = session()
    command = b"auth PLAIN "
    assert said(authenticating, command + longest(command)) == b""
    assert isinstance(authenticating.needs(), pop3.Logon)


@pytest.mark.parametrize("first", [b"AUTH PLAIN\r\n", b"AUTH PLAIN "])
def test_a_longer_line_is_refused_before_its_end(first: bytes) -> None:
    authenticating = session()
    said(authenticating, first)
    before = authenticating.backlog
    assert said(authenticating, b"A" * (RESPONSE - 1 - before)) == b""
    assert said(authenticating, b"A") == b"-ERR The line is too long\r\n"
    assert authenticating.closed
    assert authenticating.backlog == 0


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (b"", b"AUTHX "),
        (b"", b"USER "),
        (b"AUTH PLAIN\r\n*\r\n", b""),
        (b"AUTH PLAIN =\r\n", b"STAT "),
    ],
)
def test_a_line_that_belongs_to_no_auth_is_as_short_as_ever(before: bytes, line: bytes) -> None:
    """RFC 2449 §4."""
    commanding = session()
    said(commanding, before)
    assert said(commanding, line + b"x" * (254 - len(line))) == b""
    assert said(commanding, b"x") == b"-ERR The line is too long\r\n"


def test_after_the_logon_no_line_belongs_to_auth() -> None:
    opened = session()
    said(opened, b"AUTH PLAIN " + plain(b"secret") + b"\r\n")
    opened.supply(OPENED)
    opened.to_send()
    assert said(opened, b"AUTH PLAIN " + plain(b"p" * 240) + b"\r\n") == b"-ERR The line is too long\r\n"


# --- the handshake (RFC 2595 §4) ---


def handshaking() -> pop3.Session:
    begun = session(offer())
    assert said(begun, b"USER alice@example.com\r\nSTLS\r\n") == b"+OK Now the password\r\n+OK Begin TLS\r\n"
    assert begun.needs() == pop3.StartTls()
    return begun


def test_what_comes_in_clear_before_the_handshake_ends_the_session() -> None:
    begun = handshaking()
    assert said(begun, b"PASS secret\r\n") == b""
    begun.supply(pop3.Secured(offer(tls=True)))
    assert begun.to_send() == b"-ERR Nothing may follow STLS before TLS has begun\r\n"
    assert begun.closed
    assert begun.needs() is None
    assert begun.backlog == 0


@pytest.mark.parametrize("reason", pop3.Ending)
def test_nothing_is_said_within_a_handshake(reason: pop3.Ending) -> None:
    """It would be said in clear, and read as a part of the handshake."""
    begun = handshaking()
    begun.end(reason)
    begun.supply(pop3.Secured(offer(tls=True)))
    assert begun.closed
    assert begun.to_send() == b""


def test_over_tls_the_new_offer_counts() -> None:
    begun = handshaking()
    begun.supply(pop3.Secured(offer(tls=True)))
    assert begun.to_send() == b""
    assert (
        said(begun, b"AUTH\r\n")
        == b"+OK Mechanisms follow\r\n" + "".join(f"{m}\r\n" for m in IN_TLS).encode() + b".\r\n"
    )
    assert said(begun, b"PASS secret\r\n") == b"-ERR USER comes first\r\n"


def test_errors_before_the_handshake_count_after_it() -> None:
    begun = session(offer())
    said(begun, b"X\r\n" * 18 + b"STLS\r\n")
    begun.supply(pop3.Secured(offer(tls=True)))
    assert said(begun, b"X\r\n") == b"-ERR Unknown command\r\n"
    assert said(begun, b"X\r\n") == b"-ERR Too many errors\r\n"
    assert begun.closed


@pytest.mark.parametrize("command", [b"USER a", b"PASS b", b"AUTH", b"AUTH PLAIN AGEAYg==", b"APOP a b"])
@pytest.mark.parametrize(
    ("stls", "why"),
    [
        (True, b"Begin TLS first: passwords in clear are not accepted from your network"),
        (False, b"Passwords in clear are not accepted from your network"),
    ],
)
def test_a_stranger_is_told_to_begin_tls_where_it_can_begin(command: bytes, why: bytes, *, stls: bool) -> None:
    """RFC 2595 §2.3."""
    refusing = session(replace(DIGESTS, logons=False, passwords=False, stls=stls))
    assert said(refusing, command + b"\r\n") == b"-ERR [AUTH] " + why + b"\r\n"
    assert refusing.needs() is None
    assert b"SASL" not in said(refusing, b"CAPA\r\n")


def test_mechanisms_that_hide_the_password_are_taken_in_clear_where_passwords_are_not() -> None:
    """The setting `sparequired`."""
    hiding = session(replace(DIGESTS, passwords=False, mechanisms=("SCRAM-SHA-256",)))
    assert b"\r\nSASL SCRAM-SHA-256\r\n" in said(hiding, b"CAPA\r\n")
    assert said(hiding, b"USER alice@example.com\r\n").startswith(b"-ERR [AUTH] ")
    assert said(hiding, b"AUTH PLAIN =\r\n") == b"-ERR This mechanism is not offered\r\n"
    assert said(hiding, b"AUTH SCRAM-SHA-256\r\n") == b"+ \r\n"


# --- nonces and secrets ---


def challenge(to: pop3.Session, command: bytes) -> bytes:
    reply = said(to, command)
    assert reply.startswith(b"+ ")
    said(to, b"*\r\n")
    return base64.b64decode(reply[2:])


def test_no_challenge_comes_twice() -> None:
    first, second = session(), session(replace(DIGESTS, seed=b"another seed"))
    challenges = [challenge(each, b"AUTH CRAM-MD5\r\n") for each in (first, second, first, second, first)]
    assert len(set(challenges)) == 5
    nonces = [each[1:].partition(b"@")[0] for each in challenges]
    assert all(len(nonce) == 36 for nonce in nonces)  # RFC 5802 §5.1 wants it to be unguessable: 144 bits


SECRETS = {
    b"USER alice@example.com\r\nPASS CaNaRy\r\n": "CaNaRy",
    b"AUTH PLAIN " + plain(b"CaNaRy") + b"\r\n": "CaNaRy",
    b"AUTH LOGIN YWxpY2U=\r\nQ2FOYVJ5\r\n": "CaNaRy",
    b"AUTH XOAUTH2 " + base64.b64encode(b"user=alice\x01auth=Bearer CaNaRy\x01\x01") + b"\r\n": "CaNaRy",
    b"AUTH NTLM Q2FOYVJ5\r\n": "CaNaRy",
    b"APOP alice@example.com c4c9334bac560ecc979e58001b3e22fb\r\n": "c4c9334b",
    b"AUTH CRAM-MD5\r\n" + base64.b64encode(b"alice c4c9334bac560ecc979e58001b3e22fb") + b"\r\n": "c4c9334b",
}


@pytest.mark.parametrize("script", SECRETS)
def test_no_secret_is_in_a_repr(script: bytes) -> None:
    asking = session()
    said(asking, script)
    need = asking.needs()
    assert isinstance(need, pop3.Logon | moves.Step)
    shown = repr(need) + repr(asking) + repr(asking.offer)
    secret = SECRETS[script]
    assert secret not in shown
    assert repr(bytes.fromhex(secret) if secret != "CaNaRy" else b"CaNaRy")[2:-1] not in shown
    assert "in clear" not in shown  # the seed


def test_the_password_is_the_clients_octets() -> None:
    asking = session()
    said(asking, b"USER alice@example.com\r\nPASS  \xff\xe2\x80\xa8\t\x01 \r\n")
    need = asking.needs()
    assert isinstance(need, pop3.Logon)
    assert need.credentials == Password(ALICE, b" \xff\xe2\x80\xa8\t\x01 ")


@pytest.mark.parametrize("reads_utf8", [True, False])
@pytest.mark.parametrize(
    "logon",
    [
        b"USER a\r\nPASS b\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"AUTH EXTERNAL =\r\n",
        b"APOP a c4c9334bac560ecc979e58001b3e22fb\r\n",
    ],
)
def test_every_logon_says_whether_the_client_reads_utf8(logon: bytes, reads_utf8: bool) -> None:  # noqa: FBT001 - pytest calls it
    """RFC 6856 §2."""
    asking = session()
    said(asking, (b"UTF8\r\n" if reads_utf8 else b"") + logon)
    need = asking.needs()
    assert isinstance(need, pop3.Logon)
    assert need.utf8 is reads_utf8


# --- answers ---

ASKING = {
    "logon": b"USER a\r\nPASS b\r\n",
    "keys": b"AUTH SCRAM-SHA-1 " + base64.b64encode(b"n,,n=a,r=x") + b"\r\n",
    "step": b"AUTH GSSAPI =\r\n",
    "handshake": b"STLS\r\n",
}
ANSWERS: dict[str, list[pop3.Answer]] = {
    "logon": [OPENED, pop3.Refused(), pop3.Locked("domain"), pop3.InUse(), pop3.TooSoon(), pop3.Unavailable()],
    "keys": [KEYS, moves.Unavailable()],
    "step": [moves.Continue(b""), moves.Proved(Failed("a")), moves.Malformed(), moves.Unavailable()],
    "handshake": [pop3.Secured(DIGESTS)],
}
MISFITS = [
    (asking, answer)
    for asking in ASKING
    for other, answers in ANSWERS.items()
    for answer in [*answers, pop3.Piece(b"", last=True), pop3.Updated()]
    if asking != other and {asking, other} != {"keys", "step"} and type(answer) not in map(type, ANSWERS[asking])
]


@pytest.mark.parametrize("asking", ASKING)
def test_an_answer_that_fits_is_taken(asking: str) -> None:
    for answer in ANSWERS[asking]:
        asked = session()
        said(asked, ASKING[asking])
        need = asked.needs()
        assert need is not None
        asked.supply(answer)
        assert asked.needs() is not need


@pytest.mark.parametrize(("asking", "answer"), MISFITS)
def test_an_answer_that_does_not_fit_is_a_defect_of_ours(asking: str, answer: pop3.Answer) -> None:
    asked = session()
    said(asked, ASKING[asking])
    with pytest.raises(TypeError):
        asked.supply(answer)


def test_an_ending_in_auth_ends_it() -> None:
    ended = session()
    said(ended, b"AUTH LOGIN\r\n")
    ended.end(pop3.Ending.SLOW_LOGON)
    assert ended.to_send() == b"-ERR The logon took too long\r\n"
    assert said(ended, b"YWxpY2U=\r\n") == b""


def test_a_late_step_of_an_ended_session_is_ignored() -> None:
    ended = session()
    said(ended, b"AUTH GSSAPI =\r\n")
    ended.end(pop3.Ending.STOPPING)
    ended.supply(moves.Continue(b"token"))
    assert ended.to_send() == b"-ERR [SYS/TEMP] The service is stopping, try again later\r\n"
    assert ended.needs() is None


@pytest.mark.parametrize("mechanism", EVERY)
def test_every_mechanism_that_is_offered_begins(mechanism: str) -> None:
    """RFC 5034 §4: without an initial response, with one of no octets, in any case."""
    for command in (f"AUTH {mechanism}", f"AUTH {mechanism} =", f"auth {mechanism.lower()}"):
        begun = session()
        reply = said(begun, command.encode() + b"\r\n")
        malformed = reply == b"-ERR That is not how this mechanism goes\r\n"
        assert reply.startswith(b"+ ") or begun.needs() is not None or (malformed and command.endswith("="))
        assert begun.state is State.AUTHORIZATION


def test_each_command_stands_in_one_table() -> None:
    for table in commands.COMMANDS.values():
        assert not authorization.COMMANDS.keys() & table.keys()
