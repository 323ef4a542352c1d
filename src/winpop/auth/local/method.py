"""The authentication method "local accounts" as a worker uses it: it asks the helper.

Invariants: a password leaves this process over a channel that only the helper can have the other end of; whatever
becomes of the helper, a check ends in time, and without an answer from it nobody is let in or refused.
"""

import array
import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from winpop.auth.contract import PASSWORD, Answer, CannotSay, Right, Wrong
from winpop.auth.local import users
from winpop.auth.local.helper import LIMIT, LONGEST_LINE
from winpop.auth.local.pam import UNKNOWN_HOST
from winpop.auth.local.request import line_of

_GONE = "The helper for local accounts has ended; start the service again."
_NO_HELPER = (
    "Local accounts are not to be had on this system; take another method with 'winpop set auth 3'."
    if sys.platform == "win32"
    else "The service runs without the helper for local accounts, as these came after it had begun; stop "
    "'winpop serve' and start it again, as root."
)
_BUSY = "More logons with local accounts wait than can be checked; PAM is slow, or too many come at once."
_NO_ANSWER = "The helper for local accounts gave no answer."


class LocalMethod:
    """Checks passwords of the users of this computer."""

    def __init__(
        self,
        descriptor: int | None,
        service: Callable[[], str],
        *,
        within: float = 2 * LIMIT,
        at_once: int = 16,
        waiting: int = 200,
    ) -> None:
        """Ask the helper that `start_helper` has started, by the descriptor it gave, or None where it gave none.

        `service` gives the PAM service at the moment, `within` is the seconds in which each question is answered,
        `at_once` how many of them are with the helper, and `waiting` how many more may wait for that.
        """
        # A duplicate: the process may go on to hand the descriptor to others.
        self._orders = None if descriptor is None else socket.socket(fileno=os.dup(descriptor))
        self._service = service
        self._within = within
        self._places = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._asking = 0

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - `name` is the contract's; PAM hears only of accounts
        """Tell whether the user `account` has this password; `host` is the client's address, for PAM's modules."""
        if not password or b"\0" in password:
            return Wrong(PASSWORD)
        answer = await self._verdict(host, do="check", account=account, password=password.decode("latin-1"))
        return CannotSay(_NO_ANSWER) if account is None and answer == Right() else answer

    async def usable(self, account: str, host: str = "") -> Answer:
        """Tell whether the user `account` may log on now: a member, not locked, and PAM's account phase is passed."""
        return await self._verdict(host, do="usable", account=account)

    async def find(self, name: str) -> str | CannotSay | None:
        """Return the name of the user that a logon name without a domain means, where that user is a member."""
        if len(name) > users.LONGEST:
            return None
        match await self._ask(line_of(do="find", name=name)):
            case {"found": str() | None as found}:
                return found
            case {"cannot": str(why)}:
                return CannotSay(why)
        return CannotSay(_NO_ANSWER)

    async def close(self) -> None:
        """Ask no more; the helper ends when nobody can ask any more."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None

    async def _verdict(self, host: str, **asked: str | None) -> Answer:
        """Ask about an account."""
        match await self._ask(line_of(**asked, service=self._service(), host=host or UNKNOWN_HOST)):
            case {"right": True}:
                return Right()
            case {"wrong": str(why)}:
                return Wrong(why)
            case {"cannot": str(why)}:
                return CannotSay(why)
        return CannotSay(_NO_ANSWER)

    async def _ask(self, line: bytes) -> dict[str, Any]:
        """Return the helper's answer, or `cannot` and a sentence."""
        if self._orders is None:
            return {"cannot": _NO_HELPER}
        if self._asking >= self._most:
            return {"cannot": _BUSY}
        self._asking += 1
        try:
            async with asyncio.timeout(self._within), self._places:
                return await self._answered(line)
        except TimeoutError:
            return {"cannot": _BUSY}
        except BlockingIOError:  # so many channels wait in the kernel
            return {"cannot": _BUSY}
        except (BrokenPipeError, ConnectionResetError):
            return {"cannot": _GONE}
        except (OSError, ValueError, RecursionError):
            return {"cannot": _NO_ANSWER}
        finally:
            self._asking -= 1

    async def _answered(self, line: bytes) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                ours.setblocking(False)
                ours.send(line)  # a line has room in the buffer of a new socket
                _send(self._orders, theirs)
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < LONGEST_LINE:
                octets = await loop.sock_recv(ours, LONGEST_LINE)
                if not octets:
                    break
                answer += octets
        said = json.loads(answer) if answer else {}
        return said if isinstance(said, dict) else {}


def _send(orders: socket.socket | None, channel: socket.socket) -> None:
    """Give the helper a channel, without waiting. Raises `OSError`."""
    if orders is None:
        raise BrokenPipeError
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [channel.fileno()]))
    orders.sendmsg([b"+"], [rights], socket.MSG_DONTWAIT)
