"""One document fetched over https, for the keys of an issuer.

Invariant: nothing is believed that did not come over TLS with a certificate that was checked; no redirect is followed;
a document has at most `LARGEST` octets. The caller sets the time limit, which holds for the whole of it, however slowly
the octets come.
"""

import asyncio
import http.client
import io
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

from winpop.terms.refusals import Refusal, out_of_reach, readable

LARGEST = 1 << 20
"""Octets, the header of the response included."""
_ADDRESS = re.compile(r"https://[!-~]+")


class _Received:
    """What came, as `http.client` wants to read it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


async def fetch(address: str, context: ssl.SSLContext) -> bytes:
    """Return the document at an https address. Raises `Refusal` (`cannot-fetch`), and `TimeoutError` from outside."""
    host, port, authority, target = _taken_apart(address)
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: winpop\r\nAccept: application/json\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            writer.write(request.encode("ascii"))
            data = await _received(reader)
        finally:
            writer.transport.abort()
        return _body(data, address)
    except (OSError, ValueError, http.client.HTTPException) as error:  # a bad certificate is an OSError
        said = str(error) or type(error).__name__
        raise _refused(address, f"cannot be fetched: {readable(said.removesuffix('.'))}") from error


def _taken_apart(address: str) -> tuple[str, int, str, str]:
    """Return host, port, what belongs into Host:, and the request's target."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        host, port = None, 0
    if not host or "@" in parts.netloc or not _ADDRESS.fullmatch(address):
        raise _refused(address, "is not an https: address")
    target = parts.path or "/"
    return host, port, parts.netloc, f"{target}?{parts.query}" if parts.query else target


async def _received(reader: asyncio.StreamReader) -> bytes:
    data = bytearray()
    try:
        while piece := await reader.read(1 << 16):
            data += piece
            if len(data) > LARGEST:
                raise ValueError(f"it has more than {LARGEST} octets")
    except (ssl.SSLError, ConnectionError):
        if not data:
            raise
        # Many servers end without TLS's farewell; whether all of it came is told by its length or by its form.
    return bytes(data)


def _body(data: bytes, address: str) -> bytes:
    received: Any = _Received(data)  # all that is wanted of a socket
    response = http.client.HTTPResponse(received)
    response.begin()
    if 300 <= response.status < 400:  # noqa: PLR2004 - the codes of redirection
        raise _refused(address, "sends us elsewhere, which is not followed")
    if response.status != http.HTTPStatus.OK:
        raise _refused(address, f"answers with the status {response.status}")
    return response.read()


def _refused(address: str, what: str) -> Refusal:
    return out_of_reach("cannot-fetch", f"The document {readable(address)} {what}.")
