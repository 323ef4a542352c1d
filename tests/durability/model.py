"""The machine of many at once without its rules: who has what open, what they must see, and how that is looked at.

The model is the book, and what each open session must see. Invariant: after each step all that was promised is looked
for, from inside or by a client. The first thing that is wrong is kept with the steps that led to it, and ends the run:
what hangs on time is not tried again in a smaller form.
"""

import contextlib
import functools
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from hypothesis.stateful import RuleBasedStateMachine

from durability.book import Book
from durability.ledger import look_inside, message, stuffed
from durability.report import Extent, Result
from durability.service import Attempt, patience, troubles
from durability.traffic import (
    IN_USE,
    LOCKED_REPLY,
    MAILBOXES,
    SIZES,
    Client,
    GoneError,
    NotDoneError,
    Traffic,
    connect,
    copy,
    listing,
    log_on,
    outcome_of,
)
from services.wire import change
from winpop.terms.refusals import Refusal


@dataclass(slots=True, eq=False)
class Open:
    """An open POP3 session, and what it must see: its messages, and the marks it has set."""

    client: Client
    mailbox: str
    seen: list[tuple[str, str]]
    sizes: list[int]
    marked: set[int] = field(default_factory=set)

    def tokens(self) -> list[str]:
        """Return the tokens of the messages that are marked."""
        return [self.seen[index][0] for index in sorted(self.marked)]


@dataclass(slots=True, eq=False)
class _Coming:
    """A message that is handed in piece by piece. `phase` counts the pieces."""

    client: Client
    kind: str
    token: str
    octets: bytes
    recipients: list[str]
    phase: int = 0


class _Flight(NamedTuple):
    """What was asked right before a crash, without a look at the reply."""

    coming: list[_Coming]
    quitting: list[Open]


def step(do: Callable[..., None]) -> Callable[..., None]:
    """Make a rule of a method: count it, look after it, keep what is wrong."""

    @functools.wraps(do)
    def stepped(self: "Model", **drawn: object) -> None:
        if not self.on():
            return
        self.story.append(f"{do.__name__}({', '.join(f'{name}={value!r}' for name, value in drawn.items())})")
        self.result.points += 1
        self.steps[do.__name__] += 1
        try:
            do(self, **drawn)
            self.look()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was wrong
            self.failed(error)

    return stepped


class Model(RuleBasedStateMachine):
    """The clients, senders and administrators of one home, and what they must see."""

    extent: ClassVar[Extent]
    result: ClassVar[Result]
    place: ClassVar[Path]
    environment: ClassVar[dict[str, str]]
    steps: ClassVar[Counter[str]]
    examples: ClassVar[Iterator[int]]

    def __init__(self) -> None:
        super().__init__()
        self.simplest = next(self.examples) == 0
        """Hypothesis begins with the simplest there is, one rule again and again: it takes time and shows nothing."""
        self.story: list[str] = []
        self.book = Book(MAILBOXES)
        self.open: list[Open] = []
        self.coming: list[_Coming] = []
        self.there = dict.fromkeys(MAILBOXES, "secret")
        self.locked: set[str] = set()
        self.known: dict[str, str] = {}
        self.tokens = itertools.count()
        self.service: Attempt
        self.traffic: Traffic
        if self.on():
            self.home = copy(self.place)
            try:
                self.start()
            except AssertionError as error:
                self.failed(error)

    def on(self) -> bool:
        """Tell whether there is time, and nothing wrong yet."""
        return not (self.simplest or self.extent.over() or self.result.violations)

    def start(self) -> None:
        """Start the service."""
        self.service = Attempt(self.home.path, environment=self.environment)
        self.traffic = Traffic(self.service, self.book)

    def failed(self, error: BaseException) -> None:
        """Keep what is wrong, and what led to it."""
        text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        line = error.__traceback__.tb_next if error.__traceback__ else None
        while line is not None and line.tb_next is not None:
            line = line.tb_next
        where = f" (line {line.tb_lineno} of {Path(line.tb_frame.f_code.co_filename).name})" if line else ""
        self.result.violated(" ".join(self.story), [text + where])

    def teardown(self) -> None:
        """Stop, and look for the last time."""
        if not hasattr(self, "service"):
            return
        try:
            if not self.result.violations:
                self.finish()
        except Exception as error:  # noqa: BLE001 - as in `step`
            self.failed(error)
        finally:
            self.leave()
            self.service.kill()
            shutil.rmtree(self.home.path, ignore_errors=True)

    def finish(self) -> None:
        """End the service as an administrator does: all is there, its log tells of no defect."""
        self.story.append("stop")
        self.leave()
        assert self.service.stop() == 0
        self.all_is_there()
        wrong = troubles(self.home.path)
        assert not wrong, wrong

    def leave(self) -> None:
        """Close every connection; what was marked is kept."""
        for client in [each.client for each in self.open] + [each.client for each in self.coming]:
            client.close()
        self.open.clear()
        self.coming.clear()

    # --- who is there ---

    def held(self, mailbox: str) -> Open | None:
        """Return the session that has this maildrop open."""
        return next((each for each in self.open if each.mailbox == mailbox), None)

    def is_locked(self, mailbox: str) -> bool:
        """Tell whether a lock holds this mailbox."""
        return mailbox in self.locked or mailbox.partition("@")[2] in self.locked

    def free(self) -> list[str]:
        """Return the mailboxes that could be opened now."""
        return [mailbox for mailbox in self.there if not self.is_locked(mailbox) and not self.held(mailbox)]

    def some_open(self, which: int) -> Open | None:
        """Return an open session; open one where there is none."""
        if not self.open and (free := self.free()):
            self.enter(free[which % len(free)])
        return self.open[which % len(self.open)] if self.open else None

    def enter(self, mailbox: str) -> None:
        """Log on, and see what has to be there."""
        before = self.book.before(mailbox)
        client = self.logged_on(mailbox)
        with client.kept():
            state = client.ask(b"STAT").split()
            sizes = [int(line.split()[1]) for line in client.fetched(b"LIST").splitlines()]
            seen = listing(client, self.known)
        self.open.append(Open(client, mailbox, seen, sizes))
        assert (int(state[1]), int(state[2])) == (len(sizes), sum(sizes)), (state, sizes)
        wrong = self.book.wrong_listing(mailbox, before, seen)
        assert not wrong, wrong

    def logged_on(self, mailbox: str) -> Client:
        """Log on to a mailbox that nobody has open; whoever left it a moment ago may still hold it."""
        until = time.monotonic() + patience()
        while True:
            try:
                return log_on(self.service, mailbox, self.there[mailbox])
            except NotDoneError as error:
                if outcome_of(bytes(error.args[0])) != IN_USE or time.monotonic() >= until:
                    raise AssertionError(f"{mailbox} cannot be opened: {error}") from None
                time.sleep(0.01)

    def refused(self, mailbox: str, password: str, beginning: bytes) -> None:
        """See that a logon is refused, and why."""
        try:
            log_on(self.service, mailbox, password).close()
        except NotDoneError as error:
            reply = bytes(error.args[0])
        else:
            reply = b"+OK"
        assert reply.startswith(beginning), f"{mailbox}: {reply!r} instead of {beginning!r}"

    def ended(self, sessions: list[Open], words: bytes) -> None:
        """See that these sessions are ended now with these words: what they had marked is not deleted."""
        until = time.monotonic() + patience()
        for each in sessions:
            self.open.remove(each)
            each.client.socket.settimeout(max(until - time.monotonic(), 0.1))
            with contextlib.closing(each.client):
                said = each.client.line()
                assert said.startswith(words), f"{each.mailbox}: {said!r} instead of {words!r}"
                with contextlib.suppress(GoneError):
                    raise AssertionError(f"{each.mailbox}: the session goes on with {each.client.line()!r}")

    # --- looking ---

    def look(self) -> None:
        """See that all is there: from inside, or as a client sees it."""
        assert self.service.process.poll() is None, "the service has ended"
        assert not self.traffic.wrong, self.traffic.wrong
        self.result.states += 1
        free = self.free()
        if free and self.result.points % 2:
            self.enter(free[self.result.points % len(free)])
            self.open.pop().client.close()
        else:
            wrong = self.book.violations(look_inside(self.home))
            assert not wrong, wrong

    def all_is_there(self) -> None:
        """See that all is there, now that nothing is on its way."""
        self.result.states += 1
        self.book.settle()
        wrong = self.book.violations(look_inside(self.home))
        assert not wrong, wrong

    # --- what several rules do ---

    def _mark(self, session: Open, numbers: set[int]) -> None:
        for index in sorted({number % len(session.seen) for number in numbers} if session.seen else ()):
            good = b"-ERR" if index in session.marked else b"+OK"
            assert session.client.ask(b"DELE %d" % (index + 1)).startswith(good)
            session.marked.add(index)

    def _begin(self, kind: str, recipients: list[str], size: int) -> None:
        token = f"c-{next(self.tokens)}"
        client = connect(self.service, kind)
        self.coming.append(_Coming(client, kind, token, message(token, size), recipients))

    def _advance(self, coming: _Coming) -> None:
        client = coming.client
        if coming.phase == 0:
            client.introduce(coming.kind)
            for recipient in coming.recipients:
                good = b"250 " if recipient in self.there else b"550 "
                reply = client.ask(b"RCPT TO:<%s>" % recipient.encode())
                assert reply.startswith(good), reply
            coming.recipients = [recipient for recipient in coming.recipients if recipient in self.there]
            if not coming.recipients:
                self.coming.remove(coming)
                client.close()
                return
        elif coming.phase == 1:
            client.must(b"DATA", b"354 ")
            octets = stuffed(coming.octets)
            client.send(octets[: len(octets) // 2])
        else:
            self._dot(coming)
            self._taken(coming)
        coming.phase += 1

    def _dot(self, coming: _Coming) -> None:
        octets = stuffed(coming.octets)
        there = [recipient for recipient in coming.recipients if recipient in self.there]
        self.book.sending(coming.token, coming.octets, *there, together=coming.kind != "lmtp")
        coming.client.send(octets[len(octets) // 2 :] + b".\r\n")

    def _taken(self, coming: _Coming) -> None:
        """Read the replies to a dot: good ones for those who are still there. Raises `GoneError`."""
        self.coming.remove(coming)
        with contextlib.closing(coming.client) as client:
            there = [recipient for recipient in coming.recipients if recipient in self.there]
            if coming.kind == "lmtp":
                for recipient in coming.recipients:
                    reply = client.line()
                    assert reply.startswith(b"250 " if recipient in self.there else b"550 "), (recipient, reply)
                    if recipient in self.there:
                        self.book.acknowledged(coming.token, recipient)
            else:
                reply = client.line()
                assert reply.startswith(b"250 " if there else b"550 "), reply
                self.book.acknowledged(coming.token, *there)

    def _of(self, target: str) -> list[str]:
        return [mailbox for mailbox in self.there if target in (mailbox, mailbox.partition("@")[2])]

    def _turn(self, target: str, *, locked: bool) -> None:
        if not locked and target.partition("@")[2] in self.locked:
            with contextlib.suppress(Refusal):
                change(self.home, "unlock", target=target)
                raise AssertionError(f"{target} was unlocked while its domain is locked")
            return
        self.traffic.turn(target, locked=locked)
        concerned = self._of(target)
        if locked:
            self.locked.add(target)
            self.ended([each for each in self.open if each.mailbox in concerned], LOCKED_REPLY)
            for mailbox in concerned[:1]:
                self.refused(mailbox, self.there[mailbox], LOCKED_REPLY)
        else:
            self.locked.discard(target)
            for mailbox in [mailbox for mailbox in concerned if mailbox in self.free()][:1]:
                self.enter(mailbox)

    def _in_flight(self, *, want: bool) -> _Flight:
        """Ask for commits and updates without waiting for the replies."""
        flight = _Flight([], [])
        if want:
            if session := self.some_open(0):
                self._mark(session, {0, 1})
            self._begin("smtp", list(self.there)[-2:], SIZES[0])
            for coming in [each for each in self.coming if each.phase < 2]:
                while coming in self.coming and coming.phase < 2:
                    self._advance(coming)
            for coming in [each for each in self.coming if each.phase == 2]:
                self._dot(coming)
                flight.coming.append(coming)
            for session in [each for each in self.open if each.marked]:
                self.book.deleting(session.mailbox, session.tokens())
                session.client.send(b"QUIT\r\n")
                flight.quitting.append(session)
        return flight

    def _landed(self, flight: _Flight) -> None:
        """See what came of it, and which connections are left."""
        for coming in flight.coming:
            with contextlib.suppress(GoneError):
                self._taken(coming)
        for session in flight.quitting:
            self.open.remove(session)
            with contextlib.closing(session.client), contextlib.suppress(GoneError):
                session.client.expect(b"+OK")
                self.book.deleted(session.mailbox, session.tokens())
        for session in [each for each in self.open if not _lives(each.client, b"NOOP")]:
            self.open.remove(session)
        for coming in [each for each in self.coming if not _lives(each.client, b"NOOP" if each.phase < 2 else b"")]:
            self.coming.remove(coming)


def _lives(client: Client, command: bytes) -> bool:
    """Tell whether a connection is still there: by a command, or within a message by what can be read."""
    try:
        if command:
            client.ask(command)
            return True
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert client.socket.recv(1) == b"", "a reply within a message"
            client.close()
            return False
        client.socket.settimeout(20)
    except (GoneError, ConnectionError):
        client.close()
        return False
    return True
