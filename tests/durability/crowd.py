"""Many at once: clients, senders, administrators and crashes on the real service, held against a model.

Hypothesis draws what happens; a step that meets nothing to work on does something near it, so that no draw depends on
what the kernel did (which worker has which connection). The model is the ledger, and what each open session must see.

Invariant: after each step all that was promised is looked for, from inside or by a client. The first thing that is
wrong is kept with the steps that led to it, and ends the run: what hangs on time is not tried again in a smaller form.
"""

import contextlib
import functools
import itertools
import os
import random
import re
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import argon2
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

import conftest
from durability.kills import troubles
from durability.ledger import TOKEN, Ledger, State, look_inside, message
from durability.report import Extent, Result
from durability.shim import FAST
from running import Service
from services.wire import Wire, change, eventually, holder_of, paused, settle
from winpop.db.home import Home
from winpop.terms.refusals import Refusal

DOMAINS = ["a.example", "b.example"]
MAILBOXES = [f"user{n}@{domain}" for domain in DOMAINS for n in range(3)]
"""What a prepared home has; the password is `secret`."""
DONE, LOCKED, IN_USE, REFUSED, GONE = "done", "locked", "in use", "refused for now", "gone"
SIZES = [900, 5_001, 140_000, 400_001]
"""Octets of messages that lie in rows, and of ones that have files of their own."""
_READY_WITHIN = 40.0
_LOCKED_REPLY = b"-ERR [AUTH] An administrator has locked this "
_NO_MORE = b"-ERR [SYS/PERM] This mailbox is no more"
_WRONG_PASSWORD = b"-ERR [AUTH] The name or the password is wrong"

DEFECTS = {
    "a deletion too many": """
from winpop.store import maildrops
right = maildrops.expunge
def expunge(transaction, mailbox_id, messages):
    rows = transaction.all("SELECT id FROM message WHERE mailbox_id = ? ORDER BY id DESC LIMIT 1", mailbox_id)
    return right(transaction, mailbox_id, [*messages, *(row[0] for row in rows)])
maildrops.expunge = expunge
""",
    "a maildrop for two": """
from winpop.db import leases
leases._lock = lambda descriptor, number: True
""",
}
"""What can be broken in the service on purpose: Python runs it in every process as `sitecustomize`."""


def patience(seconds: float = 1.0) -> float:
    """Return so many seconds, and more of them where more processes want to run than there are processors."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def runs(process: int) -> bool:
    """Tell whether there is such a process; one that has ended and that nobody waited for is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def matters(home: Path) -> list[str]:
    """Return what must not be in a service's log."""
    log = home.parent / f"{home.name}.log"
    return troubles(log) if log.exists() else []


# --- services and homes ---


class Running(Service):
    """A service whose start takes no more than some time."""

    def __init__(self, home: Home, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> None:
        watch = threading.Timer(_READY_WITHIN, self._give_up)
        watch.start()
        try:
            super().__init__(home.path, prefix=prefix, **environment or {})
        except BaseException:
            self._give_up()
            self._close()
            raise
        finally:
            watch.cancel()

    def _give_up(self) -> None:
        process = getattr(self, "process", None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """Make a directory with a home of `MAILBOXES` in it, whose passwords are checked quickly, as a model of others."""
    place = Path(tempfile.mkdtemp(prefix="winpop-crowd-", dir=FAST))
    quick = argon2.PasswordHasher(1, 8, 1).hash(b"secret")
    try:
        before = conftest.HASHES.pop(b"secret", None)
        conftest.HASHES[b"secret"] = quick
        try:
            conftest.fill(Home(place / "model"), dict.fromkeys(MAILBOXES, b"secret"))
        finally:
            del conftest.HASHES[b"secret"]
            if before is not None:
                conftest.HASHES[b"secret"] = before
        settle(Home(place / "model"), failuredelay="0", failuremax="1000", diskreserve="0")
        with Running(Home(place / "model")):
            pass  # makes the directories of the mail root
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


_NUMBERS = itertools.count()


def copy(place: Path) -> Home:
    """Return another home like the model."""
    home = Home(place / f"home-{next(_NUMBERS)}")
    shutil.copytree(place / "model", home.path, copy_function=shutil.copyfile)
    home.path.chmod(0o700)
    return home


# --- the ledger, while things are under way ---


class Book(Ledger):
    """A ledger that can be asked while messages are on their way: what is not there yet may still come.

    `settle` says that nothing is on its way any more: all the processes that might bring it are gone, or idle.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: set[tuple[str, str]] = set()
        """The mailboxes and messages that were handed in, and neither answered nor seen yet."""
        self._often: dict[str, int] = {}
        self._forgotten = 0
        self._troubles = 0
        self._in_trouble = 0

    def sending(self, token: str, octets: bytes, *recipients: str) -> None:
        with self._guard:
            super().sending(token, octets, *recipients)
            self._pending |= {(recipient, token) for recipient in recipients}

    def acknowledged(self, token: str, *recipients: str) -> None:
        """Enter a 250; whoever was quicker to fetch the message, and even to delete it, knew of it before."""
        with self._guard:
            for recipient in recipients:
                if (recipient, token) in self._pending:
                    self._pending.discard((recipient, token))
                    self._mail[recipient][token].there = True

    def refused(self, token: str, *recipients: str) -> None:
        """Enter that a message was refused for these recipients: it may be there, and will not come later."""
        with self._guard:
            self._pending -= {(recipient, token) for recipient in recipients}

    def lock(self, target: str, locked: bool | None) -> None:  # noqa: FBT001 - the state, as in the table
        with self._guard:
            super().lock(target, locked)
            self._often[target] = self._often.get(target, 0) + (locked is not False)

    def settle(self) -> None:
        """Enter that nothing is on its way any more."""
        with self._guard:
            self._pending.clear()

    def violations(self, state: State) -> list[str]:
        with self._guard:
            wrong = super().violations(state)
            for mailbox, token in self._pending:
                copy = self._mail.get(mailbox, {}).get(token)
                if copy is not None and copy.there is False:
                    copy.there = None
            return wrong

    # --- sessions ---

    def before(self, mailbox: str) -> dict[str, bool | None]:
        """Return what is known of a mailbox's messages before somebody logs on to it."""
        with self._guard:
            return {token: copy.there for token, copy in self._mail.get(mailbox, {}).items()}

    def wrong_listing(self, mailbox: str, before: dict[str, bool | None], seen: list[tuple[str, str]]) -> list[str]:
        """Return what is wrong with the tokens and unique-ids that a session which began after `before` shows.

        The session holds the maildrop: nobody else deletes, so what is missing of a deletion that was open is gone.
        """
        with self._guard:
            copies = self._mail.get(mailbox, {})
            wrong, tokens = [], [token for token, _ in seen]
            for token, unique_id in seen:
                known = copies.get(token)
                if known is None:
                    wrong.append(f"{mailbox}: {token!r} was never sent, or is torn")
                elif tokens.count(token) > 1:
                    wrong.append(f"{mailbox}: {token} is there twice")
                elif before.get(token) is False:
                    wrong.append(f"{mailbox}: {token} was deleted, and is there")
                else:
                    wrong += self.seen(mailbox, token, unique_id)
                    known.there = True
                    self._pending.discard((mailbox, token))
            for token, there in before.items():
                known = copies.get(token)
                if token in tokens or known is None:
                    continue
                if there and known.there:
                    wrong.append(f"{mailbox}: {token} is lost")
                elif known.there is None and there is None and (mailbox, token) not in self._pending:
                    known.there = False
            return wrong

    def wrong_octets(self, mailbox: str, token: str, octets: bytes) -> list[str]:
        """Return what is wrong with a message as a client has fetched it."""
        with self._guard:
            copy = self._mail.get(mailbox, {}).get(token)
        if copy is None or not octets.endswith(copy.octets) or not octets.startswith(b"Return-Path: "):
            return [f"{mailbox}: {token} is not what was sent"]
        return []

    # --- what may disturb a client ---

    @contextlib.contextmanager
    def trouble(self) -> Iterator[None]:
        """Say that meanwhile connections may end, be refused, or wait, for a reason that clients do not see."""
        with self._guard:
            self._troubles += 1
            self._in_trouble += 1
        try:
            yield
        finally:
            with self._guard:
                self._in_trouble -= 1

    def troubled(self, since: int = -1) -> bool:
        """Tell whether there is trouble, or was since `mark`."""
        with self._guard:
            return self._in_trouble > 0 or since not in (-1, self._troubles)

    def mark(self) -> int:
        """Return a mark for `troubled`; what begins in trouble is troubled to its end."""
        with self._guard:
            return -2 if self._in_trouble else self._troubles

    def calm(self, mailbox: str) -> tuple[int, ...]:
        """Return a mark for `disturbed`."""
        with self._guard:
            return (self.mark(), *(self._often.get(target, 0) for target in (mailbox, mailbox.partition("@")[2])))

    def disturbed(self, mailbox: str, mark: tuple[int, ...]) -> bool:
        """Tell whether a client of this mailbox may have been sent away since: by a lock, or by a crash."""
        with self._guard:
            targets = (mailbox, mailbox.partition("@")[2])
            locked = any(self._locked.get(target, False) is not False for target in targets)
            return locked or self.troubled() or self.calm(mailbox) != mark

    # --- long runs ---

    def forget(self) -> int:
        """Forget what was deleted for good, but for its unique-id; return how many copies were forgotten so far."""
        with self._guard:
            for copies in self._mail.values():
                for token in [token for token, copy in copies.items() if copy.there is False]:
                    del copies[token]
                    self._forgotten += 1
            return self._forgotten


# --- clients ---


class GoneError(Exception):
    """The connection has ended."""


class Client(Wire):
    """A client that tells the end of a connection from a reply, and a server that is silent from both."""

    def line(self) -> bytes:
        try:
            line = self._read.readline()
        except TimeoutError:
            raise AssertionError("no reply in time") from None
        except OSError as error:
            raise GoneError from error
        if not line.endswith(b"\r\n"):
            raise GoneError
        return line[:-2]

    def send(self, data: bytes) -> None:
        try:
            super().send(data)
        except TimeoutError:
            raise AssertionError("nothing was taken in time") from None
        except OSError as error:
            raise GoneError from error

    def multiline(self) -> bytes:
        lines = []
        while (line := self.line()) != b".":
            lines.append(line.removeprefix(b".") + b"\r\n")
        return b"".join(lines)

    def fetched(self, command: bytes) -> bytes:
        """Send a command that has a reply of many lines; return them. Raises `NotDoneError`."""
        reply = self.ask(command)
        if not reply.startswith(b"+OK"):
            raise NotDoneError(reply)
        return self.multiline()


class NotDoneError(Exception):
    """A reply says that it was not done; it is the argument."""


def outcome_of(reply: bytes) -> str:
    """Return what a reply that is not a good one means; empty where it should not be."""
    kinds = {
        rb"-ERR \[AUTH\] An administrator has locked|-ERR \[SYS/PERM\] This mailbox is no more": LOCKED,
        rb"-ERR \[IN-USE\]": IN_USE,
        rb"-ERR \[SYS/TEMP\]|4\d\d ": REFUSED,
    }
    return next((outcome for kind, outcome in kinds.items() if re.match(kind, reply)), "")


def connect(service: Service, kind: str, within: float = 20) -> Client:
    """Return a client after the greeting. Raises `GoneError`, `NotDoneError`."""
    try:
        client = Client(service.ports[kind], within=within)
    except OSError as error:
        raise GoneError from error
    with client.kept():
        good = b"+OK" if kind == "pop3" else b"220 "
        if not (reply := client.line()).startswith(good):
            raise NotDoneError(reply)
    return client


def log_on(service: Service, mailbox: str, password: str = "secret", within: float = 20) -> Client:
    """Return a client with an open maildrop. Raises `GoneError`, `NotDoneError`."""
    client = connect(service, "pop3", within)
    with client.kept():
        client.ask(b"USER " + mailbox.encode())
        if not (reply := client.ask(b"PASS " + password.encode())).startswith(b"+OK"):
            raise NotDoneError(reply)
    return client


def listing(client: Client, known: dict[str, str]) -> list[tuple[str, str]]:
    """Return token and unique-id of each message; `known` are the tokens of unique-ids that were seen before."""
    seen = []
    for line in client.fetched(b"UIDL").splitlines():
        number, unique_id = line.split()
        if unique_id.decode() not in known:
            match = TOKEN.search(client.fetched(b"TOP " + number + b" 0"))
            known[unique_id.decode()] = match[1].decode() if match else ""
        seen.append((known[unique_id.decode()], unique_id.decode()))
    return seen


def stuffed(octets: bytes) -> bytes:
    """Return a message as SMTP sends it, without the final dot."""
    return re.sub(rb"^\.", b"..", octets, flags=re.MULTILINE)


@dataclass(slots=True)
class Traffic:
    """What many do at once, each entering in the book what it asks and is told. Safe in many threads."""

    service: Service
    book: Book
    wrong: list[str] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)
    """How often each outcome was met."""
    within: float = 20
    """Seconds that a client waits for a reply."""

    def send(self, token: str, size: int, *recipients: str, kind: str = "smtp") -> str:
        """Hand in a message; return the outcome."""
        mark = self.book.mark()
        try:
            with connect(self.service, kind, self.within) as client:
                outcome = self._send(client, token, size, recipients, kind)
        except GoneError:
            outcome = GONE
        except NotDoneError as error:
            outcome = outcome_of(bytes(error.args[0])) or str(error)
        except AssertionError as error:
            outcome = str(error)
        if outcome != DONE and not self.book.troubled(mark):
            self.wrong.append(f"{token}: {outcome} while nothing disturbed it")
        return self._outcome("send", outcome)

    def _send(self, client: Client, token: str, size: int, recipients: tuple[str, ...], kind: str) -> str:
        commands = [b"LHLO client.example" if kind == "lmtp" else b"HELO client.example", b"MAIL FROM:<s@else.example>"]
        commands += [b"RCPT TO:<%s>" % recipient.encode() for recipient in recipients]
        for command in [*commands, b"DATA"]:
            reply = client.ask(command)
            while reply.startswith(b"250-"):
                reply = client.line()
            if not reply.startswith((b"250 ", b"354 ")):
                raise NotDoneError(reply)
        octets = message(token, size)
        self.book.sending(token, octets, *recipients)
        client.send(stuffed(octets) + b".\r\n")
        outcome = DONE
        for whose in [(recipient,) for recipient in recipients] if kind == "lmtp" else [recipients]:
            reply = client.line()
            if reply.startswith(b"250 "):
                self.book.acknowledged(token, *whose)
            else:
                self.book.refused(token, *whose)
                outcome = outcome_of(reply) or repr(reply)
        return outcome

    def fetch(self, mailbox: str, *, delete: int = 0, quit: bool = True) -> str:  # noqa: A002 - the command's name
        """Log on, fetch and compare everything, delete the first so many; return the outcome."""
        mark, before = self.book.calm(mailbox), self.book.before(mailbox)
        try:
            with log_on(self.service, mailbox, within=self.within) as client:
                outcome = self._fetch(client, mailbox, before, delete, quit=quit)
        except GoneError:
            outcome = GONE
        except NotDoneError as error:
            outcome = outcome_of(bytes(error.args[0])) or str(error)
        except AssertionError as error:
            outcome = str(error)
        if outcome not in (DONE, IN_USE) and not self.book.disturbed(mailbox, mark):
            self.wrong.append(f"{mailbox}: {outcome} while nothing disturbed it")
        return self._outcome("fetch", outcome)

    def _fetch(
        self,
        client: Client,
        mailbox: str,
        before: dict[str, bool | None],
        delete: int,
        *,
        quit: bool,  # noqa: A002 - as above
    ) -> str:
        seen = []
        for line in client.fetched(b"UIDL").splitlines():
            number, unique_id = line.split()
            octets = client.fetched(b"RETR " + number)
            match = TOKEN.search(octets)
            token = match[1].decode() if match else ""
            seen.append((token, unique_id.decode()))
            self.wrong += self.book.wrong_octets(mailbox, token, octets)
        self.wrong += self.book.wrong_listing(mailbox, before, seen)
        doomed = [token for token, _ in seen[:delete]]
        for index in range(len(doomed)):
            if not (reply := client.ask(b"DELE %d" % (index + 1))).startswith(b"+OK"):
                raise NotDoneError(reply)
        if quit:
            self.book.deleting(mailbox, doomed)
            if not (reply := client.ask(b"QUIT")).startswith(b"+OK"):
                self.book.kept(mailbox, doomed)
                raise NotDoneError(reply)
            self.book.deleted(mailbox, doomed)
        return DONE

    def turn(self, target: str, *, locked: bool) -> None:
        """Lock or unlock."""
        self.book.lock(target, None)
        change(self.service.home, "lock" if locked else "unlock", target=target)
        self.book.lock(target, locked)
        self._outcome("lock" if locked else "unlock", DONE)

    def _outcome(self, what: str, outcome: str) -> str:
        key = f"{what} {outcome}"
        with self.book._guard:
            self.told[key] = self.told.get(key, 0) + 1
        return outcome


# --- the machine ---


@dataclass(slots=True, eq=False)
class _Open:
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
    quitting: list[_Open]


def step(do: Callable[..., None]) -> Callable[..., None]:
    """Make a rule of a method: count it, look after it, keep what is wrong."""

    @functools.wraps(do)
    def stepped(self: "Crowd", **drawn: object) -> None:
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


_WHICH = st.integers(0, 11)


class Crowd(RuleBasedStateMachine):
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
        self.book = Book()
        self.open: list[_Open] = []
        self.coming: list[_Coming] = []
        self.there = dict.fromkeys(MAILBOXES, "secret")
        self.locked: set[str] = set()
        self.known: dict[str, str] = {}
        self.tokens = itertools.count()
        self.service: Service | None = None
        self.traffic: Traffic
        if self.on():
            self.home = copy(self.place)
            for address in MAILBOXES:
                self.book.mailbox(address, True)
            try:
                self.start()
            except AssertionError as error:
                self.failed(error)

    def on(self) -> bool:
        """Tell whether there is time, and nothing wrong yet."""
        return not (self.simplest or self.extent.over() or self.result.violations)

    def start(self) -> None:
        """Start the service."""
        self.service = Running(self.home, self.environment)
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
        if self.service is None:
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
        assert self.service is not None
        self.story.append("stop")
        self.leave()
        assert self.service.stop() == 0
        self.all_is_there()
        assert not matters(self.home.path), matters(self.home.path)

    def leave(self) -> None:
        """Close every connection; what was marked is kept."""
        for client in [each.client for each in self.open] + [each.client for each in self.coming]:
            client.close()
        self.open.clear()
        self.coming.clear()

    # --- who is there ---

    def held(self, mailbox: str) -> _Open | None:
        """Return the session that has this maildrop open."""
        return next((each for each in self.open if each.mailbox == mailbox), None)

    def is_locked(self, mailbox: str) -> bool:
        """Tell whether a lock holds this mailbox."""
        return mailbox in self.locked or mailbox.partition("@")[2] in self.locked

    def free(self) -> list[str]:
        """Return the mailboxes that could be opened now."""
        return [mailbox for mailbox in self.there if not self.is_locked(mailbox) and not self.held(mailbox)]

    def some_open(self, which: int) -> _Open | None:
        """Return an open session; open one where there is none."""
        if not self.open and (free := self.free()):
            self.enter(free[which % len(free)])
        return self.open[which % len(self.open)] if self.open else None

    def enter(self, mailbox: str) -> None:
        """Log on, and see what has to be there."""
        assert self.service is not None
        before = self.book.before(mailbox)
        client = self.logged_on(mailbox)
        with client.kept():
            state = client.ask(b"STAT").split()
            sizes = [int(line.split()[1]) for line in client.fetched(b"LIST").splitlines()]
            seen = listing(client, self.known)
        self.open.append(_Open(client, mailbox, seen, sizes))
        assert (int(state[1]), int(state[2])) == (len(sizes), sum(sizes)), (state, sizes)
        wrong = self.book.wrong_listing(mailbox, before, seen)
        assert not wrong, wrong

    def logged_on(self, mailbox: str) -> Client:
        """Log on to a mailbox that nobody has open; whoever left it a moment ago may still hold it."""
        assert self.service is not None
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
        assert self.service is not None
        try:
            log_on(self.service, mailbox, password).close()
        except NotDoneError as error:
            reply = bytes(error.args[0])
        else:
            reply = b"+OK"
        assert reply.startswith(beginning), f"{mailbox}: {reply!r} instead of {beginning!r}"

    def ended(self, sessions: list[_Open], words: bytes) -> None:
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
        assert self.service is not None
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

    # --- clients ---

    @rule(which=_WHICH)
    @step
    def log_on(self, *, which: int) -> None:
        """Log on to a mailbox, open or not, locked or not."""
        mailboxes = list(self.there)
        mailbox = mailboxes[which % len(mailboxes)]
        if self.is_locked(mailbox):
            self.refused(mailbox, self.there[mailbox], _LOCKED_REPLY)
        elif self.held(mailbox):
            self.refused(mailbox, self.there[mailbox], b"-ERR [IN-USE]")
        else:
            self.enter(mailbox)

    @rule(which=_WHICH, number=_WHICH)
    @step
    def fetch(self, *, which: int, number: int) -> None:
        """Fetch a message of the snapshot, octet for octet."""
        session = self.some_open(which)
        if session and session.seen:
            index = number % len(session.seen)
            if index in session.marked:
                assert session.client.ask(b"RETR %d" % (index + 1)).startswith(b"-ERR")
                return
            octets = session.client.fetched(b"RETR %d" % (index + 1))
            assert len(octets) == session.sizes[index]
            wrong = self.book.wrong_octets(session.mailbox, session.seen[index][0], octets)
            assert not wrong, wrong

    @rule(which=_WHICH)
    @step
    def see_the_same(self, *, which: int) -> None:
        """See the snapshot as it was at the logon, but for what was marked."""
        session = self.some_open(which)
        if session:
            left = [index for index in range(len(session.seen)) if index not in session.marked]
            shown = [line.split() for line in session.client.fetched(b"UIDL").splitlines()]
            assert shown == [[b"%d" % (index + 1), session.seen[index][1].encode()] for index in left]
            octets = sum(session.sizes[index] for index in left)
            assert session.client.ask(b"STAT") == b"+OK %d %d" % (len(left), octets)

    @rule(which=_WHICH, numbers=st.sets(_WHICH, max_size=4))
    @step
    def mark(self, *, which: int, numbers: set[int]) -> None:
        """Mark messages as deleted; with no number, take all marks back."""
        session = self.some_open(which)
        if session and not numbers:
            assert session.client.ask(b"RSET").startswith(b"+OK")
            session.marked.clear()
        elif session:
            self._mark(session, numbers)

    def _mark(self, session: _Open, numbers: set[int]) -> None:
        for index in sorted({number % len(session.seen) for number in numbers} if session.seen else ()):
            good = b"-ERR" if index in session.marked else b"+OK"
            assert session.client.ask(b"DELE %d" % (index + 1)).startswith(good)
            session.marked.add(index)

    @rule(which=_WHICH, numbers=st.sets(_WHICH, max_size=3))
    @step
    def quit(self, *, which: int, numbers: set[int]) -> None:
        """End a session: what it has marked is deleted, and nothing else."""
        session = self.some_open(which)
        if session:
            self._mark(session, numbers)
            self.open.remove(session)
            with contextlib.closing(session.client):
                self.book.deleting(session.mailbox, session.tokens())
                reply = session.client.ask(b"QUIT")
                assert reply.startswith(b"+OK"), reply
                self.book.deleted(session.mailbox, session.tokens())

    @rule(which=_WHICH)
    @step
    def vanish(self, *, which: int) -> None:
        """Reset a session's connection: nothing is deleted."""
        session = self.some_open(which)
        if session:
            self.open.remove(session)
            session.client.vanish()

    # --- senders ---

    @rule(lmtp=st.booleans(), to=st.sets(_WHICH, min_size=1, max_size=3), size=st.sampled_from(SIZES))
    @step
    def begin(self, *, lmtp: bool, to: set[int], size: int) -> None:
        """Begin to hand in a message."""
        mailboxes = list(self.there)
        recipients = sorted({mailboxes[n % len(mailboxes)] for n in to})
        self._begin("lmtp" if lmtp else "smtp", recipients, size)

    def _begin(self, kind: str, recipients: list[str], size: int) -> None:
        assert self.service is not None
        token = f"c-{next(self.tokens)}"
        client = connect(self.service, kind)
        self.coming.append(_Coming(client, kind, token, message(token, size), recipients))

    @rule(which=_WHICH, pieces=st.integers(1, 3), everything=st.booleans())
    @step
    def advance(self, *, which: int, pieces: int, everything: bool) -> None:
        """Go on with a message, or with all that are under way: recipients, a half of it, the rest with its dot."""
        if not self.coming:
            self._begin("smtp", list(self.there)[:2], SIZES[which % len(SIZES)])
        for coming in list(self.coming) if everything else [self.coming[which % len(self.coming)]]:
            for _ in range(pieces):
                if coming in self.coming:
                    self._advance(coming)

    def _advance(self, coming: _Coming) -> None:
        client = coming.client
        if coming.phase == 0:
            for command in [
                b"LHLO me.example" if coming.kind == "lmtp" else b"HELO me.example",
                b"MAIL FROM:<s@e.example>",
            ]:
                reply = client.ask(command)
                while reply.startswith(b"250-"):
                    reply = client.line()
                assert reply.startswith(b"250 "), reply
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
            reply = client.ask(b"DATA")
            assert reply.startswith(b"354 "), reply
            octets = stuffed(coming.octets)
            client.send(octets[: len(octets) // 2])
        else:
            self._dot(coming)
            self._taken(coming)
        coming.phase += 1

    def _dot(self, coming: _Coming) -> None:
        octets = stuffed(coming.octets)
        self.book.sending(coming.token, coming.octets, *(r for r in coming.recipients if r in self.there))
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

    @rule(which=_WHICH, dot=st.booleans())
    @step
    def break_off(self, *, which: int, dot: bool) -> None:
        """Vanish while a message is handed in, perhaps right after its dot: then it may be there, or come."""
        if self.coming:
            coming = self.coming[which % len(self.coming)]
            if dot and coming.phase == 2:
                self._dot(coming)
            self.coming.remove(coming)
            coming.client.vanish()

    # --- administrators ---

    @rule(which=_WHICH, domain=st.booleans(), locked=st.booleans())
    @step
    def turn(self, *, which: int, domain: bool, locked: bool) -> None:
        """Lock or unlock a domain or a mailbox."""
        targets = DOMAINS if domain else list(self.there)
        self._turn(targets[which % len(targets)], locked=locked)

    @rule(which=_WHICH, domain=st.booleans())
    @step
    def quit_after_the_lock(self, *, which: int, domain: bool) -> None:
        """Let a worker find a lock and a QUIT that came after it at the same time: nothing is deleted."""
        session = self.some_open(which)
        if not session:
            return
        if not session.marked:
            self._mark(session, {0})
        target = session.mailbox.partition("@")[2] if domain else session.mailbox
        victim = holder_of(self._running(), session.client)
        assert victim is not None, "nobody has the other end of an open session"
        self.book.deleting(session.mailbox, session.tokens())
        with paused(victim):
            self.traffic.turn(target, locked=True)
            self.locked.add(target)
            session.client.send(b"QUIT\r\n")
        if not session.marked:  # a QUIT with nothing to delete needs no commit, and hears of no lock
            self.open.remove(session)
            session.client.close()
        self.ended([each for each in self.open if each.mailbox in self._of(target)], _LOCKED_REPLY)
        self.book.kept(session.mailbox, session.tokens())

    def _running(self) -> Service:
        assert self.service is not None
        return self.service

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
            self.ended([each for each in self.open if each.mailbox in concerned], _LOCKED_REPLY)
            for mailbox in concerned[:1]:
                self.refused(mailbox, self.there[mailbox], _LOCKED_REPLY)
        else:
            self.locked.discard(target)
            for mailbox in [mailbox for mailbox in concerned if mailbox in self.free()][:1]:
                self.enter(mailbox)

    @rule(which=st.integers(0, 3))
    @step
    def add_or_delete(self, *, which: int) -> None:
        """Make a mailbox that is not there, delete one that is: its session ends, its mail is gone."""
        address = f"new{which}@{DOMAINS[which % 2]}"
        self.book.mailbox(address, None)
        if address not in self.there:
            change(self.home, "add", target=address, createuser="secret")
            self.book.mailbox(address, True)
            self.there[address] = "secret"
            if address in self.free():
                self.enter(address)
            return
        change(self.home, "delete", target=address)
        self.book.mailbox(address, False)
        if address in self.locked:
            self.locked.discard(address)
            self.book.lock(address, False)
        password = self.there.pop(address)
        self.ended([each for each in self.open if each.mailbox == address], _NO_MORE)
        self.refused(address, password, _WRONG_PASSWORD)

    @rule(which=_WHICH)
    @step
    def change_password(self, *, which: int) -> None:
        """Change a password: the old one stops, the new one works, an open session goes on."""
        mailbox = list(self.there)[which % len(self.there)]
        before, self.there[mailbox] = self.there[mailbox], f"password-{next(self.tokens)}"
        change(self.home, "changepwd", address=mailbox, newpassword=self.there[mailbox])
        self.refused(mailbox, before, _WRONG_PASSWORD)
        if session := self.held(mailbox):
            assert session.client.ask(b"NOOP").startswith(b"+OK")
        elif not self.is_locked(mailbox):
            self.enter(mailbox)

    # --- crashes ---

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
                reply = session.client.line()
                assert reply.startswith(b"+OK"), reply
                self.book.deleted(session.mailbox, session.tokens())
        for session in [each for each in self.open if not _lives(each.client, b"NOOP")]:
            self.open.remove(session)
        for coming in [each for each in self.coming if not _lives(each.client, b"NOOP" if each.phase < 2 else b"")]:
            self.coming.remove(coming)

    @rule(which=_WHICH, busy=st.booleans())
    @step
    def kill_a_worker(self, *, which: int, busy: bool) -> None:
        """Kill a worker: its connections end, the others do not, and there are two again."""
        assert self.service is not None
        service, workers = self.service, self.service.workers()
        victim = workers[which % len(workers)]
        flight = self._in_flight(want=busy)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: not runs(victim), patience())
        self._landed(flight)
        eventually(lambda: victim not in service.workers() and len(service.workers()) == len(workers), patience(15))
        self.all_is_there()

    @rule(busy=st.booleans())
    @step
    def kill_the_service(self, *, busy: bool) -> None:
        """Kill all processes and start again: nobody else's hand is needed."""
        assert self.service is not None
        workers = self.service.workers()
        flight = self._in_flight(want=busy)
        self.service.kill()
        eventually(lambda: not any(runs(worker) for worker in workers), patience())
        self._landed(flight)
        assert not self.open, "a session outlived its service"
        self.leave()
        self.all_is_there()
        self.start()
        for mailbox in self.free():
            self.enter(mailbox)
            self.open.pop().client.close()

    @rule(which=_WHICH, whom=_WHICH, domain=st.booleans())
    @step
    def pause_a_worker(self, *, which: int, whom: int, domain: bool) -> None:
        """Stop a worker for a moment: the other serves; a lock that was set meanwhile holds when it goes on."""
        assert self.service is not None
        service, workers = self.service, self.service.workers()
        victim = workers[which % len(workers)]
        asleep = [each for each in self.open if holder_of(service, each.client) == victim]
        targets = DOMAINS if domain else list(self.there)
        what = targets[whom % len(targets)]
        os.kill(victim, signal.SIGSTOP)
        try:
            self.traffic.send(f"c-{next(self.tokens)}", SIZES[which % len(SIZES)], *list(self.there)[:2])
            concerned = [each for each in self.open if each.mailbox in self._of(what)]
            if what.partition("@")[2] not in self.locked:
                self.traffic.turn(what, locked=True)
                self.locked.add(what)
            self.ended(
                [each for each in concerned if each not in asleep and self.is_locked(each.mailbox)], _LOCKED_REPLY
            )
            for each in [each for each in asleep if each not in concerned][:1]:
                self.refused(each.mailbox, self.there[each.mailbox], b"-ERR [IN-USE]")
        finally:
            os.kill(victim, signal.SIGCONT)
        self.ended([each for each in concerned if each in asleep and self.is_locked(each.mailbox)], _LOCKED_REPLY)

    # --- all at once ---

    @rule(number=st.integers(0, 2**32))
    @step
    def burst(self, *, number: int) -> None:
        """Let four senders, two fetchers and an administrator work at the same time."""
        chosen = random.Random(number)
        domain = chosen.choice(DOMAINS)
        was = domain in self.locked
        secret = [mailbox for mailbox in self.free() if self.there[mailbox] == "secret"]
        mailboxes = list(self.there)
        draws = [random.Random(chosen.random()) for _ in range(6)]

        def sends(draw: random.Random) -> None:
            for _ in range(3):
                recipients = draw.sample(mailboxes, draw.randint(1, min(3, len(mailboxes))))
                kind = draw.choice(["smtp", "lmtp"])
                self.traffic.send(f"c-{next(self.tokens)}", draw.choice(SIZES), *recipients, kind=kind)

        def fetches(draw: random.Random) -> None:
            for _ in range(3 if secret else 0):
                self.traffic.fetch(draw.choice(secret), delete=draw.randint(0, 2), quit=draw.random() < 0.8)

        def turns() -> None:
            for locked in (not was, was) * 2:
                time.sleep(chosen.choice([0, 0.02, 0.2]))
                self.traffic.turn(domain, locked=locked)

        with ThreadPoolExecutor(7) as pool:
            works = [pool.submit(sends, draw) for draw in draws[:4]]
            works += [pool.submit(fetches, draw) for draw in draws[4:]]
            works.append(pool.submit(turns))
        for work in works:
            work.result()
        if not was:
            # Locked for less than the fifth of a second between two looks, a session may have been spared.
            self._spared([each for each in self.open if each.mailbox in self._of(domain)])

    def _spared(self, sessions: list[_Open]) -> None:
        time.sleep(0.3)
        for each in sessions:
            try:
                reply = each.client.ask(b"NOOP")
            except GoneError:
                raise AssertionError(f"{each.mailbox}: the session ended without a word") from None
            if not reply.startswith(b"+OK"):
                assert reply.startswith(_LOCKED_REPLY), reply
                self.open.remove(each)
                each.client.close()


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


# --- the kind ---


def run(extent: Extent) -> Result:
    """Let hypothesis draw what they do, until the time is over or something is wrong."""
    return _run(extent, Result("many at once, and crashes among them"), {})


def control(which: str, extent: Extent) -> Result:
    """Do the same with a service that has a defect."""
    result = Result("many at once")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "sitecustomize.py").write_text(DEFECTS[which])
        return _run(extent, result, {"PYTHONPATH": directory})


def _run(extent: Extent, result: Result, environment: dict[str, str]) -> Result:
    began = time.monotonic()
    how = settings(
        max_examples=9,  # with more, many are small, or others once more with small changes
        stateful_step_count=25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with prepared() as place:
        steps: Counter[str] = Counter()
        parts = {"extent": extent, "result": result, "place": place, "environment": environment, "steps": steps}
        while not extent.over() and not result.violations:
            drawn = type("Drawn", (Crowd,), parts | {"examples": itertools.count()})
            run_state_machine_as_test(seed(extent.random.getrandbits(32))(drawn), settings=how)
    result.of = result.points
    result.notes.append(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(steps.items())))
    result.seconds = time.monotonic() - began
    return result
