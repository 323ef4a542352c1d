"""Real handshakes: a server that takes TLS as connections do, in either event loop, and clients of it."""

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import uvloop

from auth.authorities import issued, openssl
from winpop.auth.certificates import Pair
from winpop.db.sqlite import Sqlite
from winpop.directory import certificates
from winpop.services.tls import Tls, alpn_is_right, bindings, client_names
from winpop.telemetry.log import Log

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, Loop] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
_TIME = 10
MAIL, WILD, DEFAULT = issued("mail.example.com"), issued("*.example.org", "example.org"), issued("default.example")


@dataclass
class Server:
    """A server on loopback; what it saw in handshakes is in `seen`, what went wrong in `failures`."""

    tls: Tls
    port: int = 0
    seen: "SimpleQueue[dict[str, Any]]" = field(default_factory=SimpleQueue)
    failures: "SimpleQueue[BaseException]" = field(default_factory=SimpleQueue)
    unhandled: list[dict[str, Any]] = field(default_factory=list)

    def failure(self) -> str:
        """Wait for a handshake that fails; return OpenSSL's reason."""
        error = self.failures.get(timeout=_TIME)
        assert isinstance(error, ssl.SSLError), error
        return error.reason


class _Connection(asyncio.Protocol):
    """Begins TLS at STLS, says what it sees of the handshake, and ends."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.write(b"+OK\r\n")

    def data_received(self, data: bytes) -> None:
        if data == b"STLS\r\n":
            self._transport.pause_reading()
            self._transport.write(b"+OK\r\n")
            self._task = asyncio.get_running_loop().create_task(self._begin(self._transport))

    async def _begin(self, raw: asyncio.Transport) -> None:
        loop, context = asyncio.get_running_loop(), self._server.tls.context
        assert context is not None
        try:
            transport = await loop.start_tls(raw, self, context, server_side=True, ssl_handshake_timeout=_TIME)
        except (OSError, asyncio.CancelledError) as error:
            self._server.failures.put(error)
            raw.abort()
            return
        assert transport is not None
        ssl_object = transport.get_extra_info("ssl_object")
        seen = {
            "bindings": {name: value.hex() for name, value in bindings(ssl_object).items()},
            "names": client_names(ssl_object),
            "alpn": alpn_is_right(ssl_object),
        }
        self._server.seen.put(seen)
        transport.write(json.dumps(seen).encode() + b"\n")

    def eof_received(self) -> None:
        """Let the transport close."""


@contextlib.contextmanager
def serving(
    tls: Tls, loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
) -> Iterator[Server]:
    """Serve in a thread with such a loop."""
    server, ready, loops = Server(tls), threading.Event(), list[asyncio.AbstractEventLoop]()
    done = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: server.unhandled.append(context))
        listener = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        loops.append(loop)
        ready.set()
        await done.wait()
        listener.close()
        await asyncio.sleep(0)

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(_TIME)
        yield server
    finally:
        loops[0].call_soon_threadsafe(done.set)
        thread.join(_TIME)
    assert not server.unhandled


@dataclass(frozen=True)
class Seen:
    """What client and server saw of a handshake."""

    certificate: bytes
    version: str | None
    alpn: str | None
    session: ssl.SSLSession | None
    reused: bool | None
    bindings: dict[str, bytes]
    names: list[str]
    alpn_is_right: bool


def client_context(*, roots: str = "", alpn: tuple[str, ...] = (), version: str = "") -> ssl.SSLContext:
    """Return a client's context; with `roots` it checks the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if roots:
        context.load_verify_locations(cadata=roots)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context


def shake(
    server: Server,
    host: str | None = None,
    context: ssl.SSLContext | None = None,
    session: ssl.SSLSession | None = None,
) -> Seen:
    """Do a handshake, asking for `host`; read what the server says of it. Raises `OSError` where it fails."""
    context = context or client_context()
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=_TIME)
    with raw:
        assert raw.recv(100) == b"+OK\r\n"
        raw.sendall(b"STLS\r\n")
        assert raw.recv(5, socket.MSG_WAITALL) == b"+OK\r\n"
        return _shake(raw, context, host, session)


def _shake(raw: socket.socket, context: ssl.SSLContext, host: str | None, session: ssl.SSLSession | None) -> Seen:
    with context.wrap_socket(raw, server_hostname=host, session=session) as wrapped:
        line = wrapped.makefile("rb").readline()
        if not line:
            raise ConnectionResetError
        said = json.loads(line)
        certificate = wrapped.getpeercert(binary_form=True)
        assert certificate is not None
        return Seen(
            certificate,
            wrapped.version(),
            wrapped.selected_alpn_protocol(),
            wrapped.session,
            wrapped.session_reused,
            {name: bytes.fromhex(value) for name, value in said["bindings"].items()},
            said["names"],
            said["alpn"],
        )


def s_client(server: Server, *arguments: str, given: bytes = b"", ca: Path | None = None) -> str:
    """Let openssl connect; return all that it says."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-starttls", "pop3", *arguments]
    command += ["-CAfile", str(ca), "-verify_return_error"] if ca else []
    openssl("version")  # that it is there
    done = subprocess.run(command, input=given, capture_output=True, timeout=30, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


def put(database: Sqlite, *pairs: Pair, default: bool = False) -> None:
    with database.write() as transaction:
        for pair in pairs:
            certificates.add(transaction, pair.chain, pair.private_key, default=default)


def trust(database: Sqlite, chain: str) -> None:
    with database.write() as transaction:
        certificates.set_clients(transaction, chain)


def clear(database: Sqlite) -> None:
    with database.write() as transaction:
        transaction.run("DELETE FROM certificate WHERE use = 'server'")


def three(database: Sqlite, log: Callable[[str], object]) -> Tls:
    """Return a worker's certificates: three pairs, of which one is the default."""
    put(database, DEFAULT, default=True)
    put(database, MAIL, WILD)
    tls = Tls(Log(write=log))
    tls.take(database)
    return tls
