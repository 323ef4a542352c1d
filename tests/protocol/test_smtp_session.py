"""What holds for every SMTP and LMTP session, whatever a client sends and whatever becomes of it here."""

import itertools
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogues.dialogue import PurePeer
from dialogues.world import Deliveries
from winpop.protocol import smtp
from winpop.terms.names import Address

Peer = PurePeer[smtp.Need, smtp.Answer, smtp.Ending]

HELLO = b"EHLO client.example.net\r\n"
LHLO = b"LHLO client.example.net\r\n"
MAIL = b"MAIL FROM:<carol@example.net>\r\n"
ALICE = b"RCPT TO:<alice@example.com>\r\n"
BOB = b"RCPT TO:<bob@example.com>\r\n"
NOBODY = b"RCPT TO:<nobody@example.com>\r\n"
DATA = b"DATA\r\n"
TO_ALICE = HELLO + MAIL + ALICE + DATA
MESSAGE = b"Subject: x\r\n\r\ntext\r\n"
DOT = b".\r\n"

REPLY = re.compile(
    rb"(?:250[ -][!-~ ]+|220 [!-~ ]+|354 [!-~ ]+|501 The [!-~ ]+|([245])[0-9]{2} \1(?:\.[0-9]{1,3}){2} [!-~ ]+)"
)


class World(Deliveries):
    """The world of the dialogues, and one in which things go wrong."""

    def __init__(self, trouble: dict[type[smtp.Need], bool] | None = None, gone: tuple[str, ...] = ()) -> None:
        """Answer some needs with `Unavailable(full)`; some mailboxes are deleted before the end of the data."""
        super().__init__()
        self.trouble = trouble or {}
        self.gone = tuple(map(Address.parse, gone))
        self.needs: list[str] = []

    def answers(self, need: smtp.Need) -> Iterator[smtp.Answer]:
        self.needs.append(type(need).__name__)
        if type(need) in self.trouble:
            yield smtp.Unavailable(self.trouble[type(need)])
        elif isinstance(need, smtp.Commit):
            list(super().answers(need))
            yield smtp.Committed(tuple(address not in self.gone for address in need.envelope.recipients))
        else:
            yield from super().answers(need)


class Watched(smtp.Session):
    """A session that tells whether it has refused a DATA: the one place where cuts may show."""

    refused_data = False

    def _refuse_data(self, reply: bytes) -> None:
        self.refused_data = True
        super()._refuse_data(reply)


def session(limits: smtp.Limits | None = None, *, lmtp: bool = False) -> Watched:
    return Watched(limits or smtp.Limits(), hostname="mail.example.com", lmtp=lmtp)


def peer(world: Deliveries | None = None, limits: smtp.Limits | None = None, *, lmtp: bool = False) -> Peer:
    return PurePeer(session(limits, lmtp=lmtp), (world or World()).answers, smtp.Ending)


def replies(client: Peer) -> list[bytes]:
    """Return the replies since the last time, the last line of each."""
    lines = client.unread.split(b"\r\n")[:-1]
    client.unread = b""
    return [line for line in lines if line[3:4] == b" "]


def codes(client: Peer) -> list[bytes]:
    return [b" ".join(re.findall(rb"^[0-9]{3}|(?<= )[0-9]\.[0-9]\.[0-9](?= )", reply)) for reply in replies(client)]


def said(*pieces: bytes, world: Deliveries | None = None, limits: smtp.Limits | None = None) -> list[bytes]:
    """Return the codes of the replies to all of these, the greeting's not among them."""
    client = peer(world, limits)
    for piece in pieces:
        client.send(piece)
    return codes(client)[1:]


# --- whatever comes in ---

words = st.sampled_from(
    [b"NOOP", b"RSET", b"QUIT", b"DATA", b"VRFY alice", b"HELP", b"EXPN x", b"BDAT 10 LAST", b"STARTTLS", b"AUTH X"]
)
hellos = st.sampled_from([b"EHLO a.example", b"HELO a.example", b"LHLO a.example", b"EHLO", b"HELO a b"])
mails = st.sampled_from(
    [MAIL[:-2], b"MAIL FROM:<>", b"mail from:<> size=10", b"MAIL FROM:<> SIZE=999", b"MAIL FROM: <>", b"MAIL FROM:<> X"]
)
rcpts = st.sampled_from(
    [
        *(line[:-2] for line in (ALICE, BOB, NOBODY)),
        b"rcpt to:<PostMaster>",
        b"RCPT TO:<x@elsewhere.example>",
        b"RCPT TO:<fails@example.com>",
        b"RCPT TO:<>",
        b"RCPT TO:<alice@example.com> NOTIFY=NEVER",
    ]
)
messages = st.sampled_from(
    [
        MESSAGE + b".",
        b"..stuffed\r\n.",
        b"Received: a\r\nReceived: b\r\nReceived: c\r\nReceived: d\r\n\r\n.",
        b"a\0b\r\n.",
        b"x" * 90 + b"\r\n.",
        b"x\n.",
        b"x\r.\r\n.",
        b".",
    ]
)
valid = st.tuples(mails.map(lambda _: MAIL[:-2]), rcpts, st.just(b"DATA"), messages).map(b"\r\n".join)
lines = st.lists(valid | words | hellos | mails | rcpts | messages | st.binary(max_size=20), max_size=20)
scripts = st.builds(
    lambda hello, lines, end: b"\r\n".join([*hello, *lines]) + end,
    st.sampled_from([[], [HELLO[:-2]], [LHLO[:-2]]]),
    lines,
    st.sampled_from([b"", b"\r\n", b"\r", b"\n"]),
)
SMALL = smtp.Limits(line=100, message=80, recipients=3, errors=8, idle_commands=8, hops=3)


@given(st.binary() | scripts, st.booleans())
def test_no_bytes_break_a_session(data: bytes, lmtp: bool) -> None:  # noqa: FBT001 - hypothesis calls it
    client = peer(limits=SMALL, lmtp=lmtp)
    client.send(data)
    assert client.said.endswith(b"\r\n")
    for line in client.said.split(b"\r\n")[:-1]:
        assert REPLY.fullmatch(line)
        assert len(line) <= 510  # RFC 5321 §4.5.3.1


@given(scripts, st.lists(st.integers(0, 500), max_size=8), st.booleans())
def test_what_is_said_does_not_depend_on_cuts(data: bytes, cuts: list[int], lmtp: bool) -> None:  # noqa: FBT001
    worlds = World(), World()
    slow, cut = (peer(world, SMALL, lmtp=lmtp) for world in worlds)
    for octet in data:
        slow.send(bytes([octet]))
    places = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(places):
        cut.send(data[start:end])
    assert isinstance(slow.session, Watched)
    if slow.session.refused_data:  # RFC 2920 §3.1: what comes with a refused DATA closes, what comes later is heard
        assert slow.said.startswith(cut.said)
        assert cut.session.closed or slow.said == cut.said
    else:
        assert cut.said == slow.said
        assert cut.session.closed == slow.session.closed
        assert [(need, body) for need, body in worlds[0].delivered] == worlds[1].delivered


@given(scripts, st.booleans())
def test_a_place_is_committed_or_abandoned_once(data: bytes, lmtp: bool) -> None:  # noqa: FBT001
    world = World()
    client = peer(world, SMALL, lmtp=lmtp)
    client.send(data)
    opened = world.needs.count("Open")
    finished = world.needs.count("Commit") + world.needs.count("Abandon")
    left = isinstance(client.session, smtp.Session) and client.session.receiving
    assert finished <= opened <= finished + left


def test_bytes_from_the_client_are_never_sent_back() -> None:
    for lmtp, hello in ((False, b"EHLO"), (True, b"LHLO")):
        client = peer(lmtp=lmtp)
        for line in (hello, b"MAIL FROM:", b"MAIL FROM:<CaNaRy@x.example>", b"RCPT TO:<CaNaRy@example.com>", b"VRFY"):
            client.send(line + b" CaNaRy\r\n")
            client.send(line + b"\r\n")
        assert b"canary" not in client.said.lower()


# --- delivery ---


def test_a_message_is_delivered_as_it_came() -> None:
    """RFC 5321 §2.3.1: the envelope, and the content as it is."""
    world = World()
    client = peer(world)
    client.send(TO_ALICE + MESSAGE + b"..\r\n" + DOT + b"QUIT\r\n")
    [(need, body)] = world.delivered
    assert body == MESSAGE + b".\r\n"
    assert need.envelope.sender == "carol@example.net"
    assert need.envelope.recipients == (Address.parse("alice@example.com"),)
    assert not need.plain
    assert client.session.closed
    assert codes(client) == [b"220", b"250", b"250 2.1.0", b"250 2.1.5", b"354", b"250 2.0.0", b"221 2.0.0"]


def test_a_recipient_who_is_named_twice_gets_one_message() -> None:
    world = World()
    client = peer(world, lmtp=True)
    client.send(LHLO + MAIL + ALICE + BOB + ALICE.lower() + DATA + MESSAGE + DOT)
    [(need, _)] = world.delivered
    assert [str(address) for address in need.envelope.recipients] == ["alice@example.com", "bob@example.com"]
    assert codes(client)[-3:] == [b"250 2.0.0"] * 3  # RFC 2033 §4.2: one for each RCPT


def test_nothing_of_a_message_is_left_for_the_next() -> None:
    for between in (b"RSET\r\n", HELLO, DATA + MESSAGE + DOT):
        assert said(HELLO, MAIL, ALICE, between, MAIL, DATA)[-2:] == [b"250 2.1.0", b"503 5.5.1"]


def test_a_wrong_hello_leaves_everything_as_it_was() -> None:
    assert said(HELLO, MAIL, ALICE, b"EHLO\r\n", DATA)[-2:] == [b"501", b"354"]


def test_each_piece_is_written_when_it_comes() -> None:
    world = World()
    client = peer(world)
    client.send(TO_ALICE)
    for _ in range(3):
        client.send(b"text\r\nte")
    assert world.needs == ["Verify", "Open", "Write", "Write", "Write"]
    assert isinstance(client.session, smtp.Session)
    assert client.session.receiving
    assert client.session.in_transaction


def test_nothing_is_acknowledged_before_it_is_durable() -> None:
    waiting = session()
    waiting.receive(TO_ALICE + DOT + b"QUIT\r\n")
    for answer in (smtp.Accepted(Address.parse("alice@example.com")), smtp.Done()):
        waiting.to_send()
        waiting.supply(answer)
    assert waiting.to_send().startswith(b"354 ")
    assert isinstance(waiting.needs(), smtp.Commit)
    assert waiting.to_send() == b""
    waiting.supply(smtp.Committed((True,)))
    assert waiting.to_send().startswith(b"250 2.0.0 ")


# --- LMTP (RFC 2033 §4.2) ---


def lmtp_end(world: World, body: bytes, limits: smtp.Limits | None = None) -> list[bytes]:
    client = peer(world, limits, lmtp=True)
    client.send(LHLO + MAIL + ALICE + NOBODY + BOB + DATA)
    codes(client)
    client.send(body)
    return codes(client)


def test_lmtp_replies_for_each_recipient() -> None:
    assert lmtp_end(World(), MESSAGE + DOT) == [b"250 2.0.0"] * 2


def test_lmtp_tells_of_a_mailbox_that_was_deleted_meanwhile() -> None:
    gone = World(gone=("alice@example.com",))
    assert lmtp_end(gone, MESSAGE + DOT) == [b"550 5.1.1", b"250 2.0.0"]
    gone = World(gone=("alice@example.com", "bob@example.com"))
    assert lmtp_end(gone, MESSAGE + DOT) == [b"550 5.1.1"] * 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"x" * 81 + b"\r\n" + DOT, b"552 5.3.4"),
        (b"x" * 200, b"552 5.3.4"),
        (b"\0\r\n" + DOT, b"550 5.6.0"),
        (b"\n", b"550 5.5.2"),
    ],
)
def test_lmtp_refuses_for_each_recipient(body: bytes, code: bytes) -> None:
    assert lmtp_end(World(), body, SMALL) == [code] * 2


def test_smtp_has_one_reply_whoever_was_deleted() -> None:
    transaction = HELLO, MAIL, ALICE, BOB, DATA, MESSAGE + DOT
    assert said(*transaction, world=World(gone=("bob@example.com",)))[-1] == b"250 2.0.0"
    gone = World(gone=("alice@example.com", "bob@example.com"))
    assert said(*transaction, world=gone)[-1] == b"550 5.1.1"


# --- no open relay (H1) ---

RELAY_FORMS = [
    b"<victim@elsewhere.example>",
    b"<victim%elsewhere.example@example.com>",
    b"<victim%elsewhere.example@[192.0.2.25]>",
    b"<victim%elsewhere.example@localhost>",
    b"<elsewhere.example!victim>",
    b"<elsewhere.example!victim@example.com>",
    b"<elsewhere.example!victim@[192.0.2.25]>",
    b"<@example.com:victim@elsewhere.example>",
    b"<@mail.example.com,@example.com:victim@elsewhere.example>",
    b"<@[192.0.2.25]:victim@elsewhere.example>",
    b'<"victim@elsewhere.example">',
    b'<"victim@elsewhere.example"@example.com>',
    b'<"victim@elsewhere.example"@[192.0.2.25]>',
    b'<"victim%elsewhere.example"@example.com>',
    b'<"victim%elsewhere.example">',
    b"<victim@elsewhere.example@example.com>",
    b"<victim@elsewhere.example@[192.0.2.25]>",
    b"<victim@[192.0.2.1]>",
    b"<victim@[IPv6:2001:db8::1]>",
    b"<victim>",
    b"<victim@elsewhere.example.example.com>",
    b"<alice@example.com,victim@elsewhere.example>",
    b"victim@elsewhere.example",
]
SENDERS = [b"<>", b"<carol@example.net>", b"<alice@example.com>"]


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("form", RELAY_FORMS)
def test_this_is_no_relay(form: bytes, sender: bytes) -> None:
    world = World()
    client = peer(world)
    client.send(HELLO + b"MAIL FROM:" + sender + b"\r\n")
    codes(client)
    client.send(b"RCPT TO:" + form + b"\r\n")
    assert codes(client)[0] in (b"501 5.1.3", b"550 5.1.1", b"550 5.7.1")
    client.send(DATA)
    assert codes(client) == [b"554 5.5.1"]
    assert "Open" not in world.needs


# --- what is too much ---


def test_size_is_refused_when_it_is_declared() -> None:
    assert said(HELLO, b"MAIL FROM:<> SIZE=80\r\n", limits=SMALL)[-1] == b"250 2.1.0"
    assert said(HELLO, b"MAIL FROM:<> SIZE=81\r\n", limits=SMALL)[-1] == b"552 5.3.4"
    assert said(HELLO, b"MAIL FROM:<> SIZE=" + b"9" * 20 + b"\r\n")[-1] == b"552 5.3.4"


@pytest.mark.parametrize("size", [b"", b"+5", b"-1", b"1_0", b"1.0", b"0x1", b"9" * 21, b"\xd9\xa1"])
def test_a_size_is_digits(size: bytes) -> None:
    assert said(HELLO, b"MAIL FROM:<> SIZE=" + size + b"\r\n")[-1] == b"501 5.5.4"


def test_size_is_refused_when_it_is_found_and_nothing_more_is_stored() -> None:
    world = World()
    client = peer(world, SMALL)
    client.send(TO_ALICE)
    for _ in range(14):
        client.send(b"x" * 10)
    client.send(b"\r\n" + DOT + b"NOOP\r\n")
    assert codes(client)[-2:] == [b"552 5.3.4", b"250 2.0.0"]
    assert world.needs == ["Verify", "Open", *["Write"] * 8, "Abandon"]


def test_exactly_the_limit_is_taken() -> None:
    for size, code in ((80, b"250 2.0.0"), (81, b"552 5.3.4")):
        body = b"." * (size - 2) + b"\r\n"
        assert said(TO_ALICE, b"." + body + DOT, limits=SMALL)[-1] == code


def test_more_than_twice_the_limit_closes() -> None:
    world = World()
    client = peer(world, SMALL)
    client.send(TO_ALICE + b"x" * 1000 + b"\r\n" + DOT + b"NOOP\r\n")
    assert codes(client)[-1] == b"552 5.3.4"
    assert client.session.closed
    assert world.needs[-1] == "Abandon"


def test_fifty_hops_are_no_loop() -> None:
    """RFC 5321 §6.3."""
    for hops, code in ((50, b"250 2.0.0"), (51, b"554 5.4.6")):
        assert said(TO_ALICE, b"Received: x\r\n" * hops + b"\r\n" + DOT)[-1] == code


def test_recipients_beyond_the_limit_wait_and_the_others_get_their_mail() -> None:
    """RFC 5321 §4.5.3.1.10."""
    limits = smtp.Limits(recipients=30, errors=20)
    transaction = HELLO, MAIL, ALICE * 60, DATA, MESSAGE + DOT
    expected = [*[b"250 2.1.5"] * 30, *[b"452 4.5.3"] * 30, b"354", b"250 2.0.0"]
    assert said(*transaction, limits=limits)[2:] == expected


def test_recipients_without_end_are_errors() -> None:
    client = peer(limits=smtp.Limits(recipients=30, errors=20))
    client.send(HELLO + MAIL + ALICE * 100)
    assert codes(client)[-2:] == [b"452 4.5.3", b"421 4.7.0"]
    assert client.session.closed


def test_errors_close() -> None:
    client = peer()
    client.send(HELLO + MAIL + NOBODY * 30)
    assert codes(client)[3:] == [*[b"550 5.1.1"] * 20, b"421 4.7.0"]
    assert client.session.closed


@pytest.mark.parametrize("command", [b"NOOP\r\n", b"RSET\r\n", b"VRFY x\r\n", b"HELP\r\n", HELLO, MAIL + b"RSET\r\n"])
def test_commands_that_lead_nowhere_close(command: bytes) -> None:
    client = peer()
    client.send(HELLO + command * 120)
    assert client.session.closed
    assert codes(client)[-1] == b"421 4.7.0"


def test_a_delivery_forgives() -> None:
    client = peer()
    client.send(HELLO)
    for _ in range(10):
        client.send(b"NOOP\r\n" * 50 + MAIL + NOBODY * 15 + ALICE + DATA + MESSAGE + DOT)
    assert not client.session.closed
    assert codes(client)[-1] == b"250 2.0.0"


# --- where a message and commands could be mixed up ---

REFUSED_DATA = [
    (b"", DATA, b"503 5.5.1"),
    (HELLO, DATA, b"503 5.5.1"),
    (HELLO + MAIL, DATA, b"503 5.5.1"),
    (HELLO + MAIL + NOBODY, DATA, b"554 5.5.1"),
    (HELLO + MAIL + ALICE, b"DATA now\r\n", b"501 5.5.4"),
    (HELLO + MAIL + ALICE, b"BDAT 60 LAST\r\n", b"502 5.5.1"),
]


@pytest.mark.parametrize(("before", "data", "code"), REFUSED_DATA)
def test_what_comes_with_a_refused_data_is_not_heard(before: bytes, data: bytes, code: bytes) -> None:
    client = peer()
    client.send(before + data + MAIL + ALICE + DATA + MESSAGE + DOT)
    assert client.session.closed
    assert codes(client)[-1] == code


@pytest.mark.parametrize(("before", "data", "code"), REFUSED_DATA)
def test_what_comes_after_a_refused_data_is(before: bytes, data: bytes, code: bytes) -> None:
    assert said(before + data, b"NOOP\r\n")[-2:] == [code, b"250 2.0.0"]


@pytest.mark.parametrize("full", [False, True])
def test_no_place_for_a_message(full: bool) -> None:  # noqa: FBT001 - pytest calls it
    code = b"452 4.3.1" if full else b"451 4.3.0"
    assert said(TO_ALICE, DATA, b"RSET\r\n", world=World({smtp.Open: full}))[-3:] == [code, code, b"250 2.0.0"]
    client = peer(World({smtp.Open: full}))
    client.send(TO_ALICE + MESSAGE + DOT)
    assert codes(client)[-1] == code
    assert client.session.closed


@pytest.mark.parametrize("line", [b"Subject: x", b"Host: a.example", b"X:", b"mail:x"])
def test_a_header_line_closes(line: bytes) -> None:
    for before in (b"", HELLO, HELLO + MAIL):
        client = peer()
        client.send(before + line + b"\r\n" + MAIL)
        assert codes(client)[-1] == b"521 5.5.2"
        assert client.session.closed


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"PRI * HTTP/2.0"])
def test_http_closes(line: bytes) -> None:
    client = peer()
    client.send(line + b"\r\nHost: a\r\n\r\n" + HELLO)
    assert codes(client) == [b"220", b"421 4.7.0"]
    assert client.session.closed


@pytest.mark.parametrize("line", [b"NOOP\n", b"NO\rOP\r\n", b"NOOP\r\r\n", b"\n", b"x" * 4095 + b"\r\n"])
def test_a_line_whose_end_is_in_doubt_closes(line: bytes) -> None:
    client = peer()
    client.send(HELLO + line + HELLO)
    assert codes(client) == [b"220", b"250", b"500 5.5.2"]
    assert client.session.closed


def test_the_longest_line() -> None:
    assert said(b"NOOP " + b"x" * (4096 - 7) + b"\r\n") == [b"250 2.0.0"]


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\r\n.\r\n", b"\r\n.\r\r\n", b"\r\n\r.\r\n"]
)
def test_a_smuggled_message_is_not_heard(end: bytes) -> None:
    world = World()
    client = peer(world)
    client.send(TO_ALICE + b"text" + end + MAIL + ALICE + DATA + MESSAGE + DOT)
    assert codes(client)[-2:] == [b"354", b"550 5.5.2"]
    assert client.session.closed
    assert world.needs == ["Verify", "Open", "Abandon"]


# --- trouble here ---


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("need", [smtp.Write, smtp.Commit])
def test_a_message_that_cannot_be_stored(need: type[smtp.Need], full: bool) -> None:  # noqa: FBT001
    world = World({need: full})
    client = peer(world)
    client.send(TO_ALICE)
    codes(client)
    for piece in (MESSAGE, MESSAGE, DOT, b"NOOP\r\n"):
        client.send(piece)
    assert codes(client) == [b"452 4.3.1" if full else b"451 4.3.0", b"250 2.0.0"]
    assert world.needs.count("Abandon") == (need is smtp.Write)
    assert world.needs.count("Write") == (1 if need is smtp.Write else 3)  # the last line end comes with the dot


def test_what_is_wrong_for_ever_is_told_before_what_is_wrong_now() -> None:
    world = World({smtp.Write: True})
    assert said(TO_ALICE, b"x\r\n", b"\0\r\n" + DOT, world=world)[-1] == b"550 5.6.0"


def test_a_directory_that_cannot_say() -> None:
    assert said(HELLO, MAIL, b"RCPT TO:<fails@example.com>\r\n")[-1] == b"451 4.3.0"
    assert said(HELLO, MAIL, ALICE, world=World({smtp.Verify: True}))[-1] == b"452 4.3.1"


ENDINGS = [
    (smtp.Ending.IDLE, b"421 4.4.2"),
    (smtp.Ending.SLOW, b"421 4.4.2"),
    (smtp.Ending.STOPPING, b"421 4.3.2"),
    (smtp.Ending.OVERLOADED, b"421 4.3.2"),
    (smtp.Ending.UNAVAILABLE, b"421 4.3.0"),
]


@pytest.mark.parametrize(("reason", "code"), ENDINGS)
@pytest.mark.parametrize("before", [b"", HELLO, HELLO + MAIL + ALICE, TO_ALICE + b"half a mes"])
def test_a_session_that_is_ended_says_why(reason: smtp.Ending, code: bytes, before: bytes) -> None:
    """RFC 5321 §4.2: 421 may be the reply to any command."""
    world = World()
    client = peer(world)
    client.send(before)
    codes(client)
    client.end(reason.name)
    client.end(reason.name)
    client.send(b"sage\r\n.\r\n")
    assert codes(client) == [code]
    assert client.session.closed
    assert not world.delivered


@pytest.mark.parametrize("answer", [smtp.Committed((True,)), smtp.Unavailable()])
def test_a_commit_decides_before_the_session_ends(answer: smtp.Answer) -> None:
    ended = session()
    ended.receive(TO_ALICE + DOT + b"NOOP\r\n")
    for given_answer in (smtp.Accepted(Address.parse("alice@example.com")), smtp.Done()):
        ended.to_send()
        ended.supply(given_answer)
    ended.to_send()
    ended.end(smtp.Ending.STOPPING)
    assert isinstance(ended.needs(), smtp.Commit)
    assert ended.to_send() == b""
    ended.supply(answer)
    assert ended.closed
    assert re.fullmatch(rb"(250|451) [!-~ ]+\r\n", ended.to_send())
    assert ended.backlog == 0


def test_an_answer_after_the_end_is_ignored() -> None:
    ended = session()
    ended.receive(HELLO + MAIL + ALICE)
    ended.to_send()
    ended.end(smtp.Ending.IDLE)
    ended.supply(smtp.Accepted(Address.parse("alice@example.com")))
    assert ended.to_send().startswith(b"421 ")
    assert ended.to_send() == b""


@pytest.mark.parametrize("answer", [smtp.Done(), smtp.Committed((True,))])
def test_an_answer_to_something_else_is_a_mistake_of_ours(answer: smtp.Answer) -> None:
    asking = session()
    asking.receive(HELLO + MAIL + ALICE)
    asking.to_send()
    with pytest.raises(TypeError):
        asking.supply(answer)
