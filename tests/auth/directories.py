"""Servers on this computer that are no good domain controllers, and one in memory that is; relays before a real one."""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from auth.authorities import authority, issued, root_of, written
from winpop.auth.active_directory import ber, messages

OURS = "Test Authority"
Behaviour = Callable[[socket.socket], None]
"""What a server does with a connection; it is closed when that returns."""


@dataclass
class Directory:
    """The `ldap…` settings."""

    ldapservers: tuple[str, ...]
    ldapca: str = ""
    ldapbase: str = ""
    ldapuser: str = "CN=service,DC=memory"
    ldapcreatein: str = ""
    ldapadmins: str = ""
    ldaptimeout: float = 0.4


class Server:
    """Listens on a port of 127.0.0.1 and does the same with every connection, in a thread for each."""

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.count = 0
        """Connections so far."""
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def uri(self, scheme: str = "ldaps") -> str:
        return f"{scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse further connections and cut those that are open."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listener.close()

    def cut(self) -> None:
        """Cut the connections that are open."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.count += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection.dup() as handle:  # TLS takes the connection itself away
            self._open.add(handle)
            with connection, contextlib.suppress(OSError, ValueError):
                connection.settimeout(30)
                self._behaviour(connection)
            self._open.discard(handle)


def silent(connection: socket.socket) -> None:
    """Take what comes and say nothing."""
    while connection.recv(65536):
        pass


def closes(_connection: socket.socket) -> None:
    """Close at once."""


def says(octets: bytes) -> Behaviour:
    """Say this, and then nothing."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(octets)
        silent(connection)

    return behave


def drips(connection: socket.socket) -> None:
    """Announce much and send it an octet at a time."""
    connection.sendall(b"\x30\x83\x0f\xff\xff")
    while True:
        connection.sendall(b"\0")
        time.sleep(0.01)


def floods(connection: socket.socket) -> None:
    """Send without end."""
    while True:
        connection.sendall(bytes(65536))


def in_tls(context: ssl.SSLContext, inner: Behaviour) -> Behaviour:
    """Shake hands, then do that."""

    def behave(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            inner(secured)

    return behave


def after_start_tls(context: ssl.SSLContext, inner: Behaviour, injected: bytes = b"") -> Behaviour:
    """Answer StartTLS, and `injected` in clear right behind it; then shake hands and do that."""

    def behave(connection: socket.socket) -> None:
        number, tag, _ = _request(connection) or (0, 0, b"")
        assert tag == 0x77
        connection.sendall(_result(number, 0x78) + injected)
        in_tls(context, inner)(connection)

    return behave


def relay(host: str, port: int) -> Behaviour:
    """Pass everything on to another server, and back."""

    def behave(connection: socket.socket) -> None:
        with socket.create_connection((host, port), 10) as there:
            while True:
                for source in select.select([connection, there], [], [], 30)[0]:
                    octets = source.recv(65536)
                    if not octets:
                        return
                    (there if source is connection else connection).sendall(octets)

    return behave


class Memory:
    """A directory in memory with some accounts, which a test can let fail at one kind of request."""

    def __init__(self, accounts: dict[str, tuple[bytes, bytes]]) -> None:
        self.accounts = accounts
        """Identifier (16 octets) and password by DN."""
        self.faults: dict[str, Behaviour] = {}
        """What to do instead of answering a `service` bind, a `search`, a `logon`."""
        self.answers: dict[str, tuple[int, str]] = {}
        """Code and text of the answer to each of these, if not the true one."""
        self.binds: list[tuple[str, bytes]] = []
        """Names and passwords that were tried, the service account's aside."""
        self.state = {"userAccountControl": b"512", "pwdLastSet": b"133000000000000000"}
        """What every account shows of itself."""
        self.service_password = b"service"
        self.service_binds = 0

    def serve(self, connection: socket.socket) -> None:
        while (request := _request(connection)) is not None:
            number, tag, inside = request
            if tag == 0x42:
                return
            kind = "search" if tag == 0x63 else "service" if b"CN=service,DC=memory" in inside else "logon"
            if kind in self.faults:
                self.faults[kind](connection)
                return
            answer = self._search(number, inside) if kind == "search" else self._bind(number, inside)
            if kind in self.answers:
                answer = _result(number, 0x65 if kind == "search" else 0x61, *self.answers[kind])
            connection.sendall(answer)

    def _bind(self, number: int, inside: bytes) -> bytes:
        reader = ber.Reader(inside)
        version, name, password = reader.number(), reader.text(), reader.take(0x80)
        assert (version, reader.more()) == (3, False)
        if name == "CN=service,DC=memory":
            self.service_binds += 1
            return _bound(number, password == self.service_password)
        self.binds.append((name, password))
        # As a directory does it: without a password it is anybody, and welcome (RFC 4513 §5.1.2).
        return _bound(number, not password or (name in self.accounts and self.accounts[name][1] == password))

    def _search(self, number: int, inside: bytes) -> bytes:
        base = ber.Reader(inside).text()
        found = b""
        if not base:
            names = {"defaultNamingContext": b"DC=memory", "configurationNamingContext": b"CN=Configuration,DC=memory"}
            found = _entry(number, "", names)
        for dn, (identifier, _) in self.accounts.items():
            if ber.text(identifier) in inside:
                found += _entry(number, dn, {"objectGUID": identifier, "cn": b"x"} | self.state)
        return found + message(number, ber.text(b"ldap://elsewhere/", 0x73)) + _result(number, 0x65)


def message(number: int, operation: bytes) -> bytes:
    return messages.message(number, operation)


def _bound(number: int, is_right: bool) -> bytes:  # noqa: FBT001 - a helper of two lines
    return _result(number, 0x61) if is_right else _result(number, 0x61, 49, "80090308: LdapErr: data 52e, v1db1")


def _result(number: int, tag: int, code: int = 0, text: str = "") -> bytes:
    return message(number, ber.element(tag, ber.integer(code, ber.ENUMERATED), ber.text(""), ber.text(text)))


def _entry(number: int, dn: str, values: dict[str, bytes]) -> bytes:
    attributes = [
        ber.element(ber.SEQUENCE, ber.text(name), ber.element(ber.SET, ber.text(value)))
        for name, value in values.items()
    ]
    return message(number, ber.element(0x64, ber.text(dn), ber.element(ber.SEQUENCE, *attributes)))


def _request(connection: socket.socket) -> tuple[int, int, bytes] | None:
    buffer = b""
    while not ber.whole(buffer, 1 << 20):
        octets = connection.recv(1)
        if not octets:
            return None
        buffer += octets
    reader = ber.Reader(buffer).enter(ber.SEQUENCE)
    number, tag = reader.number(), reader.tag()
    return number, tag, reader.take(tag)


@dataclass(frozen=True)
class Trust:
    """An authority, the file that a client trusts it by, and a server's side of TLS by a certificate of it."""

    ca: str
    context: ssl.SSLContext


def trust(directory: Path, *names: str, days: float = 90, since: float = -1, by: str = OURS) -> Trust:
    """Make a certificate for these names, valid for `days` from today on, and what it takes to serve with it.

    The file always is the one of the usual authority, whoever signs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ca = directory / "ca.pem"
    ca.write_text(root_of(authority(OURS)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(
        *written(directory, issued(*(names or ("127.0.0.1",)), by=authority(by), days=days, since=since))
    )
    return Trust(str(ca), context)


@contextlib.contextmanager
def in_memory(memory: Memory, trusted: Trust, scheme: str = "ldaps") -> Iterator[Server]:
    """Serve a directory in memory."""
    secured = in_tls if scheme == "ldaps" else after_start_tls
    with Server(secured(trusted.context, memory.serve)) as server:
        yield server
