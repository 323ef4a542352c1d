"""One connection to a domain controller, under TLS from the first password on.

`ldaps://` speaks TLS at once, `ldap://` by StartTLS (RFC 4511 §4.14); there is no other way. The certificate must be
signed by the authority and name the host that the setting names (RFC 4513 §3.1.3). Invariants: one operation at a
time, each within the time limit; whatever goes wrong with the connection is `Unreachable`, and then it is used no more.
"""

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from winpop.auth.active_directory import ber, messages
from winpop.auth.active_directory.messages import Answer, Entry, Reference, Result
from winpop.terms.refusals import readable

_PORTS = {"ldap": 389, "ldaps": 636}
_LARGEST = 1 << 20
"""Octets of a message. What we ask for has a few hundred."""
_MOST_ANSWERS = 100
_LAST_NUMBER = 2**31 - 1
_GOODBYE = 0.5


class Unreachable(Exception):  # noqa: N818 - not reaching a server need not be an error
    """A server that cannot be asked. Its text is one sentence: which server or file, and why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A domain controller, `ldaps://host[:port]` or `ldap://host[:port]`."""

    text: str

    @property
    def in_tls(self) -> bool:
        """Whether TLS comes first."""
        return self.text.startswith("ldaps:")

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host, without brackets, and the port."""
        scheme, _, rest = self.text.partition("://")
        host, _, port = rest.partition("]") if rest.startswith("[") else rest.partition(":")
        return host.lstrip("["), int(port.lstrip(":") or _PORTS[scheme])


class _Wire(asyncio.Protocol):
    """Collects what comes in, until it is a whole message."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.lost = asyncio.Event()
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # it is one; uvloop's own do not inherit from it

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > 2 * _LARGEST:
            self.abort()
        self._news.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()
        self._news.set()

    def write(self, octets: bytes) -> None:
        if self.transport is not None:
            self.transport.write(octets)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def message(self) -> bytes:
        """Return the next message. Raises `ConnectionError` where the server has closed, and `Malformed`."""
        while not (size := ber.whole(self.buffer, _LARGEST)):
            if self.lost.is_set():
                raise ConnectionAbortedError("it closed the connection")
            self._news.clear()
            await self._news.wait()
        octets = bytes(self.buffer[:size])
        del self.buffer[:size]
        return octets


class Connection:
    """A connection; `open_connection` makes them."""

    def __init__(self, server: Server, wire: _Wire, timeout: float) -> None:
        """Use a wire that is connected."""
        self.server = server
        self._wire = wire
        self._timeout = timeout
        self._number = 0

    @property
    def is_open(self) -> bool:
        """Whether it can be used, as far as is known."""
        return not self._wire.lost.is_set() and not self._wire.buffer

    async def bind(self, name: str, password: bytes) -> Result:
        """Log on with a name in any form that the server takes.

        An empty password would be taken as a wish for no name, and accepted (RFC 4513 §5.1.2): it is never sent.
        """
        if not name or not password or b"\0" in password:
            return Result(messages.INVALID_CREDENTIALS, "a name and a password must not be empty")
        return await self._do(messages.bind(name, password))

    async def search(
        self, base: str, wanted: bytes, attributes: Iterable[str], scope: int = messages.SUBTREE, most: int = 2
    ) -> list[Entry]:
        """Return at most `most` entries. Raises `Unreachable` also where the server does not search, or not there."""
        answers = await self._ask(messages.search(base, scope, wanted, attributes, most))
        done = answers.pop()
        assert isinstance(done, Result)
        if done.code not in (messages.SUCCESS, messages.SIZE_LIMIT_EXCEEDED):
            raise Unreachable(f"The domain controller {self.server.text} did not search '{base}': {_told(done)}.")
        return [answer for answer in answers if isinstance(answer, Entry)][:most]

    async def add(self, dn: str, values: Mapping[str, bytes]) -> Result:
        """Make an entry."""
        return await self._do(messages.add(dn, values))

    async def replace(self, dn: str, attribute: str, value: bytes) -> Result:
        """Give an attribute another value."""
        return await self._do(messages.replace(dn, attribute, value))

    async def delete(self, dn: str) -> Result:
        """Take an entry away."""
        return await self._do(messages.delete(dn))

    async def close(self) -> None:
        """Say goodbye and close; a server that does not answer is not waited for."""
        if self._wire.transport is not None and not self._wire.lost.is_set():
            self._number += 1
            self._wire.write(messages.message(self._number, messages.unbind()))
            self._wire.transport.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wire.lost.wait(), _GOODBYE)
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._wire.abort()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on under TLS (RFC 4511 §4.14). Raises as the transport does, and `Unreachable`."""
        result = await self._do(messages.start_tls())
        if result.code != messages.SUCCESS:
            raise Unreachable(f"The domain controller {self.server.text} does not start TLS: {_told(result)}.")
        if self._wire.buffer:  # somebody put it there before TLS could protect it
            raise ConnectionAbortedError("it sent more in clear than it was asked for")
        host, _ = self.server.endpoint
        assert self._wire.transport is not None
        loop = asyncio.get_running_loop()
        self._wire.transport = await loop.start_tls(self._wire.transport, self._wire, context, server_hostname=host)

    async def _do(self, operation: bytes) -> Result:
        result = (await self._ask(operation)).pop()
        assert isinstance(result, Result)
        return result

    async def _ask(self, operation: bytes) -> list[Answer]:
        """Send an operation and return the answers, of which the last is a result."""
        async with _as_unreachable(self.server, self._wire, self._timeout):
            self._number = self._number % _LAST_NUMBER + 1
            self._wire.write(messages.message(self._number, operation))
            answers: list[Answer] = []
            while len(answers) < _MOST_ANSWERS:
                number, answer = messages.read(await self._wire.message())
                if number != self._number:  # 0: it says that it will close
                    raise ConnectionAbortedError(f"it said: {_told(answer)}")
                if not isinstance(answer, Reference):
                    answers.append(answer)
                if isinstance(answer, Result):
                    return answers
            raise ber.Malformed


async def open_connection(server: Server, authority: str, timeout: float) -> Connection:  # noqa: ASYNC109 - it is the setting
    """Connect to a server, under TLS. Raises `Unreachable`.

    `authority` is a file with the certificates of those who sign the servers', or empty: the system's. `timeout` is
    in seconds, for connecting and for each operation.
    """
    wire = _Wire()
    connection = Connection(server, wire, timeout)
    host, port = server.endpoint
    async with _as_unreachable(server, wire, timeout):
        loop = asyncio.get_running_loop()
        context = await asyncio.to_thread(trust, authority)  # reading the system's takes a tenth of a second
        if server.in_tls:
            await loop.create_connection(lambda: wire, host, port, ssl=context, server_hostname=host)
        else:
            await loop.create_connection(lambda: wire, host, port)
            await connection.start_tls(context)
    return connection


def trust(authority: str) -> ssl.SSLContext:
    """Return what says which certificates are good; a file is read again when it has changed. Raises `Unreachable`."""
    try:
        return _trust(authority, Path(authority).stat().st_mtime_ns if authority else 0)
    except ssl.SSLError:
        raise Unreachable(f"The file {authority} (ldapca) holds no certificate in PEM form; give another.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Unreachable(f"The file {authority} (ldapca) cannot be read: {why}; give another.") from None


@functools.lru_cache(maxsize=4)
def _trust(authority: str, _changed: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextlib.asynccontextmanager
async def _as_unreachable(server: Server, wire: _Wire, timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109 - see above
    """Turn all that can go wrong with a connection into `Unreachable`, and end it."""
    start = f"The domain controller {server.text}"
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        sentence = f"{start} did not answer within {timeout:g} seconds."
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message.rstrip(".")
        advice = "give it another, name it in ldapservers as its certificate does, or give the authority in ldapca"
        sentence = f"{start} shows a certificate that is not trusted ({why}); {advice}."
    except ber.Malformed:
        sentence = f"{start} answers what is not LDAP."
    except Unreachable as error:
        sentence = str(error)
    except OSError as error:
        why = error.strerror or str(error) or "it closed the connection"
        sentence = f"{start} cannot be reached: {why.rstrip('.')}."
    except BaseException:
        wire.abort()  # whoever waited went away; what the server says next would be taken for another answer
        raise
    else:
        return
    wire.abort()
    raise Unreachable(sentence)


def _told(answer: Answer) -> str:
    return (
        f"{answer.code} {readable(answer.text)}".rstrip(". ") if isinstance(answer, Result) else "an answer out of turn"
    )
