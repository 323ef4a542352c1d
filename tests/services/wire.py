"""What the tests of the running service share: a client that says what a test wants, and changes of the state."""

import contextlib
import os
import re
import signal
import socket
import sqlite3
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from conftest import fill
from running import Service
from winpop.admin.authority import Actor
from winpop.admin.invoke import invoke
from winpop.admin.operations import OPERATIONS
from winpop.admin.place import Place
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import settings as settings_table
from winpop.store.blobs import Content
from winpop.store.delivery import deliver
from winpop.terms.names import Address

T = TypeVar("T")
STRANGER = "127.0.0.2"
"""An address of this computer that is not trusted by default."""
ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"
HEADER = b"Subject: test\r\n\r\n"


class Wire:
    """A client that sends and reads octets."""

    def __init__(self, port: int, source: str = "127.0.0.1", *, buffer: int = 0, within: float = 20) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(within)
        try:
            self.socket.bind((source, 0))
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._read = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send these octets."""
        self.socket.sendall(data)

    def line(self) -> bytes:
        """Return the next line without its end; nothing when the server has closed."""
        return self._read.readline().removesuffix(b"\r\n")

    def lines(self, count: int) -> list[bytes]:
        """Return so many lines."""
        return [self.line() for _ in range(count)]

    def ask(self, command: bytes) -> bytes:
        """Send a command and return the first line of the reply."""
        self.send(command + b"\r\n")
        return self.line()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Close when what is done in here fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def octets(self, count: int) -> bytes:
        """Return so many octets, fewer when the server closes."""
        return self._read.read(count)

    def multiline(self) -> bytes:
        """Return what follows the first line of a multi-line reply, dot-stuffing undone."""
        text = b""
        while (line := self._read.readline()) != b".\r\n":
            assert line, "the server closed within a reply"
            text += line.removeprefix(b".")
        return text

    def rest(self) -> bytes:
        """Return everything until the server closes; a reset is a close."""
        text = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self._read.read1():
                text += piece
        return text

    def start_tls(self, name: str = "") -> ssl.SSLSocket:
        """Make the client's side of a TLS handshake, whoever the server is; `name` is the host that is wanted."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._read.close()
        self.socket = secured = context.wrap_socket(self.socket, server_hostname=name or None)
        self._read = self.socket.makefile("rb")
        return secured

    def no_more(self) -> None:
        """Half-close: nothing further will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._read.close()
        self.socket.close()


def pop3(service: Service, user: str = "", *, source: str = "127.0.0.1", buffer: int = 0) -> Wire:
    """Return a POP3 client after the greeting, or logged on as `user`."""
    wire = Wire(service.ports["pop3"], source, buffer=buffer)
    with wire.kept():
        expect(b"+OK", wire.line())
        if user:
            wire.ask(b"USER " + user.encode())
            expect(b"+OK", wire.ask(b"PASS secret"))
    return wire


def smtp(service: Service, *, source: str = "127.0.0.1") -> Wire:
    """Return an SMTP client that has introduced itself."""
    wire = Wire(service.ports["smtp"], source)
    with wire.kept():
        expect(b"220 ", wire.line())
        expect(b"250 ", wire.ask(b"HELO client.example"))
    return wire


def begin_message(wire: Wire, recipient: str = ALICE) -> None:
    """Go on to where the message's octets are awaited."""
    assert wire.ask(b"MAIL FROM:<sender@elsewhere.example>").startswith(b"250 ")
    assert wire.ask(b"RCPT TO:<" + recipient.encode() + b">").startswith(b"250 ")
    assert wire.ask(b"DATA").startswith(b"354 ")


def expect(beginning: bytes, reply: bytes) -> None:
    """Raise `RefusedError` unless the reply begins so."""
    if not reply.startswith(beginning):
        raise RefusedError(reply)


class RefusedError(Exception):
    """A greeting or a logon was refused; the reply is the argument."""


def count(service: Service, user: str = ALICE) -> int:
    """Return how many messages a mailbox shows to its user."""
    with pop3(service, user) as wire:
        messages = int(wire.ask(b"STAT").split()[1])
        wire.ask(b"QUIT")
        return messages


def change(home: Home | Path, word: str, **given: str) -> None:
    """Let an administrator do an operation, as the tool does it."""
    place = Place(home if isinstance(home, Home) else Home(home))
    try:
        invoke(place, Actor("test", of_the_system=True), OPERATIONS[word], given)
    finally:
        place.close()


def lock(service: Service, target: str) -> None:
    """Lock a domain or a mailbox."""
    change(service.home, "lock", target=target)


def unlock(service: Service, target: str) -> None:
    """Unlock a domain or a mailbox."""
    change(service.home, "unlock", target=target)


def settle(home: Home, **settings: str) -> None:
    """Store settings."""
    database = Sqlite(home)
    with database.write() as transaction:
        settings_table.store(transaction, settings)
    database.close()


def place(home: Home, user: str, body: bytes, times: int = 1) -> None:
    """Put a message into a mailbox, without the detour by SMTP."""
    database = Sqlite(home)
    with database.write() as transaction:
        for _ in range(times):
            deliver(transaction, [Address.parse(user)], Content(len(body), body, None), b"", plain=False)
    database.close()


def crowd(home: Home, size: int) -> list[str]:
    """Make so many mailboxes in crowd.example and return their addresses."""
    users = [f"user{number}@crowd.example" for number in range(size)]
    fill(home, dict.fromkeys(users, b"secret"))
    return users


def eventually(look: Callable[[], T], within: float = 5.0) -> T:
    """Look until there is something to see, and return it; longer where more processes want to run than can."""
    until = time.monotonic() + within * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    while not (seen := look()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
    return seen


def refusal(service: Service, user: str = ALICE) -> bytes:
    """Return why this user cannot log on now; nothing when they can."""
    try:
        with pop3(service, user) as wire:
            wire.ask(b"QUIT")
    except RefusedError as error:
        return bytes(error.args[0])
    return b""


def logs_on(service: Service, user: str = ALICE) -> bool:
    """Tell whether this user can log on now."""
    try:
        pop3(service, user).close()
    except (RefusedError, OSError):
        return False
    return True


def memory(process: int) -> int:
    """Return how many octets of memory a process has for itself."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(size) * 1024 for size in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.MULTILINE))


def descriptors(process: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def unfinished(home: Home | Path) -> list[Path]:
    """Return the files of messages that were never finished."""
    path = home.path if isinstance(home, Home) else home
    return list((path / "mail" / "tmp").iterdir())


def holder_of(service: Service, wire: Wire) -> int | None:
    """Return the process that has the other end of this connection, None when nobody has it any more."""
    port = wire.socket.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].partition(":")[2], 16) == port:
            for process in [*service.workers(), service.process.pid]:
                if f"socket:[{fields[9]}]" in sockets(process):
                    return process
    return None


def sockets(process: int) -> set[str]:
    """Return the names of the sockets that a process has open."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(str(entry.readlink()))
    return found


@contextlib.contextmanager
def paused(process: int, home: Home | None = None) -> Iterator[None]:
    """Stop a worker meanwhile, so that what comes goes to the others; with its home, where it has not the database.

    Stopped within a commit a worker holds up whoever wants to change anything, until it goes on; with no more than its
    turn (`winpop.db.turns`), for a second.
    """
    os.kill(process, signal.SIGSTOP)
    try:
        while home and not _may_write(home):
            os.kill(process, signal.SIGCONT)
            time.sleep(0.01)
            os.kill(process, signal.SIGSTOP)
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _may_write(home: Home) -> bool:
    with contextlib.closing(sqlite3.connect(home.database, timeout=0.5, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


@contextlib.contextmanager
def no_defect(service: Service) -> Iterator[None]:
    """See that the log tells of no defect and of no error that nobody caught."""
    yield
    log = service.log.read_text()
    assert "defect" not in log, log
    assert "Traceback" not in log, log
