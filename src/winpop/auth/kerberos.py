"""GSSAPI with Kerberos, the server's side (RFC 4752 §3.2): a ticket for the service `pop` instead of a password.

The keys are in a keytab; tickets for other services whose keys it may hold are refused. The only security layer is none
(RFC 4752 §3.3): TLS is there for that. Kerberos remembers on disk whom it has seen, so that nothing works twice.
Invariant: what goes wrong because of the client's token refuses the client; what goes wrong here does not.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from winpop.protocol.sasl.moves import Continue, Malformed, Proved, Unavailable
from winpop.terms.credentials import Established, Failed
from winpop.terms.refusals import readable

if TYPE_CHECKING:
    from gssapi import SecurityContext, raw

T = TypeVar("T")

SERVICE = "pop"
"""The service name of POP3, as it is registered."""
_LIMIT = 5.0
_LONGEST_QUEUE = 64
_NO_LAYER = b"\x01\x00\x00\x00"
"""The one layer there is, none, and the octets that it can take, 0 (RFC 4752 §3.3)."""
_HEADER = 4
_ERRNOS = range(1, 1000)
_KRB5_IO = range(2529639076, 2529639085)
"""Error numbers that speak of this computer's files: the system's own, and KRB5_RC_IO to KRB5_RC_IO_SPACE."""


class Threads:
    """Two threads for a library that reads files and holds locks while it checks a ticket; a bounded queue."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(2, "gssapi")
        self._room = threading.BoundedSemaphore(_LONGEST_QUEUE)

    async def run(self, work: Callable[[], T]) -> T:
        """Do this in a thread. Raises `TimeoutError`."""
        if not self._room.acquire(blocking=False):
            raise TimeoutError
        try:
            future = self._executor.submit(work)
        except RuntimeError:  # the service stops
            raise TimeoutError from None
        future.add_done_callback(lambda _: self._room.release())
        async with asyncio.timeout(_LIMIT):
            return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Begin no more."""
        self._executor.shutdown(wait=False)


class Kerberos:
    """One context. `why` says for the log what went wrong."""

    def __init__(self, keytab: str, threads: Threads) -> None:
        self.why = ""
        self._keytab = keytab
        self._threads = threads
        self._begun: raw.SecurityContext | None = None
        self._context: SecurityContext | None = None
        self._principal = ""
        self._next: Callable[[bytes], Continue | Proved | Malformed | Unavailable] = self._accept

    async def step(self, token: bytes) -> Continue | Proved | Malformed | Unavailable:
        """Take the client's token. Never raises."""
        try:
            return await self._threads.run(lambda: self._step(token))
        except TimeoutError:
            return self._unavailable("Kerberos did not answer in time")

    async def close(self) -> None:
        """Leave nothing behind: a context is memory."""

    def _step(self, token: bytes) -> Continue | Proved | Malformed | Unavailable:
        try:
            from gssapi import raw  # an optional part, and slow to begin: here in the thread
        except ImportError:
            return self._unavailable(
                "The Python package gssapi is missing; install winpop with its part kerberos, winpop[kerberos]"
            )
        try:
            return self._next(token)
        except (raw.InvalidTokenError, raw.BadMechanismError):
            return Malformed()
        except raw.GSSError as error:
            if error.min_code in _ERRNOS or error.min_code in _KRB5_IO:
                return self._unavailable(f"A ticket cannot be checked: {_said(error)}")
            return self._refuse(_said(error))

    def _accept(self, token: bytes) -> Continue | Proved | Malformed | Unavailable:
        import gssapi  # see _step
        from gssapi import raw

        try:
            _check_file(Path(self._keytab))
            service = gssapi.Name(SERVICE, gssapi.NameType.hostbased_service)
            store: dict[bytes | str, bytes | str] = {b"keytab": b"FILE:" + self._keytab.encode()}
            kept = raw.acquire_cred_from(store, service, mechs=[gssapi.MechType.kerberos], usage="accept").creds
        except (OSError, ValueError) as error:
            return self._unavailable(f"{self._the_keytab} cannot be read: {getattr(error, 'strerror', None) or error}")
        except raw.GSSError as error:
            return self._unavailable(f"{self._the_keytab} holds no key of the service {SERVICE}: {_said(error)}")
        try:
            accepted = raw.accept_sec_context(token, kept, self._begun)
        except raw.MissingCredentialsError:  # for a mechanism that is not Kerberos
            return Malformed()
        self._begun = accepted.context
        if accepted.more_steps:
            return Continue(accepted.token or b"")
        self._context = gssapi.SecurityContext(accepted.context)
        try:
            target, principal = str(self._context.target_name), str(self._context.initiator_name)
        except UnicodeDecodeError:
            return self._refuse("its name is not UTF-8")
        if accepted.mech != gssapi.MechType.kerberos or not target.startswith(f"{SERVICE}/"):
            return self._refuse(f"it is for {target}")
        self._principal = principal
        self._next = self._offer
        return Continue(accepted.token) if accepted.token else self._offer(b"")

    def _offer(self, empty: bytes) -> Continue | Malformed:
        """Offer the layers; before that the client has nothing to say."""
        if empty or self._context is None:
            return Malformed()
        self._next = self._choice
        return Continue(self._context.wrap(_NO_LAYER, encrypt=False).message)

    def _choice(self, token: bytes) -> Proved | Malformed:
        """Take the layer that the client chose, what it can take, which is nothing to us, and whom it wants to be."""
        if not token or self._context is None:
            return Malformed()
        chosen = self._context.unwrap(token).message
        try:
            name = chosen[_HEADER:].decode()
        except UnicodeDecodeError:
            return Malformed()
        if len(chosen) < _HEADER or chosen[0] != _NO_LAYER[0] or "\0" in name:
            return Malformed()
        return Proved(Established("GSSAPI", self._principal, name))

    @property
    def _the_keytab(self) -> str:
        return f"The keytab {readable(self._keytab)}"

    def _unavailable(self, what: str) -> Unavailable:
        self.why = f"{what}."
        return Unavailable()

    def _refuse(self, why: str) -> Proved:
        self.why = f"ticket: {readable(why)}"
        return Proved(Failed(self._principal))


def _check_file(keytab: Path) -> None:
    """Tell what is wrong with a file that Kerberos would only say less about. Raises `OSError`, `ValueError`."""
    if keytab.exists() and not keytab.is_file():
        raise ValueError("it is not a file")  # a pipe would be waited for
    keytab.open("rb").close()


def _said(error: "raw.GSSError") -> str:
    """Return what the mechanism says about an error, without the words that every error has."""
    texts = error.get_all_statuses(error.min_code, is_maj=False) if error.min_code else []
    text = texts[0] if texts else error.get_all_statuses(error.maj_code, is_maj=True)[0]
    return "not a right token" if text == "Success" else text.rstrip(".")
