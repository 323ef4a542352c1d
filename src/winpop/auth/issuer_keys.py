"""The keys with which an issuer signs its tokens: a JWK set (RFC 7517 §5) from an https address or from a file.

They are fetched when they are first wanted, again when they are ten minutes old, and for a key that is unknown (the
issuer has changed its keys) at most once a minute; a file is read again when it has changed.
Invariant: a fetch that fails takes nothing away: the keys there were go on for a day, and the log says so once.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winpop.auth.https import LARGEST, fetch
from winpop.telemetry.log import Log
from winpop.terms.refusals import Refusal, out_of_reach, readable

Jwk = dict[str, Any]
"""A key as its issuer wrote it; nothing about it has been checked."""

_FRESH, _KEPT = 600.0, 86400.0
_PAUSE, _PAUSE_WITHOUT = 60.0, 5.0
"""Seconds between two fetches while there are keys, and while there are none."""
_LIMIT = 5.0
_DISCOVERY = "/.well-known/openid-configuration"


class IssuerKeys:
    """The keys of one issuer. Belongs to one event loop, which it never blocks."""

    def __init__(
        self,
        issuer: str,
        place: str,
        log: Log,
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take them from `place`, an https address or a file; where it is empty, from where the issuer says.

        `context` says whose certificates are believed; by default those that the system believes.
        """
        self._issuer = issuer
        self._place = place
        self._file = Path(place) if place and "://" not in place else None
        self._log = log
        self._context = context
        self._clock = clock
        self._keys: list[Jwk] = []
        self._stamp: tuple[int, ...] | None = None
        self._loaded: float | None = None
        self._tried: float | None = None
        self._trouble: Refusal | None = None
        self._running: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> list[Jwk]:
        """Return the keys with this identifier; where the token names none, all there are.

        Raises `Refusal` (`no-token-keys`) where that cannot be said now.
        """
        due = await self._due(kid)
        if due and self._running is None:
            self._running = asyncio.create_task(self._load())
        if self._running is not None:
            await asyncio.shield(self._running)  # others wait for it too: it goes on when this session ends
        found = self._named(kid)
        if self._loaded is None or self._clock() - self._loaded > _KEPT or (self._trouble and not found):
            raise self._trouble or _no_keys("have not been fetched")
        return found

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _named(self, kid: str | None) -> list[Jwk]:
        return [key for key in self._keys if kid is None or key.get("kid") == kid]

    async def _due(self, kid: str | None) -> bool:
        if self._file is not None and await asyncio.to_thread(_stamp, self._file) != self._stamp:
            return True
        now = self._clock()
        if self._loaded is None:
            return self._tried is None or now - self._tried >= _PAUSE_WITHOUT
        wanted = now - self._loaded >= _FRESH or not self._named(kid)
        return wanted and (self._tried is None or now - self._tried >= _PAUSE)

    async def _load(self) -> None:
        self._tried = self._clock()
        try:
            self._keys = await self._read() if self._file else await self._fetched()
        except Refusal as refusal:
            if self._trouble is None:
                self._log.warning("token-keys", error=refusal.sentence)
            self._trouble = refusal
        else:
            if self._trouble is not None:
                self._log.warning("token-keys", state="there again")
            self._trouble = None
            self._loaded = self._clock()
        finally:
            self._running = None

    async def _read(self) -> list[Jwk]:
        assert self._file is not None
        self._stamp = await asyncio.to_thread(_stamp, self._file)  # first: what changes meanwhile is read once more
        try:
            document = await asyncio.to_thread(_content, self._file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise _no_keys(f"cannot be read from {readable(str(self._file))}: {reason}") from error
        return _key_set(document, str(self._file))

    async def _fetched(self) -> list[Jwk]:
        try:
            async with asyncio.timeout(_LIMIT):
                if self._context is None:
                    self._context = await asyncio.to_thread(ssl.create_default_context)  # reads hundreds of files
                place = self._place or await self._discovered(self._context)
                return _key_set(await fetch(place, self._context), place)
        except TimeoutError:
            raise _no_keys(
                f"cannot be fetched: {readable(self._place or self._issuer)} did not answer within {_LIMIT:.0f} s"
            ) from None

    async def _discovered(self, context: ssl.SSLContext) -> str:
        """Return where the issuer says its keys are (OpenID Connect Discovery 1.0, sections 4.1 and 4.3)."""
        place = self._issuer.removesuffix("/") + _DISCOVERY
        document = _json(await fetch(place, context), place)
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise _no_keys(f"cannot be found: {readable(place)} is not the document of the issuer '{self._issuer}'")
        address = document.get("jwks_uri")
        if not isinstance(address, str):
            raise _no_keys(f"cannot be found: {readable(place)} does not say where they are")
        return address


def _stamp(file: Path) -> tuple[int, ...]:
    """Return what changes when the file does; nothing for a file that is not there."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _content(file: Path) -> bytes:
    if file.exists() and not file.is_file():
        raise ValueError("it is not a file")  # a pipe would be waited for
    with file.open("rb") as opened:
        data = opened.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} octets")
    return data


def _key_set(document: bytes, place: str) -> list[Jwk]:
    found = _json(document, place)
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise _no_keys(f"cannot be read: {readable(place)} is not a JWK set")
    return [key for key in keys if isinstance(key, dict)]


def _json(document: bytes, place: str) -> object:
    try:
        found: object = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise _no_keys(f"cannot be read: {readable(place)} is not JSON") from error
    return found


def _no_keys(what: str) -> Refusal:
    return out_of_reach("no-token-keys", f"The keys of the issuer of tokens {what}.")
