"""What holds for every POP3 session, whatever a client sends and however the network cuts it."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogues.dialogue import PurePeer
from dialogues.world import IN_CLEAR, Maildrops
from winpop.protocol import pop3
from winpop.terms.credentials import Password
from winpop.terms.mail import Listing

Peer = PurePeer[pop3.Need, pop3.Answer, pop3.Ending]

LOGON = b"USER alice@example.com\r\nPASS secret\r\n"
OPENED = pop3.Opened(Listing((10, 20, 30), ("a", "b", "c")))

keywords = st.sampled_from(b"USER PASS APOP AUTH UTF8 LANG CAPA STAT LIST UIDL RETR TOP DELE NOOP RSET".split())
numbers = [b"", b" ", b" 0", b" 1", b" 2", b" 4", b" 5", b" +1", b" 1 0", b" 3 1", b" 4 999"]
names = [b" alice@example.com", b" bob@example.com", b" dave@example.com", b" fails@example.com", b" secret"]
words = [b" de", b" fr", b" *", b" PLAIN", b" LOGIN =", b" SCRAM-SHA-1", b" PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldA=="]
arguments = st.sampled_from(numbers + names + words)
commands = st.builds(bytes.__add__, keywords | keywords.map(bytes.lower), arguments)
noise = st.binary(max_size=300)
lines = st.lists(st.just(b"QUIT") | commands | commands | noise, max_size=25)
scripts = st.builds(
    lambda logon, lines, rest: logon + b"\r\n".join(lines) + rest,
    st.sampled_from([b"", LOGON]),
    lines,
    st.sampled_from([b"\r\n", b"", b"\n", b"\r"]),
)


def session(*, plaintext: bool = True) -> pop3.Session:
    return pop3.Session(pop3.Limits(), pop3.Offer(passwords=plaintext, logons=plaintext, mechanisms=IN_CLEAR))


def peer(maildrops: Maildrops | None = None) -> Peer:
    return PurePeer(session(), (maildrops or Maildrops()).answers, pop3.Ending)


def logged_on() -> pop3.Session:
    """Return a session whose next bytes are the reply to its first command after the logon."""
    opened = session()
    opened.receive(LOGON)
    opened.to_send()
    opened.supply(OPENED)
    opened.to_send()
    return opened


@given(st.binary() | scripts)
def test_no_bytes_break_a_session(data: bytes) -> None:
    client = peer()
    client.send(data)
    assert client.said.startswith(b"+OK ")
    assert client.said.endswith(b"\r\n")


@given(st.booleans(), lines)
def test_every_reply_is_ok_or_err(logon: bool, lines: list[bytes]) -> None:  # noqa: FBT001 - hypothesis calls it
    client = peer()
    client.send(LOGON if logon else b"")
    for line in lines:
        before = len(client.said)
        client.send(line.replace(b"\n", b"") + b"\r\n")
        reply = client.said[before:]
        if not reply:
            assert client.session.closed
            return
        status, *more = reply.split(b"\r\n")
        assert status.startswith((b"+OK", b"-ERR", b"+ "))
        assert len(status) <= 510  # RFC 2449 §4: replies have at most 512 octets, CRLF included
        if more != [b""]:  # a multi-line reply: RFC 1939 §3
            assert status.startswith(b"+OK")
            assert more[-2:] == [b".", b""]
            assert b"." not in more[:-2]


@given(scripts, st.lists(st.integers(0, 600), max_size=10))
def test_the_network_may_cut_anywhere(script: bytes, cuts: list[int]) -> None:
    whole_maildrops, cut_maildrops = Maildrops(), Maildrops()
    whole, cut = peer(whole_maildrops), peer(cut_maildrops)
    whole.send(script)
    places = sorted(min(place, len(script)) for place in cuts)
    for start, end in zip([0, *places], [*places, len(script)], strict=True):
        cut.send(script[start:end])
    assert cut.said == whole.said
    assert cut.session.closed == whole.session.closed
    assert cut_maildrops.removed == whole_maildrops.removed


@given(st.lists(commands | st.just(b"QUIT"), max_size=25))
def test_only_quit_after_a_logon_asks_for_an_update(lines: list[bytes]) -> None:
    updates: list[tuple[int, ...]] = []
    maildrops = Maildrops()

    def answers(need: pop3.Need) -> Iterator[pop3.Answer]:
        if isinstance(need, pop3.Update):
            updates.append(need.indexes)
        return maildrops.answers(need)

    client: Peer = PurePeer(session(), answers, pop3.Ending)
    client.send(LOGON)
    marked: set[int] = set()
    quit_came = False
    for line in lines:
        if client.session.closed:
            break
        before = len(client.said)
        client.send(line + b"\r\n")
        ok = client.said[before:].startswith(b"+OK")
        keyword, _, argument = line.upper().partition(b" ")
        if keyword == b"DELE" and ok:
            marked.add(int(argument) - 1)
        elif keyword == b"RSET" and ok:
            marked.clear()
        quit_came = line == b"QUIT"
    assert updates == ([tuple(sorted(marked))] if quit_came else [])


@pytest.mark.parametrize("reason", pop3.Ending)
def test_no_ending_from_outside_deletes(reason: pop3.Ending) -> None:
    ended = logged_on()
    ended.receive(b"DELE 1\r\n")
    ended.to_send()
    ended.end(reason)
    ended.receive(b"QUIT\r\n")
    said = ended.to_send()
    assert ended.closed
    assert ended.needs() is None
    assert said == b"" if reason is pop3.Ending.IDLE else said.startswith(b"-ERR ")


@pytest.mark.parametrize("reason", pop3.Ending)
@pytest.mark.parametrize("command", [b"RETR 1\r\n", b"TOP 1 9\r\n"])
def test_an_ending_within_a_message_closes_without_its_final_dot(reason: pop3.Ending, command: bytes) -> None:
    ended = logged_on()
    ended.receive(command + b"NOOP\r\n")
    assert ended.to_send() == b""
    ended.supply(pop3.Piece(b"Subject: x\r\n", last=False))
    ended.end(reason)
    ended.supply(pop3.Piece(b"\r\nlate\r\n", last=True))
    assert ended.to_send() == b"+OK Message follows\r\nSubject: x\r\n"
    assert ended.closed
    assert ended.needs() is None


def test_an_ending_before_the_first_piece_is_said() -> None:
    ended = logged_on()
    ended.receive(b"RETR 1\r\n")
    ended.to_send()
    ended.end(pop3.Ending.DOMAIN_LOCKED)
    assert ended.to_send().startswith(b"-ERR [AUTH] ")


def test_an_ending_during_a_logon_is_said_and_the_answer_comes_too_late() -> None:
    ended = session()
    ended.receive(LOGON)
    ended.to_send()
    assert isinstance(ended.needs(), pop3.Logon)
    ended.end(pop3.Ending.SLOW_LOGON)
    ended.supply(OPENED)
    assert ended.to_send() == b"-ERR The logon took too long\r\n"


def test_an_ending_during_the_update_leaves_it_to_the_update() -> None:
    ended = logged_on()
    ended.receive(b"DELE 2\r\nQUIT\r\n")
    ended.to_send()
    ended.end(pop3.Ending.DOMAIN_LOCKED)
    assert ended.needs() == pop3.Update((1,))
    ended.supply(pop3.Updated())
    assert ended.to_send() == b"+OK Bye\r\n"
    assert ended.closed


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (pop3.Unavailable(), b"-ERR [SYS/TEMP] "),
        (pop3.Locked("mailbox"), b"-ERR [AUTH] "),
        (pop3.Refused(), b"-ERR [SYS/PERM] "),
    ],
)
def test_an_update_that_fails_is_never_ok(answer: pop3.Answer, reply: bytes) -> None:
    """RFC 1939 §6: +OK only when what was marked is gone."""
    failing = logged_on()
    failing.receive(b"DELE 1\r\nQUIT\r\n")
    failing.to_send()
    failing.supply(answer)
    assert failing.to_send().startswith(reply)
    assert failing.closed


def test_a_message_that_breaks_off_closes_without_its_final_dot() -> None:
    broken = logged_on()
    broken.receive(b"RETR 1\r\n")
    broken.to_send()
    broken.supply(pop3.Piece(b"half", last=False))
    broken.supply(pop3.Unreadable())
    assert broken.to_send() == b"+OK Message follows\r\nhalf"
    assert broken.closed


def test_a_top_that_has_enough_asks_for_no_more() -> None:
    topped = logged_on()
    topped.receive(b"TOP 2 0\r\nNOOP\r\n")
    topped.to_send()
    assert topped.needs() == pop3.Fetch(1)
    topped.supply(pop3.Piece(b"Subject: x\r\n\r\nbody", last=False))
    assert topped.needs() is None
    assert topped.to_send() == b"+OK Message follows\r\nSubject: x\r\n\r\n.\r\n+OK\r\n"


def test_a_command_waits_for_its_predecessor() -> None:
    waiting = session()
    waiting.receive(LOGON + b"STAT\r\n")
    assert waiting.to_send().count(b"\r\n") == 2  # the greeting and the reply to USER
    assert waiting.commands == 2
    waiting.supply(OPENED)
    assert waiting.to_send() == b"+OK 3 messages (60 octets)\r\n+OK 3 60\r\n"


def test_a_password_is_in_no_repr() -> None:
    asking = session()
    asking.receive(b"USER alice@example.com\r\nPASS CaNaRy\r\n")
    asking.to_send()
    need = asking.needs()
    assert isinstance(need, pop3.Logon)
    assert need.credentials == Password("alice@example.com", b"CaNaRy")
    assert "CaNaRy" not in repr(need)
    assert "CaNaRy" not in repr(asking)


@given(st.binary(max_size=200).filter(lambda data: b"\n" not in data and b"\r" not in data))
def test_nothing_that_came_in_is_sent_back(data: bytes) -> None:
    """F6: a client's control bytes never reach the terminal or the log of another."""
    marker = b"\x1b]ZQ"
    client = peer()
    for keyword in (b"", b"USER ", b"PASS ", b"CAPA ", b"QUIT "):
        client.send(keyword + marker + data + b"\r\n")
    assert marker not in client.said


@pytest.mark.parametrize("reply", [pop3.Opened(Listing()), pop3.Refused(), pop3.Updated()])
def test_an_answer_that_answers_nothing_asked_is_a_defect_of_ours(reply: pop3.Answer) -> None:
    fetching = logged_on()
    fetching.receive(b"RETR 1\r\n")
    fetching.to_send()
    with pytest.raises(TypeError):
        fetching.supply(reply)


def test_a_top_that_failed_does_not_shorten_the_next_message() -> None:
    fetching = logged_on()
    fetching.receive(b"TOP 1 0\r\nRETR 1\r\n")
    fetching.to_send()
    fetching.supply(pop3.Unreadable())
    assert fetching.to_send().startswith(b"-ERR [SYS/TEMP] ")
    fetching.supply(pop3.Piece(b"Subject: x\r\n\r\nbody\r\n", last=True))
    assert fetching.to_send() == b"+OK Message follows\r\nSubject: x\r\n\r\nbody\r\n.\r\n"
