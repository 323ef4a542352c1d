"""Security contexts that somebody else vouches for: Kerberos for GSSAPI, a domain for NTLM.

A session begins one for a run of the mechanism, gives it the client's tokens, and closes it when the run or the session
ends. Invariants: a context has a bounded number of steps and octets, after its last word it says nothing more, and
nothing here blocks the event loop.
"""

import asyncio
from importlib.util import find_spec
from typing import Protocol

from winpop.auth.contract import DIRECTORY
from winpop.auth.kerberos import Kerberos, Threads
from winpop.auth.ntlm import Ntlm
from winpop.auth.ntlm_helpers import Helpers
from winpop.directory.settings import Settings
from winpop.protocol.sasl.moves import Continue, Malformed, Proved, Unavailable

_MOST_STEPS = 12
_MOST_OCTETS = 1 << 16

Said = Continue | Proved | Malformed | Unavailable


class Context(Protocol):
    """One run of a mechanism, the server's side."""

    @property
    def why(self) -> str:
        """For the log: why a context refused or could not say; empty where there is nothing to tell."""
        ...

    async def step(self, token: bytes) -> Said:
        """Take a token of the client's. A context that refuses says `Proved(Failed(name))`. Never raises."""
        ...

    async def close(self) -> None:
        """Give back what it holds; may be called at any time, more than once."""
        ...


class Contexts:
    """Begins the contexts of a worker, and keeps what they share: threads, and processes that verify NTLM."""

    def __init__(self) -> None:
        self._threads = Threads()
        self._helpers: Helpers | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def begin(self, mechanism: str, settings: Settings) -> Context:
        """Begin a context for `GSSAPI` or `NTLM`."""
        if mechanism == "GSSAPI":
            return _Bounded(Kerberos(settings.keytab, self._threads))
        return _Bounded(Ntlm(self._helpers_of(settings.ntlmhelper)))

    async def close(self) -> None:
        """End processes and threads; contexts that are still open cannot say any more."""
        self._threads.close()
        if self._helpers is not None:
            await self._helpers.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _helpers_of(self, command: str) -> Helpers:
        if self._helpers is None or self._helpers.command != command:
            if self._helpers is not None:  # the setting has changed
                task = asyncio.create_task(self._helpers.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            self._helpers = Helpers(command)
        return self._helpers


def supported(settings: Settings) -> frozenset[str]:
    """Return which of GSSAPI and NTLM these settings ask for, and this installation has the parts for."""
    offered = set()
    if settings.keytab and find_spec("gssapi") is not None:
        offered.add("GSSAPI")
    if settings.ntlm and settings.auth == DIRECTORY:
        offered.add("NTLM")
    return frozenset(offered)


class _Bounded:
    """A context with its bounds."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._steps = 0
        self._octets = 0
        self._over = False

    @property
    def why(self) -> str:
        return self._context.why

    async def step(self, token: bytes) -> Said:
        self._steps += 1
        self._octets += len(token)
        if self._over or self._steps > _MOST_STEPS or self._octets > _MOST_OCTETS:
            await self.close()
            return Malformed()
        said = await self._context.step(token)
        if not isinstance(said, Continue):
            await self.close()
        return said

    async def close(self) -> None:
        self._over = True
        await self._context.close()
