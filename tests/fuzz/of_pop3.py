"""The POP3 session, fuzzed: what it must do whatever a client sends, whatever it is told and however it is cut.

A script is held three times: whole, cut, and line by line beside a model that knows only RFC 1939; what is said must be
the same. Then it is held once more and ended from outside. Invariant: the model takes nothing from the session but
what it says and what it asks.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fuzz.chosen import Answers, Chosen, law
from winpop.protocol import pop3
from winpop.terms.mail import Listing

LIMITS = pop3.Limits(line=64, failures=3, errors=6)
CANARY = b"CaNaRy"
WORDS = (
    *b"USER PASS CAPA STAT LIST UIDL RETR TOP DELE NOOP RSET QUIT GET".split(),
    b"USER a\r\nPASS b\r\n",
    b"\r\n",
    b"\r\n.\r\n",
    b"RETR 6\r\n",
    b"TOP 6 1\r\n",
    b"DELE 1\r\n",
    b" 1",
    b" 6 2",
    b" HTTP/1",
    CANARY,
)

_MESSAGES = (
    b"From: Bob <bob@example.com>\r\nSubject: lunch\r\n\r\nAt noon?\r\n.by the gate\r\nBob\r\n",
    b"Subject: nothing to add\r\n\r\n",
    b"\r\nGr\xfc\xdfe\r\n",
    b"Subject: dots\r\n\r\n..\r\n.\r\n",
    b"Subject: open\r\n\r\nno line end",
)
_MANY = 2001
_STATUS = re.compile(rb"\+OK(?: [ -~]+)?|-ERR [ -~]+")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_LOGON = ("opened", "refused", "domain", "mailbox", "in use", "unavailable", "empty", "many")
_PIECES = 4  # choices below it are the whole message and three ways in which it cannot be read


@dataclass(slots=True)
class World:
    """What answers the needs of one session, and remembers what was asked."""

    answers: Answers
    messages: tuple[bytes, ...]
    opened: tuple[bytes, ...] | None = None
    updates: list[tuple[int, ...]] = field(default_factory=list)
    fetched: list[tuple[int, bool]] = field(default_factory=list)
    """The messages that were asked for, and whether they could be read to the end."""

    def listing(self) -> Listing:
        messages = self.opened or ()
        return Listing(tuple(map(len, messages)), tuple(f"u{n}" for n in range(1, len(messages) + 1)))

    def answer(self, need: pop3.Need) -> Iterator[pop3.Answer]:
        choice = self.answers.next()
        match need:
            case pop3.Logon():
                yield self._logon(_LOGON[choice % len(_LOGON)])
            case pop3.Update(indexes):
                self.updates.append(indexes)
                yield (
                    pop3.Updated(),
                    pop3.Unavailable(),
                    pop3.Locked("domain"),
                    pop3.Locked("mailbox"),
                    pop3.Refused(),
                )[choice % 5]
            case pop3.Fetch(index):
                yield from self._fetched(index, choice)

    def _logon(self, choice: str) -> pop3.Answer:
        match choice:
            case "refused":
                return pop3.Refused()
            case "domain" | "mailbox":
                return pop3.Locked(choice)
            case "in use":
                return pop3.InUse()
            case "unavailable":
                return pop3.Unavailable()
        self.opened = {"opened": self.messages, "empty": (), "many": (b"x\r\n",) * _MANY}[choice]
        return pop3.Opened(self.listing())

    def _fetched(self, index: int, choice: int) -> Iterator[pop3.Answer]:
        assert self.opened is not None
        message = self.opened[index]
        self.fetched.append((index, not 1 <= choice < _PIECES))
        if choice in (1, 2):
            yield pop3.Unreadable(permanent=choice == 2)
            return
        size = choice - _PIECES + 1 if choice >= _PIECES else len(message) // 2 + 1
        plain = b"\r\n." not in b"\r\n" + message
        for start in range(0, max(1, len(message)), size):
            last = start + size >= len(message)
            if choice == 3 and (last or start):
                yield pop3.Unreadable()
                return
            yield pop3.Piece(message[start : start + size], last=last, plain=plain)


class Held:
    """A session and its world; what is asked is answered at once."""

    def __init__(self, chosen: Chosen) -> None:
        self.session = pop3.Session(LIMITS, plaintext=not chosen.flags & 1)
        own = b"\r\n".join(line.replace(b"\r", b"").replace(b"\n", b"") for line in chosen.script.split(b"\r\n"))
        self.world = World(Answers(chosen.answers), (*_MESSAGES, own))
        self.said = self._listen()
        self.within = False
        """Pieces of a message went out, and its end did not."""

    def before_step(self) -> None:
        """Do nothing; it is called before bytes or an answer are given."""

    def send(self, data: bytes) -> bytes:
        """Send bytes and return what is said to them."""
        before = len(self.said)
        self.session.receive(data)
        self.go_on()
        law(self.session.backlog < LIMITS.line, "a line is not looked at", self.session.backlog)
        return self.said[before:]

    def go_on(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        need = self.session.needs()
        if need is not None:
            for answer in self.world.answer(need):
                self.before_step()
                self.session.supply(answer)
                self.said += self._listen()
                self.within = self.session.needs() is need
                if self.session.needs() is not need:
                    break
            law(self.session.needs() is not need, "an answered need stays open", need)
        data = self._listen()
        self.said += data
        return data != b"" or self.session.needs() is not None

    def _listen(self) -> bytes:
        silent = self.session.closed
        data = self.session.to_send()
        if silent:
            law(self.session.needs() is None, "a closed session needs something")
        return data


def pop3_session(data: bytes) -> None:
    """Hold the laws of the POP3 session against one input."""
    chosen = Chosen.of(data)
    whole = _held(chosen, [chosen.script])
    cut = _held(chosen, chosen.pieces())
    law(cut.said == whole.said, "cuts change what is said", whole.said, cut.said)
    law(cut.world.updates == whole.world.updates, "cuts change what is removed")
    law(cut.session.closed == whole.session.closed, "cuts change whether it closes")
    modelled = _modelled(chosen)
    law(modelled.said == whole.said, "lines change what is said", whole.said, modelled.said)
    if chosen.ends:
        _ended(chosen, whole)


def _held(chosen: Chosen, pieces: Iterable[bytes]) -> Held:
    held = Held(chosen)
    for piece in pieces:
        held.send(piece)
    _nothing_more(held)
    return held


def _nothing_more(held: Held) -> None:
    if held.session.closed:
        law(held.send(b"CAPA\r\nQUIT\r\n") == b"", "something is said after the end")
        law(held.session.needs() is None, "something is needed after the end")


class Ended(Held):
    """A session that is ended from outside before the chosen step, unless it runs an update then."""

    def __init__(self, chosen: Chosen) -> None:
        super().__init__(chosen)
        self.left = chosen.ends
        self.reason = list(pop3.Ending)[chosen.reason % len(pop3.Ending)]
        self.removed: int | None = None

    def before_step(self) -> None:
        self.left -= 1
        session = self.session
        if self.left or session.closed or isinstance(session.needs(), pop3.Update):
            return
        speechless = self.within or session._long is not None or self.reason is pop3.Ending.IDLE
        self.removed = len(self.world.updates)
        session.end(self.reason)
        law(session.closed, "an ending does not close", self.reason)
        law(session.needs() is None, "an ended session needs something", self.reason)
        said = session.to_send()
        if speechless:
            law(said == b"", "an ending speaks where it must not", self.reason, said)
        else:
            law(said.startswith(b"-ERR ") and said.endswith(b"\r\n"), "an ending is no error", said)
            law(_STATUS.fullmatch(said[:-2]), "an ending is no reply", said)


def _ended(chosen: Chosen, whole: Held) -> None:
    """End the session at the chosen step: nothing is removed that QUIT did not ask for, and no more is said."""
    held = Ended(chosen)
    for piece in chosen.pieces():
        held.before_step()
        held.send(piece)
    if held.removed is not None:
        law(whole.said.startswith(held.said), "an ending changes what was said before it", whole.said, held.said)
        law(held.send(b"QUIT\r\n") == b"", "something is said after an ending", held.said)
        law(len(held.world.updates) == held.removed, "an ending removes", held.world.updates)


class Model:
    """A maildrop as RFC 1939 has it: what each command must be answered."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.open = False
        self.deleted: set[int] = set()

    @property
    def messages(self) -> tuple[bytes, ...]:
        return self.held.world.opened or ()

    def left(self) -> list[int]:
        return [index for index in range(len(self.messages)) if index not in self.deleted]

    def totals(self) -> tuple[int, int]:
        return len(self.left()), sum(len(self.messages[index]) for index in self.left())

    def check(self, line: bytes, reply: bytes) -> None:
        """Check the reply to one command line, and follow what it did."""
        status, crlf, rest = reply.partition(b"\r\n")
        law(crlf, "a reply has no line end", line, reply)
        law(_STATUS.fullmatch(status), "this is no status line", line, status)
        law(len(status) <= 510, "a status line is too long", status)
        law(CANARY not in status, "the client's bytes come back", line, status)
        keyword, space, argument = line.partition(b" ")
        keyword = keyword.upper()
        ok = status.startswith(b"+OK")
        if not ok:
            law(rest == b"", "more than an error is said", line, reply)
        if self.open:
            self._transaction(keyword, argument if space else None, reply, ok=ok)
            law(self.held.session.marked == len(self.deleted), "another number is marked", line)
        else:
            law(not ok or keyword in (b"CAPA", b"USER", b"PASS", b"QUIT"), "this is not for strangers", line, reply)
            law(keyword == b"CAPA" or rest == b"", "more than a line is said", line, reply)
            self.open = ok and keyword == b"PASS"
        if ok and keyword == b"CAPA":
            law(rest.endswith(b"\r\n.\r\n") and rest.count(b"\r\n.") == 1, "CAPA has no end", rest)
            law((b"\r\nUSER\r\n" in reply) == self.held.session.plaintext, "CAPA promises what is not accepted", reply)

    def _transaction(self, keyword: bytes, argument: bytes | None, reply: bytes, *, ok: bool) -> None:
        match keyword:
            case b"STAT" | b"NOOP" | b"RSET" | b"QUIT" | b"CAPA" if argument is not None:
                law(not ok, "an argument is taken where there is none", keyword, argument)
            case b"STAT":
                law(reply == b"+OK %d %d\r\n" % self.totals(), "STAT counts wrong", reply, self.totals())
            case b"LIST" | b"UIDL":
                self._listed(keyword, argument, reply)
            case b"DELE" if self._index(argument) is not None:
                law(ok, "DELE of a message that is there fails", reply)
                self.deleted.add(self._index(argument) or 0)
            case b"RETR" if self._index(argument) is not None:
                self._given(reply, self._index(argument) or 0, None)
            case b"TOP":
                self._topped((argument or b""), reply)
            case b"RSET":
                self.deleted.clear()
                law(ok, "RSET fails", reply)
            case _:
                self._others(keyword, reply, ok=ok)

    def _others(self, keyword: bytes, reply: bytes, *, ok: bool) -> None:
        match keyword:
            case b"QUIT":
                law(self.held.world.updates == [tuple(sorted(self.deleted))], "QUIT removes what is not marked")
                law(self.held.session.closed, "QUIT does not close")
            case b"NOOP":
                law(reply == b"+OK\r\n", "NOOP fails", reply)
            case b"CAPA":
                law(ok, "CAPA fails", reply)
            case _:
                law(not ok, "something unknown is done", keyword, reply)

    def _index(self, argument: bytes | None) -> int | None:
        number = int(argument) - 1 if _NUMBER.fullmatch(argument or b"") and argument else -1
        return number if 0 <= number < len(self.messages) and number not in self.deleted else None

    def _listed(self, keyword: bytes, argument: bytes | None, reply: bytes) -> None:
        def shown(index: int) -> bytes:
            what = b"%d" % len(self.messages[index]) if keyword == b"LIST" else b"u%d" % (index + 1)
            return b"%d %b\r\n" % (index + 1, what)

        index = self._index(argument)
        if argument is None:
            lines = reply.partition(b"\r\n")[2]
            law(lines == b"".join(map(shown, self.left())) + b".\r\n", "a listing is wrong", keyword, reply)
        elif index is not None:
            law(reply == b"+OK " + shown(index), "a line of a listing is wrong", reply)
        else:
            law(reply.startswith(b"-ERR"), "what is not there is listed", argument, reply)

    def _topped(self, argument: bytes, reply: bytes) -> None:
        number, _, lines = argument.partition(b" ")
        index = self._index(number)
        if index is not None and _NUMBER.fullmatch(lines):
            self._given(reply, index, int(lines))
        else:
            law(reply.startswith(b"-ERR"), "TOP of nothing is given", argument, reply)

    def _given(self, reply: bytes, index: int, lines: int | None) -> None:
        """Check a message on its way out: as a whole, or so many lines of its body."""
        asked, readable = self.held.world.fetched[-1]
        law(asked == index, "another message is asked for", index, asked)
        text = self.messages[index] if lines is None else _top(self.messages[index], lines)
        body = reply.partition(b"\r\n")[2]
        whole = _stuffed(text)
        if readable:
            law(body == whole, "a message goes out changed", index, lines, reply)
        elif body != whole:  # TOP may have had enough before it broke off
            law(not body.endswith(b"\r\n.\r\n"), "half a message looks like a whole one", reply)
            law(reply.startswith(b"-ERR") or self.held.session.closed, "half a message goes on", reply)


def _top(message: bytes, lines: int) -> bytes:
    header, blank, body = (b"\r\n" + message).partition(b"\r\n\r\n")
    kept = body.split(b"\r\n")
    more = kept[lines:] != []
    return (header + blank)[2:] + b"\r\n".join(kept[:lines]) + (b"\r\n" if more and lines else b"")


def _stuffed(message: bytes) -> bytes:
    lines = message.removesuffix(b"\r\n").split(b"\r\n") if message else []
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


def _modelled(chosen: Chosen) -> Held:
    held = Held(chosen)
    model = Model(held)
    law(held.said.startswith(b"+OK ") and held.said.endswith(b"\r\n"), "the greeting is none", held.said)
    for line in chosen.lines():
        closed = held.session.closed
        text = line.removesuffix(b"\r\n")
        whole = line.endswith(b"\r\n")
        reply = held.send(line)
        if closed:
            law(reply == b"", "something is said after the end", reply)
        elif b"\r" in text[:-1] or b"\n" in text or len(line) > LIMITS.line or (whole and b"\r" in text):
            law(not reply.startswith(b"+OK"), "a line that is none is obeyed", line, reply)
        elif not whole:
            law(reply == b"" or len(line) >= LIMITS.line, "half a line is answered", line, reply)
        else:
            model.check(text, reply)
    _nothing_more(held)
    return held
