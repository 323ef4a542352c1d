"""The domain controllers of the settings, and fail-over between them.

They are tried in their order. One that failed is left alone for a while and then tried again, so work returns to the
first. Invariants: each gets `ldaptimeout` and no more; a service account that was refused is not tried again for a
while, since each try counts towards its lock-out.
"""

import time
from dataclasses import dataclass
from typing import Protocol

from winpop.auth.active_directory import messages
from winpop.auth.active_directory.connection import Connection, Server, Unreachable, open_connection
from winpop.auth.active_directory.messages import Entry, equal, every
from winpop.auth.active_directory.states import answer
from winpop.auth.contract import CannotSay, Right
from winpop.terms.refusals import readable

PAUSE, REFUSED_PAUSE = 30.0, 300.0
"""Seconds until a server that failed, and a service account that was refused, are tried again."""
_HOW_TO_SET = "'winpop set ldapuser NAME /password' sets it and its password"


class LdapSettings(Protocol):
    """The settings that are ours; `winpop.directory.settings.Settings` has them."""

    @property
    def ldapservers(self) -> tuple[str, ...]: ...  # noqa: D102 - the settings' table says what each is
    @property
    def ldapca(self) -> str: ...  # noqa: D102 - see above
    @property
    def ldapbase(self) -> str: ...  # noqa: D102 - see above
    @property
    def ldapuser(self) -> str: ...  # noqa: D102 - see above
    @property
    def ldapcreatein(self) -> str: ...  # noqa: D102 - see above
    @property
    def ldapadmins(self) -> str: ...  # noqa: D102 - see above
    @property
    def ldaptimeout(self) -> float: ...  # noqa: D102 - see above


@dataclass(frozen=True, slots=True)
class Place:
    """The domain that a server serves."""

    root: str
    """Its DN."""
    netbios: str
    r"""What stands before the backslash in `DOMAIN\alice`."""
    dns: str


class Servers:
    """Opens connections to the first server that answers. Belongs to one event loop."""

    def __init__(self, settings: LdapSettings, password: str, pause: float = PAUSE) -> None:
        """Use the servers of these settings, with the service account's password."""
        self.settings = settings
        self.all = tuple(map(Server, settings.ldapservers))
        self.timeout = settings.ldaptimeout
        self._password = _octets(password)
        self._pause = pause
        self._failed: dict[Server, float] = {}
        self._refused: tuple[float, str] | None = None
        self._place: Place | None = None

    @property
    def limit(self) -> float:
        """Seconds in which a request is answered: each server may let us wait once, and the one that answers too."""
        return self.timeout * (len(self.all) + 1)

    def failed(self, server: Server) -> None:
        """Leave a server alone for a while."""
        self._failed[server] = time.monotonic() + self._pause

    def is_best(self, server: Server) -> bool:
        """Tell whether no server that is to be tried comes before this one."""
        return next(iter(self._in_turn()), server) == server

    async def open(self) -> Connection:
        """Connect to the first server that answers. Raises `Unreachable` with what each of them did."""
        if not self.all:
            raise Unreachable("No domain controller is set; 'winpop set ldapservers ldaps://dc1.example.com' sets one.")
        why = []
        for server in self._in_turn() or self.all:
            if server in self._failed:  # one request tries it; the others that come meanwhile do not wait for it
                self.failed(server)
            try:
                connection = await open_connection(server, self.settings.ldapca, self.timeout)
            except Unreachable as error:
                self.failed(server)
                why.append(str(error))
            else:
                self._failed.pop(server, None)
                return connection
        raise Unreachable(" ".join(dict.fromkeys(why)))

    async def open_bound(self) -> Connection:
        """Connect and log on as the service account. Raises `Unreachable`."""
        if self._refused is not None and time.monotonic() < self._refused[0]:
            raise Unreachable(self._refused[1])
        self._refused = None
        if not self.settings.ldapuser or not self._password:
            raise Unreachable(f"No account is set to look up others with; {_HOW_TO_SET}.")
        connection = await self.open()
        try:
            said = answer(await connection.bind(self.settings.ldapuser, self._password))
        except Unreachable:
            self.failed(connection.server)
            raise
        if isinstance(said, Right):
            return connection
        connection.abort()
        if isinstance(said, CannotSay):
            self.failed(connection.server)
            raise Unreachable(said.why)
        raise Unreachable(self._note_refusal(said.why))

    async def place(self, connection: Connection) -> Place:
        """Return the domain, asked for once. Raises `Unreachable`."""
        if self._place is None:
            names = ("defaultNamingContext", "configurationNamingContext")
            found = await connection.search("", messages.ANYTHING, names, messages.BASE)
            root = found[0].text(names[0]) if found else ""
            if not root:
                raise Unreachable(f"The server {connection.server.text} is no domain controller: it names no domain.")
            partition = every(equal("objectClass", "crossRef"), equal("nCName", root))
            where = f"CN=Partitions,{found[0].text(names[1])}"
            found = await connection.search(where, partition, ("nETBIOSName", "dnsRoot"))
            entry = found[0] if found else Entry("", {})
            self._place = Place(root, entry.text("nETBIOSName"), entry.text("dnsRoot"))
        return self._place

    async def troubles(self) -> dict[str, str | None]:
        """Return for each server what is wrong with it, None where nothing is."""
        return {server.text: await self._trouble(server) for server in self.all}

    async def _trouble(self, server: Server) -> str | None:
        try:
            connection = await open_connection(server, self.settings.ldapca, self.timeout)
        except Unreachable as error:
            return str(error)
        await connection.close()
        return None

    def _in_turn(self) -> tuple[Server, ...]:
        now = time.monotonic()
        return tuple(server for server in self.all if self._failed.get(server, 0) <= now)

    def _note_refusal(self, reason: str) -> str:
        who = readable(self.settings.ldapuser)
        why = f"Active Directory does not let in the account {who} (ldapuser): {reason}; {_HOW_TO_SET}."
        self._refused = (time.monotonic() + REFUSED_PAUSE, why)
        return why


def _octets(password: str) -> bytes:
    """Return a password as it is sent; what was typed and is not UTF-8 is sent as it was typed."""
    try:
        return password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # not even that: a wrong password, which the directory will say
        return password.encode("utf-8", "surrogatepass")
