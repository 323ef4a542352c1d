"""The fixed script of the sweeps: deliveries, fetches, deletions, locks, administrative changes, on the real program.

Invariant: each step enters in the ledger what it asks for before it asks, and what it was told after; a step never
raises: it is done, refused for now (4xx, `-ERR [SYS/TEMP]`, exit status 4), or open (the connection was lost). Any
other reply is wrong, and is kept in `wrong`.
"""

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from durability.ledger import Found, Ledger, message, stuffed, token_of
from running import COMMAND

ALICE, BOB, DAVE = "alice@example.com", "bob@example.com", "dave@example.com"
CAROL, EVE = "carol@other.example", "eve@other.example"
ACCOUNTS = [ALICE, BOB, CAROL]
"""The mailboxes that a home has before the script begins; their password is `secret`."""
DONE, REFUSED, OPEN = "done", "refused for now", "open"
_SMALL, _LARGE = 900, 200_000
"""Octets of a message that lies in its row, and of one that has a file of its own."""
_FOR_NOW = re.compile(rb"-ERR \[(SYS/TEMP|IN-USE)\]|4\d\d ")
_OUT_OF_REACH = 4


class _Lost(Exception):  # noqa: N818 - no error: the server was killed, as the test wanted
    """The connection ended."""


class _RefusedForNow(Exception):  # noqa: N818 - no error: a fault was injected
    """A temporary reply."""


class Client:
    """A client that reads line by line, and tells an end of the connection from a reply."""

    def __init__(self, port: int) -> None:
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), 20)
        except OSError as error:
            raise _Lost from error
        self._file = self._socket.makefile("rb")

    def line(self) -> bytes:
        """Return the next line."""
        try:
            line = self._file.readline()
        except OSError as error:
            raise _Lost from error
        if not line.endswith(b"\r\n"):
            raise _Lost
        return line[:-2]

    def send(self, octets: bytes) -> None:
        """Send these octets."""
        try:
            self._socket.sendall(octets)
        except OSError as error:
            raise _Lost from error

    def ask(self, command: bytes, good: bytes) -> bytes:
        """Send a command; return the reply, which must begin with `good`."""
        self.send(command + b"\r\n")
        return self.expect(good)

    def expect(self, good: bytes) -> bytes:
        """Return the next reply, which must begin with `good`."""
        reply = self.line()
        if reply.startswith(good):
            return reply
        if _FOR_NOW.match(reply):
            raise _RefusedForNow
        raise AssertionError(f"{reply!r} instead of {good!r}")

    def multiline(self) -> bytes:
        """Return the lines up to the lone dot, dot-stuffing undone."""
        lines = []
        while (line := self.line()) != b".":
            lines.append(line.removeprefix(b".") + b"\r\n")
        return b"".join(lines)

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._socket.close()


@dataclass(slots=True)
class Story:
    """The steps, on a service with these ports and this home. `environment` is for the commands of the tool."""

    home: Path
    ports: dict[str, int]
    ledger: Ledger
    environment: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    """Every step with its outcome."""

    def all(self) -> Iterator[str]:
        """Do the steps one after another; yield the outcome of each."""
        yield from (self.step(name, do) for name, do in self.steps())

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the steps in their order."""
        return [
            ("deliver small", lambda: self.deliver("a-1", _SMALL, ALICE)),
            ("deliver to two", lambda: self.deliver("a-2", _SMALL + 1, ALICE, BOB)),
            ("deliver large", lambda: self.deliver("a-3", _LARGE, ALICE)),
            ("deliver by lmtp", lambda: self.deliver_by_lmtp("a-4", _SMALL, ALICE, CAROL)),
            ("deliver large by lmtp", lambda: self.deliver_by_lmtp("a-5", _LARGE + 1, BOB, CAROL)),
            ("lock the domain", lambda: self.lock("example.com", True)),
            ("deliver to a locked domain", lambda: self.deliver("a-6", _SMALL, ALICE)),
            ("unlock the domain", lambda: self.lock("example.com", False)),
            ("fetch and delete", lambda: self.fetch(ALICE, delete=2)),
            ("fetch and go", lambda: self.fetch(BOB, delete=1, quit=False)),
            ("add a mailbox", lambda: self.add(DAVE)),
            ("deliver to it", lambda: self.deliver("a-7", _LARGE, DAVE)),
            ("lock a mailbox", lambda: self.lock(BOB, True)),
            ("unlock a mailbox", lambda: self.lock(BOB, False)),
            ("change a setting", lambda: self.command("set", "autologout", "900")),
            ("delete large", lambda: self.fetch(BOB, delete=2)),
            ("delete a mailbox", lambda: self.delete(DAVE)),
            ("deliver last", lambda: self.deliver("a-8", _SMALL, ALICE)),
        ]

    def step(self, name: str, do: Callable[[], None]) -> str:
        """Do one step; return its outcome."""
        try:
            do()
            outcome = DONE
        except _RefusedForNow:
            outcome = REFUSED
        except _Lost:
            outcome = OPEN
        except AssertionError as error:
            outcome = OPEN
            self.wrong.append(f"{name}: {error}")
        self.said.append((name, outcome))
        return outcome

    # --- mail ---

    def deliver(self, token: str, size: int, *recipients: str) -> None:
        """Hand in a message by SMTP."""
        with contextlib.closing(Client(self.ports["smtp"])) as client:
            self._offer(client, b"HELO client.example", token, size, recipients)
            client.expect(b"250 ")
            self.ledger.acknowledged(token, *recipients)
            client.ask(b"QUIT", b"221 ")

    def deliver_by_lmtp(self, token: str, size: int, *recipients: str) -> None:
        """Hand in a message by LMTP: each recipient has a reply of its own."""
        with contextlib.closing(Client(self.ports["lmtp"])) as client:
            self._offer(client, b"LHLO client.example", token, size, recipients, together=False)
            refused = False
            for recipient in recipients:
                try:
                    client.expect(b"250 ")
                    self.ledger.acknowledged(token, recipient)
                except _RefusedForNow:
                    refused = True
            if refused:
                raise _RefusedForNow
            client.ask(b"QUIT", b"221 ")

    def _offer(  # noqa: PLR0913 - what is offered, how and to whom
        self, client: Client, hello: bytes, token: str, size: int, recipients: tuple[str, ...], *, together: bool = True
    ) -> None:
        """Go on to where the message was sent and its reply is awaited."""
        client.expect(b"220 ")
        reply = client.ask(hello, b"250")
        while reply.startswith(b"250-"):
            reply = client.line()
        client.ask(b"MAIL FROM:<sender@elsewhere.example>", b"250 ")
        for recipient in recipients:
            client.ask(b"RCPT TO:<" + recipient.encode() + b">", b"250 ")
        client.ask(b"DATA", b"354 ")
        octets = message(token, size)
        self.ledger.sending(token, octets, *recipients, together=together)
        client.send(stuffed(octets) + b".\r\n")

    def fetch(self, mailbox: str, *, delete: int, quit: bool = True) -> None:  # noqa: A002 - the command's name
        """Fetch everything and compare it; delete the first so many; end with QUIT, or just go."""
        with contextlib.closing(Client(self.ports["pop3"])) as client:
            client.expect(b"+OK")
            client.ask(b"USER " + mailbox.encode(), b"+OK")
            client.ask(b"PASS secret", b"+OK")
            client.ask(b"UIDL", b"+OK")
            unique_ids = [line.split()[1].decode() for line in client.multiline().splitlines()]
            tokens, found = [], []
            for number, unique_id in enumerate(unique_ids, 1):
                client.ask(b"RETR %d" % number, b"+OK")
                octets = client.multiline()
                found.append(Found(unique_id, octets))
                tokens.append(token_of(octets))
            self.wrong += self.ledger.wrong_mail(mailbox, found)
            doomed = tokens[:delete]
            for number in range(1, len(doomed) + 1):
                client.ask(b"DELE %d" % number, b"+OK")
            if quit:
                self.ledger.deleting(mailbox, doomed)
                try:
                    client.ask(b"QUIT", b"+OK")
                except _RefusedForNow:
                    self.ledger.kept(mailbox, doomed)
                    raise
                self.ledger.deleted(mailbox, doomed)

    # --- administration ---

    def lock(self, target: str, locked: bool) -> None:  # noqa: FBT001 - the state, as in the ledger
        """Lock or unlock."""
        with self._told(self.ledger.lock, target, self.ledger.is_locked(target), locked):
            self.command("lock" if locked else "unlock", target)

    def add(self, address: str) -> None:
        """Make a mailbox with the password `secret`."""
        with self._told(self.ledger.mailbox, address, self.ledger.is_there(address), True):
            self.command("add", address, "/createuser")

    def delete(self, address: str) -> None:
        """Delete a mailbox with its mail."""
        with self._told(self.ledger.mailbox, address, self.ledger.is_there(address), False):
            self.command("delete", address, "--yes")

    @contextlib.contextmanager
    def _told(
        self,
        tell: Callable[[str, bool | None], None],
        target: str,
        before: bool | None,  # noqa: FBT001 - the state, as in the ledger
        after: bool,  # noqa: FBT001 - the same
    ) -> Iterator[None]:
        """Enter that a command is under way, and what it led to: nothing, where it was refused."""
        tell(target, None)
        try:
            yield
        except _RefusedForNow:
            tell(target, before)
            raise
        tell(target, after)

    def command(self, *words: str) -> None:
        """Run the tool as a process of its own."""
        result = subprocess.run(
            [*COMMAND, "--home", str(self.home), *words],
            input="secret",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | self.environment,
        )
        if result.returncode < 0:
            raise _Lost
        assert "[internal-error]" not in result.stderr, f"{words[0]}: {result.stderr}"
        if "[outcome-unknown]" in result.stderr:
            raise _Lost
        if result.returncode == _OUT_OF_REACH:
            raise _RefusedForNow
        if result.returncode:
            # Of an earlier attempt whose outcome was open: it had been done.
            known = ("mailbox-exists", "no-such-mailbox")
            assert any(f"[{code}]" in result.stderr for code in known), f"{words[0]}: {result.stderr}"
