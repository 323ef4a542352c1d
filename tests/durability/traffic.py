"""Mail that comes in and is fetched while domains are locked: what many at once, bad days and the soak have in common.

Invariant: what is asked is in the book before it is asked, and what was told after; an outcome that nothing disturbed
is kept in `wrong` unless it is a good one.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from durability.book import Book
from durability.ledger import look_inside, message, stuffed, token_of
from durability.service import Attempt, copied, fill_quickly, patience, troubles
from durability.shim import FAST
from running import Service
from services.wire import Wire, change, eventually, settle
from winpop.db.home import Home

DOMAINS = ["a.example", "b.example"]
MAILBOXES = [f"user{n}@{domain}" for domain in DOMAINS for n in range(3)]
"""What a prepared home has; the password is `secret`."""
DONE, LOCKED, IN_USE, REFUSED, GONE = "done", "locked", "in use", "refused for now", "gone"
SIZES = [900, 5_001, 140_000, 400_001]
"""Octets of messages that lie in rows, and of ones that have files of their own."""
LOCKED_REPLY = b"-ERR [AUTH] An administrator has locked this "
_NUMBERS = itertools.count()


# --- homes ---


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """Make a directory with a home of `MAILBOXES` in it, as a model of others."""
    place = Path(tempfile.mkdtemp(prefix="winpop-crowd-", dir=FAST))
    try:
        home = Home(place / "model")
        fill_quickly(home, MAILBOXES)
        settle(home, failuredelay="0", failuremax="1000", diskreserve="0")
        with Attempt(home.path):
            pass  # makes the directories of the mail root
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy(place: Path) -> Home:
    """Return another home like the model."""
    return copied(place / "model", place / f"home-{next(_NUMBERS)}")


# --- clients ---


class GoneError(Exception):
    """The connection has ended."""


class NotDoneError(Exception):
    """A reply says that it was not done; it is the argument."""


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

    def expect(self, good: bytes) -> None:
        """Read a reply, of SMTP perhaps of several lines. Raises `NotDoneError` unless it begins so."""
        while (reply := self.line()).startswith(b"250-"):
            pass
        if not reply.startswith(good):
            raise NotDoneError(reply)

    def must(self, command: bytes, good: bytes = b"+OK") -> None:
        """Send a command. Raises `NotDoneError` unless the reply is a good one."""
        self.send(command + b"\r\n")
        self.expect(good)

    def fetched(self, command: bytes) -> bytes:
        """Send a command that has a reply of many lines; return them. Raises `NotDoneError`."""
        self.must(command)
        return self.multiline()

    def introduce(self, kind: str) -> None:
        """Go on to where recipients are awaited. Raises `NotDoneError`."""
        self.must(b"LHLO client.example" if kind == "lmtp" else b"HELO client.example", b"250 ")
        self.must(b"MAIL FROM:<s@else.example>", b"250 ")

    def offer(self, kind: str, *recipients: str) -> None:
        """Go on to where the octets of a message are awaited. Raises `NotDoneError`."""
        self.introduce(kind)
        for recipient in recipients:
            self.must(b"RCPT TO:<%s>" % recipient.encode(), b"250 ")
        self.must(b"DATA", b"354 ")


def outcome_of(reply: bytes) -> str:
    """Return what a reply that is not a good one means; the reply where it should not be."""
    kinds = {
        rb"-ERR \[AUTH\] An administrator has locked|-ERR \[SYS/PERM\] This mailbox is no more": LOCKED,
        rb"-ERR \[IN-USE\]": IN_USE,
        rb"-ERR \[SYS/TEMP\]|4\d\d ": REFUSED,
    }
    return next((outcome for kind, outcome in kinds.items() if re.match(kind, reply)), repr(reply))


def connect(service: Service, kind: str, within: float = 20) -> Client:
    """Return a client after the greeting. Raises `GoneError`, `NotDoneError`."""
    try:
        client = Client(service.ports[kind], within=within)
    except OSError as error:
        raise GoneError from error
    with client.kept():
        client.expect(b"+OK" if kind == "pop3" else b"220 ")
    return client


def log_on(service: Service, mailbox: str, password: str = "secret", within: float = 20) -> Client:
    """Return a client with an open maildrop. Raises `GoneError`, `NotDoneError`."""
    client = connect(service, "pop3", within)
    with client.kept():
        client.ask(b"USER " + mailbox.encode())
        client.must(b"PASS " + password.encode())
    return client


def listing(client: Client, known: dict[str, str]) -> list[tuple[str, str]]:
    """Return token and unique-id of each message; `known` are the tokens of unique-ids that were seen before."""
    seen = []
    for line in client.fetched(b"UIDL").splitlines():
        number, unique_id = line.split()
        if unique_id.decode() not in known:
            known[unique_id.decode()] = token_of(client.fetched(b"TOP " + number + b" 0"))
        seen.append((known[unique_id.decode()], unique_id.decode()))
    return seen


# --- traffic ---


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
        outcome = self._outcome("send", lambda: self._send(token, size, recipients, kind))
        if outcome != DONE and not self.book.troubled(mark):
            self.wrong.append(f"{token}: {outcome} while nothing disturbed it")
        return outcome

    def _send(self, token: str, size: int, recipients: tuple[str, ...], kind: str) -> str:
        octets = message(token, size)
        with connect(self.service, kind, self.within) as client:
            client.offer(kind, *recipients)
            self.book.sending(token, octets, *recipients, together=kind != "lmtp")
            client.send(stuffed(octets) + b".\r\n")
            outcome = DONE
            for whose in [(recipient,) for recipient in recipients] if kind == "lmtp" else [recipients]:
                reply = client.line()
                if reply.startswith(b"250 "):
                    self.book.acknowledged(token, *whose)
                else:
                    self.book.refused(token, *whose)
                    outcome = outcome_of(reply)
            return outcome

    def fetch(self, mailbox: str, *, delete: int = 0, quit: bool = True) -> str:  # noqa: A002 - the command's name
        """Log on, fetch and compare everything, delete the first so many; return the outcome."""
        mark = self.book.calm(mailbox)
        outcome = self._outcome("fetch", lambda: self._fetch(mailbox, delete, leave=not quit))
        if outcome not in (DONE, IN_USE) and not self.book.disturbed(mailbox, mark):
            self.wrong.append(f"{mailbox}: {outcome} while nothing disturbed it")
        return outcome

    def _fetch(self, mailbox: str, delete: int, *, leave: bool) -> str:
        before, seen = self.book.before(mailbox), []
        with log_on(self.service, mailbox, within=self.within) as client:
            for line in client.fetched(b"UIDL").splitlines():
                number, unique_id = line.split()
                octets = client.fetched(b"RETR " + number)
                token = token_of(octets)
                seen.append((token, unique_id.decode()))
                self.wrong += self.book.wrong_octets(mailbox, token, octets)
            self.wrong += self.book.wrong_listing(mailbox, before, seen)
            doomed = [token for token, _ in seen[:delete]]
            for index in range(len(doomed)):
                client.must(b"DELE %d" % (index + 1))
            if leave:
                return DONE
            self.book.deleting(mailbox, doomed)
            try:
                client.must(b"QUIT")
            except NotDoneError:
                self.book.kept(mailbox, doomed)
                raise
            self.book.deleted(mailbox, doomed)
        return DONE

    def turn(self, target: str, *, locked: bool) -> None:
        """Lock or unlock."""
        self.book.lock(target, None)
        change(self.service.home, "lock" if locked else "unlock", target=target)
        self.book.lock(target, locked)
        self._count("lock done" if locked else "unlock done")

    def kill(self, worker: int) -> None:
        """Kill a worker; return when there is another in its place."""
        with self.book.trouble():
            os.kill(worker, signal.SIGKILL)
            time.sleep(0.3)
        replaced(self.service, worker)

    # --- looking ---

    def wrong_in(self, home: Home) -> list[str]:
        """Return what is wrong, now that nothing is on its way: what was met, in the home, in the log."""
        self.book.settle()
        met, self.wrong[:] = list(self.wrong), []
        return [*met, *self.book.violations(look_inside(home)), *troubles(home.path)]

    def last_look(self) -> list[str]:
        """Fetch every mailbox, stop the service; return what is wrong."""
        for mailbox in MAILBOXES:
            eventually(lambda mailbox=mailbox: self.fetch(mailbox) == DONE, patience(10))  # type: ignore[misc]
        status = self.service.stop()
        stopped = [f"the service stopped with status {status}"] if status else []
        return stopped + self.wrong_in(Home(self.service.home))

    def _outcome(self, what: str, do: Callable[[], str]) -> str:
        try:
            outcome = do()
        except GoneError:
            outcome = GONE
        except NotDoneError as error:
            outcome = outcome_of(bytes(error.args[0]))
        except AssertionError as error:
            outcome = str(error)
        self._count(f"{what} {outcome}")
        return outcome

    def _count(self, what: str) -> None:
        with self.book._guard:
            self.told[what] = self.told.get(what, 0) + 1


def replaced(service: Service, worker: int) -> None:
    """Wait until there is another worker in the place of this one."""
    eventually(lambda: len(set(service.workers()) - {worker}) == 2, patience(15))
