"""The authentication method "Active Directory integrated" of the service.

A logon is a search for the account by its identifier, as the service account, and then a bind as the one found, on
another connection. Invariants: a password is sent to a domain controller only, and only under TLS; nobody's account
costs the same two steps; an empty password is no password (RFC 4513 §5.1.2); all answers come within `Servers.limit`.
"""

import asyncio
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from winpop.auth.active_directory import states
from winpop.auth.active_directory.connection import Connection, Unreachable
from winpop.auth.active_directory.lookups import Lookups
from winpop.auth.active_directory.pool import Pool
from winpop.auth.active_directory.servers import PAUSE, LdapSettings, Servers
from winpop.auth.contract import NO_ACCOUNT, Answer, CannotSay, Right, Wrong
from winpop.terms.refusals import readable

CONNECTIONS = 4
"""For searches, and as many for logons, in each worker."""
_WAITING = 256
_LONGEST_PASSWORD = 1024

T = TypeVar("T")


class ActiveDirectory:
    """Checks passwords with domain controllers. Implements `winpop.auth.contract.Method`."""

    def __init__(self, settings: LdapSettings, password: str, pause: float = PAUSE) -> None:
        """Use the servers of these settings, and the service account's password; nothing is opened yet.

        `pause`: seconds for which a server that failed is left alone.
        """
        self._servers = Servers(settings, password, pause)
        self._lookups = Lookups(self._servers)
        self._searches = Pool(self._servers, self._servers.open_bound, CONNECTIONS)
        self._logons = Pool(self._servers, self._servers.open, CONNECTIONS)
        self._waiting = 0

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        """Tell whether `account` has this password. Neither its name nor the client's address matters here."""
        del name, host
        if not password or b"\0" in password or len(password) > _LONGEST_PASSWORD:
            return Wrong()
        return await self._answered(lambda: self._check(account, password))

    async def usable(self, account: str, host: str = "") -> Answer:
        """Tell whether `account` may log on now, by its state in the directory; not by its hours of logon."""
        del host
        return await self._answered(
            lambda: self._searches.run(lambda connection: self._usable(connection, account)),
        )

    async def find(self, name: str) -> str | CannotSay | None:
        """Return the identifier of the account that a logon name means, or None where it means nobody."""
        return await self._answered(
            lambda: self._searches.run(lambda connection: self._lookups.of_name(connection, name))
        )

    async def is_administrator(self, who: str) -> bool | CannotSay:
        """Tell whether an account, by identifier or logon name, is in the group `ldapadmins`, also by other groups."""
        if not self._servers.settings.ldapadmins:
            return False
        return await self._answered(
            lambda: self._searches.run(lambda connection: self._lookups.is_administrator(connection, who))
        )

    async def close(self) -> None:
        """Give back the connections."""
        await self._searches.close()
        await self._logons.close()

    async def _check(self, account: str | None, password: bytes) -> Answer:
        asked = account or str(uuid.uuid4())

        async def look_up(connection: Connection) -> tuple[str | None, str]:
            entry = await self._lookups.account(connection, asked)
            return entry.dn if entry else None, (await self._servers.place(connection)).root

        dn, root = await self._searches.run(look_up)
        if dn is not None and account is not None:
            found = dn
            return await self._logons.run(lambda connection: _log_on(connection, found, password))
        # The same work for nobody, and not with what somebody typed.
        nobody = f"CN={uuid.uuid4()},{root}"
        await self._logons.run(lambda connection: _log_on(connection, nobody, secrets.token_hex(16).encode()))
        return Wrong(NO_ACCOUNT)

    async def _usable(self, connection: Connection, account: str) -> Answer:
        entry = await self._lookups.account(connection, account, states.STATE)
        if entry is None:
            return Wrong(NO_ACCOUNT)
        if not entry.one("userAccountControl") or not entry.one("pwdLastSet"):
            return CannotSay(
                f"Active Directory does not show the state of '{readable(entry.dn)}' to the account of ldapuser; "
                "give that account the right to read userAccountControl and pwdLastSet."
            )
        found = states.states(entry, time.time())
        return Wrong(found[0]) if found else Right()

    async def _answered(self, work: Callable[[], Awaitable[T]]) -> T | CannotSay:
        """Wait for `work`, within bounds of time and number."""
        if self._waiting >= _WAITING:
            return CannotSay("Too many logons wait for Active Directory.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._servers.limit):
                return await work()
        except Unreachable as error:
            return CannotSay(str(error))
        except TimeoutError:
            return CannotSay(f"Active Directory did not answer within {self._servers.limit:g} seconds.")
        except Exception as error:  # noqa: BLE001 - a defect in here must not end the session, nor let it in
            return CannotSay(f"The answer of Active Directory could not be read: {type(error).__name__}.")
        finally:
            self._waiting -= 1


async def _log_on(connection: Connection, dn: str, password: bytes) -> Right | Wrong:
    """Bind as somebody; a server that cannot say is as one that is not there, so the next is asked."""
    answer = states.answer(await connection.bind(dn, password))
    if isinstance(answer, CannotSay):
        raise Unreachable(answer.why)
    return answer
