"""A hostile crowd: clients that say nothing, drip, never read, stop within a handshake, guess, or come and go.

    with Crowd(ports, {"silent": 300, "guessing": 300}) as crowd: ...

It is a process of its own, so that whoever measures beside it is not held up by it. Each client keeps to its kind: when
the server ends its connection it comes again after a moment. Invariants: the clients of a kind come from addresses of
their own, some to an address, each address in a network of its own (127.K.N.2), unless one address is named for all;
the crowd is bounded in number, in octets and in time, and ends when whoever started it closes it, or is gone.

One file although it is long: a kind of client is some ten lines, and there are 23.
"""

import asyncio
import contextlib
import json
import random
import selectors
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

PASSWORD = "correct horse"  # noqa: S105 - of mailboxes on loopback
_LONGEST = 600.0
"""Seconds after which a crowd ends, whatever happens."""
_ANSWERS = 10.0
"""Seconds for it to say what became of it."""
_AGAIN = 0.5
"""Seconds until a client comes again."""
_BLOCKED = 1.0
"""Seconds after which a server that takes no octet is one that takes no more."""
_PIECE = 64 * 1024
_MOST = 4 * 1024 * 1024
"""Octets that a client that never stops sends at most, if the server takes them."""
_SMALL_WINDOW = 4096
_SENT = b"x" * 76 + b"\r\n"


@dataclass(frozen=True, slots=True)
class Orders:
    """What a crowd is told: where to go, how many of each kind, from where, and which mailboxes are theirs.

    `users` has one `%d`: the number of a client that logs on, counted over all kinds. `target` is whom they guess at.
    """

    ports: Mapping[str, int]
    kinds: Mapping[str, int]
    source: str = ""
    users: str = "guest%d@example.com"
    target: str = "honest0@example.com"


@dataclass(slots=True)
class Tally:
    """What became of the clients of a kind."""

    connections: int = 0
    there: int = 0
    """Clients that have come as far as their kind goes, at least once."""
    ended: int = 0
    """Connections that the server ended."""
    standing: int = 0
    """Clients that are as far now."""


class Client:
    """One client, connection after connection."""

    def __init__(self, orders: Orders, source: str, number: int, tally: Tally) -> None:
        self.orders, self.source, self.number, self.tally = orders, source, number, tally
        self.dice = random.Random(number)  # noqa: S311 - nothing here needs better chance
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._text = b""
        self._arrived = False
        self._stands = False

    @property
    def user(self) -> str:
        """The client's own mailbox."""
        return self.orders.users % self.number

    async def connect(self, port: str, window: int = 0) -> None:
        """Connect; with a `window` the system takes no more than so many octets for a client that does not read."""
        self._text, self._tls = b"", None
        self._socket = connection = socket.socket()
        connection.setblocking(False)
        if window:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        connection.bind((self.source, 0))
        await self._loop.sock_connect(connection, ("127.0.0.1", self.orders.ports[port]))
        self.tally.connections += 1

    async def send(self, data: bytes) -> None:
        """Send octets, over TLS once there is TLS."""
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        await self.send_in_clear(data)

    async def send_in_clear(self, data: bytes) -> None:
        """Send octets as they are."""
        assert self._socket is not None
        await self._loop.sock_sendall(self._socket, data)

    async def read(self, most: int = _PIECE) -> bytes:
        """Return some octets. Raises `ConnectionError` when the server has ended the connection."""
        while True:
            if self._tls is not None:
                with contextlib.suppress(ssl.SSLWantReadError):
                    data = self._tls.read(most)
                    if not data:
                        raise ConnectionError
                    return data
            records = await self._read_in_clear(most)
            if self._tls is None:
                return records
            self._incoming.write(records)

    async def _read_in_clear(self, most: int) -> bytes:
        assert self._socket is not None
        data = await self._loop.sock_recv(self._socket, most)
        if not data:
            raise ConnectionError
        return data

    async def line(self) -> bytes:
        """Return the next line."""
        while b"\n" not in self._text:
            self._text += await self.read()
        line, _, self._text = self._text.partition(b"\n")
        return line

    async def ask(self, command: str) -> bytes:
        """Send a command and return the first line of the answer."""
        await self.send(command.encode() + b"\r\n")
        return await self.line()

    async def secure(self) -> None:
        """Make a TLS handshake, whoever the server is."""
        layer = self._layer()
        while True:
            try:
                layer.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send_in_clear(self._outgoing.read())
                self._incoming.write(await self._read_in_clear(_PIECE))
        await self.send_in_clear(self._outgoing.read())
        self._tls = layer

    def hello(self) -> bytes:
        """Return a ClientHello."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._layer().do_handshake()
        return self._outgoing.read()

    def _layer(self) -> ssl.SSLObject:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        return ANY_CERTIFICATE.wrap_bio(self._incoming, self._outgoing, server_hostname="mail.example.com")

    async def log_on(self, port: str, window: int = 0) -> None:
        """Log on to the client's own mailbox. Raises `ConnectionError` where it may not."""
        await self.connect(port, window)
        if port == "pop3s":
            await self.secure()
        await self.line()
        await self.ask(f"USER {self.user}")
        if not (await self.ask(f"PASS {PASSWORD}")).startswith(b"+OK"):
            raise ConnectionError

    async def begin_message(self) -> None:
        """Go on to where a message's octets are awaited."""
        await self.connect("smtp")
        await self.line()
        for command in ("HELO hostile.example", "MAIL FROM:<>", f"RCPT TO:<{self.user}>", "DATA"):
            if (await self.ask(command))[:1] not in {b"2", b"3"}:
                raise ConnectionError

    async def flood(self, data: bytes) -> None:
        """Send this again and again until the server takes no more of it."""
        piece = data * max(1, _PIECE // len(data))
        self.there()  # the server may let it go at once
        with contextlib.suppress(TimeoutError):
            for _ in range(_MOST // len(piece)):
                await asyncio.wait_for(self.send(piece), _BLOCKED)

    def there(self) -> None:
        """Say that this is as far as the kind goes."""
        if not self._stands:
            self._stands = True
            self.tally.standing += 1
        if not self._arrived:
            self._arrived = True
            self.tally.there += 1

    async def stay(self) -> None:
        """Stay as it is, and read nothing."""
        self.there()
        await asyncio.sleep(_LONGEST)

    async def stay_and_read(self) -> None:
        """Stay until the server ends it."""
        self.there()
        while True:
            await self.read()

    def close(self) -> None:
        """End the connection."""
        if self._stands:
            self._stands = False
            self.tally.standing -= 1
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _make_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


ANY_CERTIFICATE = _make_context()
"""The context of a client that takes whatever certificate is shown."""

# --- before a logon ---


async def _silent(client: Client) -> None:
    await client.connect("pop3" if client.number % 2 else "smtp")
    await client.stay_and_read()


async def _silent_over_tls(client: Client) -> None:
    await client.connect("pop3s")
    await client.secure()
    await client.stay_and_read()


async def _garbage(client: Client) -> None:
    await client.connect("pop3" if client.number % 2 else "smtp", _SMALL_WINDOW)
    await client.send(client.dice.randbytes(60 * 1024).replace(b"\n", b"\0").replace(b"\r", b"\0"))
    await client.stay()


async def _pipelining(client: Client) -> None:
    await client.connect("pop3", _SMALL_WINDOW)
    await client.send(b"CAPA\r\n" * (60 * 1024 // 6))
    await client.stay()


async def _pipelining_on(client: Client) -> None:
    await client.connect("pop3", _SMALL_WINDOW)
    await client.flood(b"CAPA\r\n")
    await client.stay()


async def _pipelining_over_tls(client: Client) -> None:
    await client.connect("pop3s", _SMALL_WINDOW)
    await client.secure()
    await client.flood(b"CAPA\r\n")
    await client.stay()


async def _asking_on(client: Client) -> None:
    """Send commands without end, and read all that is answered: for as long as it is served nobody else is."""
    await client.connect("pop3")
    client.there()
    asking = asyncio.ensure_future(client.send(b"CAPA\r\n" * (_MOST // 6)))
    try:
        while True:
            await client.read()
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def _half_a_hello(client: Client) -> None:
    await client.connect("pop3s")
    hello = client.hello()
    await client.send(hello[: len(hello) // 2])
    await client.stay_and_read()


async def _hello_alone(client: Client) -> None:
    if client.number % 2:
        await client.connect("pop3s")
    else:
        await client.connect("pop3")
        await client.line()
        await client.ask("STLS")
    await client.send(client.hello())
    await client.stay()


async def _long_hello(client: Client) -> None:
    """Announce a ClientHello of 128 KiB, nearly the longest that OpenSSL takes, and send all of it but its end."""
    await client.connect("pop3s")
    record, rest = b"\x16\x03\x01\x20\x00", 8192
    await client.send(record + b"\x01\x01\xff\xfc" + bytes(rest - 4))
    for _ in range(14):
        await client.send(record + bytes(rest))
    await client.stay_and_read()


async def _dripping(client: Client) -> None:
    """One octet a second: of a command, of a command over TLS, of a message, of a ClientHello."""
    octets = b"NOOP" * 1000
    match client.number % 4:
        case 0:
            await client.connect("pop3")
        case 1:
            await client.connect("pop3s")
            await client.secure()
        case 2:
            await client.begin_message()
            octets = _SENT * 100
        case _:
            await client.connect("pop3s")
            octets = client.hello()
    await client.send(octets[:1])
    client.there()
    for octet in octets[1:]:
        await asyncio.sleep(1)
        await client.send(bytes((octet,)))


async def _overlong(client: Client) -> None:
    await client.connect("pop3" if client.number % 2 else "smtp")
    client.there()
    with contextlib.suppress(TimeoutError):
        for _ in range(16):
            await asyncio.wait_for(client.send(b"N" * _PIECE), _BLOCKED)
    await client.stay_and_read()


async def _coming_and_going(client: Client) -> None:
    while True:
        await client.connect(("pop3", "pop3s", "smtp", "lmtp")[client.number % 4])
        client.there()
        client.close()
        await asyncio.sleep(0.02)


async def _guessing(client: Client) -> None:
    """Guess at the password of somebody, the half of them of one mailbox, over TLS: in clear no password is taken."""
    await client.connect("pop3s")
    await client.secure()
    await client.line()
    client.there()
    while True:
        name = client.orders.target if client.number % 2 else client.orders.users % client.dice.randrange(2000)
        await client.ask(f"USER {name}")
        await client.ask(f"PASS {client.dice.randrange(10**9)}")


# --- with mail ---


async def _sending_slowly(client: Client) -> None:
    await client.begin_message()
    client.there()
    piece = _SENT * (16 * 1024 // len(_SENT))
    for _ in range(256):
        await client.send(piece)
        await asyncio.sleep(0.2)


async def _sending(client: Client) -> None:
    await client.begin_message()
    client.there()
    for _ in range(_MOST // _PIECE):
        await client.send(_SENT * (_PIECE // len(_SENT)))
    await client.stay()


async def _sending_morsels(client: Client) -> None:
    await client.begin_message()
    for start in range(0, 120 * 1024, 16):
        await client.send(b"x" * 14 + b"\r\n")
        if start % 1024 == 0:
            await asyncio.sleep(0)
    await client.stay()


async def _fetching_slowly(client: Client, port: str = "pop3") -> None:
    await client.log_on(port)
    await client.ask("RETR 1")
    client.there()
    while True:
        await client.read(16 * 1024)
        await asyncio.sleep(0.2)


async def _fetching_slowly_over_tls(client: Client) -> None:
    await _fetching_slowly(client, "pop3s")


async def _never_reading(client: Client, port: str = "pop3") -> None:
    await client.log_on(port, _SMALL_WINDOW)
    await client.send((b"RETR 1\r\n" if client.number % 4 else b"LIST\r\nUIDL\r\n") * 1000)
    await client.stay()


async def _never_reading_over_tls(client: Client) -> None:
    await _never_reading(client, "pop3s")


async def _opened(client: Client) -> None:
    await client.log_on("pop3")
    await client.stay()


async def _listing(client: Client) -> None:
    await client.log_on("pop3", _SMALL_WINDOW)
    await client.send(b"LIST\r\n" * 100)
    await client.stay()


@dataclass(frozen=True, slots=True)
class Kind:
    """What a client of a kind does with each of its connections, and how many of them share an address."""

    do: Callable[[Client], Coroutine[Any, Any, None]]
    at_an_address: int = 40


KINDS = {
    "silent": Kind(_silent),
    "silent over TLS": Kind(_silent_over_tls),
    "garbage": Kind(_garbage),
    "pipelining": Kind(_pipelining),
    "pipelining on": Kind(_pipelining_on),
    "pipelining over TLS": Kind(_pipelining_over_tls),
    "asking on": Kind(_asking_on),
    "half a hello": Kind(_half_a_hello),
    "hello alone": Kind(_hello_alone),
    "long hello": Kind(_long_hello),
    "dripping": Kind(_dripping),
    "overlong": Kind(_overlong),
    "coming and going": Kind(_coming_and_going, 10),
    "guessing": Kind(_guessing, 5),
    "sending slowly": Kind(_sending_slowly),
    "sending": Kind(_sending),
    "sending morsels": Kind(_sending_morsels),
    "fetching slowly": Kind(_fetching_slowly),
    "fetching slowly over TLS": Kind(_fetching_slowly_over_tls),
    "never reading": Kind(_never_reading),
    "never reading over TLS": Kind(_never_reading_over_tls),
    "opened": Kind(_opened),
    "listing": Kind(_listing),
}
"""All kinds, by their names."""


async def _live(client: Client, kind: Kind, *, after: float) -> None:
    """Be a client of a kind until the crowd ends."""
    await asyncio.sleep(after)
    while True:
        try:
            await kind.do(client)
        except (OSError, EOFError):  # `ssl.SSLError` is one; the server has ended it, or it could not be made
            client.tally.ended += 1
        finally:
            client.close()
        await asyncio.sleep(_AGAIN)


async def _be(orders: Orders) -> None:
    """Be the crowd: say when it is there, and at the end of standard input what became of it."""
    tallies = {name: Tally() for name in orders.kinds}
    clients: list[Awaitable[None]] = []
    for index, (name, count) in enumerate(orders.kinds.items()):
        kind = KINDS[name]
        for number in range(count):
            address = orders.source or f"127.{10 + index}.{number // kind.at_an_address}.2"
            client = Client(orders, address, len(clients), tallies[name])
            clients.append(_live(client, kind, after=len(clients) / 1000))
    tasks = [asyncio.ensure_future(client) for client in clients]
    asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), lambda: _settle(asked))
    began = asyncio.get_running_loop().time()
    while not asked.done() and any(tallies[name].there < count for name, count in orders.kinds.items()):
        await asyncio.wait([asked], timeout=0.05)
        if asyncio.get_running_loop().time() - began > _LONGEST:
            break
    _say(tallies)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asked, _LONGEST)
    _say(tallies)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _settle(asked: "asyncio.Future[None]") -> None:
    if not asked.done():
        asked.set_result(None)


def _say(tallies: dict[str, Tally]) -> None:
    print(json.dumps({name: asdict(tally) for name, tally in tallies.items()}), flush=True)


@dataclass(slots=True)
class Crowd:
    """The crowd as a process. Within `with` it stands, until the end of it; `became` has what became of it."""

    ports: Mapping[str, int]
    kinds: Mapping[str, int]
    source: str = ""
    users: str = "guest%d@example.com"
    within: float = 60.0
    """Seconds for all to come."""
    became: dict[str, Tally] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until all are there. Raises `TimeoutError` where they do not come."""
        orders = Orders(self.ports, self.kinds, self.source, self.users)
        command = [sys.executable, "-m", "benchmark.hostile", json.dumps(asdict(orders))]
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, start_new_session=True
        )
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def _wait(self) -> None:
        if self._read(self.within):
            return
        self._ask()
        self._read(_ANSWERS)
        missing = {name: tally.there for name, tally in self.became.items() if tally.there < self.kinds[name]}
        raise TimeoutError(f"of {dict(self.kinds)} there came only {missing}")

    def _read(self, within: float) -> bool:
        """Read what it says, and tell whether it has said something in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(within):
                return False
        said = json.loads(self._process.stdout.readline() or b"{}")
        self.became = {name: Tally(**tally) for name, tally in said.items()}
        return bool(said)

    def _ask(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def __exit__(self, *_: object) -> None:
        try:
            self._ask()
            self._read(_ANSWERS)
        finally:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def main(words: Sequence[str]) -> None:
    """Be a crowd with these orders."""
    signal.alarm(int(_LONGEST))  # whatever happens
    orders = Orders(**json.loads(words[0]))
    try:
        import uvloop  # as in the service
    except ImportError:
        asyncio.run(_be(orders))
    else:
        uvloop.run(_be(orders))


if __name__ == "__main__":
    main(sys.argv[1:])
