"""Administers accounts in Active Directory for the tool `winpop`, as the service account.

Blocking: each call opens a connection, does its work and closes it. Invariant: whatever goes wrong is a `Refusal`.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from winpop.auth.active_directory import messages, states
from winpop.auth.active_directory.connection import Connection, Unreachable
from winpop.auth.active_directory.lookups import IDENTIFIER, Lookups, identifier
from winpop.auth.active_directory.messages import Entry, Result
from winpop.auth.active_directory.servers import LdapSettings, Servers
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal, out_of_reach, readable

_LONGEST_SAM = 20
_TRIES = 1000
_ENABLED = b"512"
_NAMES = ("userPrincipalName", "sAMAccountName", "mail")
_POLICY = "52d"  # the last digits of Windows' ERROR_PASSWORD_RESTRICTION, which stands first in the server's text

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Description:
    """An account for people: its names, and the states (words of the contract) that keep it from logging on."""

    dn: str
    user_principal_name: str
    sam_account_name: str
    mail: str
    states: tuple[str, ...]


class DirectoryAccounts:
    """Implements `winpop.auth.contract.Accounts`."""

    def __init__(self, settings: LdapSettings, password: str) -> None:
        """Use the servers of these settings, and the service account's password; nothing is opened yet."""
        self._settings = settings
        self._password = password

    def find(self, address: Address) -> str | None:
        """Return the identifier of the account of a mailbox.

        Raises `Refusal` (`account-ambiguous`, `account-of-another`, `account-not-for-mail` and others).
        """
        return self._run(lambda work: work.lookups.of_address(work.connection, address))

    def is_administrator(self, who: str) -> bool:
        """Tell whether an account, by identifier or logon name, is in the group `ldapadmins`, also by other groups."""
        if not self._settings.ldapadmins:
            return False
        return self._run(lambda work: work.lookups.is_administrator(work.connection, who))

    def facts(self, account: str) -> list[tuple[str, str]]:
        """Return its names, what keeps it from logging on, and whether it is an administrator of this server."""
        about = self.describe(account)
        return [
            ("distinguished name", about.dn),
            ("user principal name", about.user_principal_name or "none"),
            ("pre-Windows 2000 name", about.sam_account_name),
            ("mail", about.mail or "none"),
            ("state", ", ".join(about.states) or "may log on"),
            ("administrator", "yes" if self.is_administrator(account) else "no"),
        ]

    def create(self, address: Address, password: bytes) -> str:
        """Make the account of a mailbox, which can log on at once, and return its identifier.

        Raises `Refusal` (`account-exists`, `password-refused`, `directory-not-permitted` and others).
        """
        secret = _quoted(password)
        return self._run(lambda work: work.create(address, secret))

    def set_password(self, account: str, password: bytes) -> None:
        """Give an account another password. Raises `Refusal` (`no-such-account`, `password-refused` and others)."""
        secret = _quoted(password)
        self._run(lambda work: work.set_password(account, secret))

    def delete(self, account: str) -> None:
        """Delete an account; one that is gone already is no error."""
        self._run(lambda work: work.delete(account))

    def describe(self, account: str) -> Description:
        """Return the names and the state of an account. Raises `Refusal` (`no-such-account` and others)."""
        return self._run(lambda work: work.describe(account))

    def reachable(self) -> dict[str, str | None]:
        """Return for each server one sentence on what is wrong with it, or None; passwords are not tried."""
        return asyncio.run(Servers(self._settings, self._password).troubles())

    def _run(self, task: Callable[["_Work"], Awaitable[T]]) -> T:
        return asyncio.run(self._done(task))

    async def _done(self, task: Callable[["_Work"], Awaitable[T]]) -> T:
        servers = Servers(self._settings, self._password)
        try:
            connection = await servers.open_bound()
            try:
                return await task(_Work(servers, connection))
            finally:
                await connection.close()
        except Unreachable as error:
            raise out_of_reach("directory-out-of-reach", str(error)) from None


class _Work:
    """What is done on one connection."""

    def __init__(self, servers: Servers, connection: Connection) -> None:
        self.lookups = Lookups(servers)
        self.connection = connection
        self._servers = servers

    async def create(self, address: Address, secret: bytes) -> str:
        if await self.lookups.has_principal(self.connection, str(address)):
            raise Refusal(
                "account-exists", f"Active Directory has an account {address} already; add it without /createuser."
            )
        where = self._servers.settings.ldapcreatein
        where = where or f"CN=Users,{(await self._servers.place(self.connection)).root}"
        for number in range(_TRIES):
            sam = sam_name(address.mailbox, number)
            if await self.lookups.has_sam(self.connection, sam):
                continue
            dn = f"CN={escaped(sam)},{where}"
            result = await self.connection.add(
                dn,
                {
                    "objectClass": b"user",
                    "sAMAccountName": sam.encode(),
                    "userPrincipalName": str(address).encode(),
                    "userAccountControl": _ENABLED,
                    "unicodePwd": secret,
                },
            )
            if result.code == messages.ENTRY_EXISTS:  # something else has this name there, or has taken it just now
                continue
            if result.code == messages.NO_SUCH_OBJECT:
                raise Refusal("no-such-container", f"'{readable(where)}' (ldapcreatein) is not in Active Directory.")
            _insist(result, f"the account {address} cannot be made")
            return await self._identifier(dn)
        raise Refusal("account-exists", f"Active Directory has no pre-Windows 2000 name left for {address}.")

    async def set_password(self, account: str, secret: bytes) -> None:
        entry = await self._entry(account)
        result = await self.connection.replace(entry.dn, "unicodePwd", secret)
        _insist(result, f"the password of '{readable(entry.dn)}' cannot be set")

    async def delete(self, account: str) -> None:
        entry = await self.lookups.account(self.connection, account)
        if entry is not None:
            result = await self.connection.delete(entry.dn)
            if result.code != messages.NO_SUCH_OBJECT:
                _insist(result, f"'{readable(entry.dn)}' cannot be deleted")

    async def describe(self, account: str) -> Description:
        entry = await self._entry(account, (*_NAMES, *states.STATE))
        upn, sam, mail = map(entry.text, _NAMES)
        return Description(entry.dn, upn, sam, mail, states.states(entry, time.time()))

    async def _entry(self, account: str, attributes: tuple[str, ...] = ("cn",)) -> Entry:
        entry = await self.lookups.account(self.connection, account, attributes)
        if entry is None:
            raise Refusal(
                "no-such-account", f"Active Directory has no account with the objectGUID {readable(account)}."
            )
        return entry

    async def _identifier(self, dn: str) -> str:
        found = await self.connection.search(dn, messages.ANYTHING, (IDENTIFIER,), messages.BASE)
        name = identifier(found[0]) if found else None
        if name is None:
            raise Unreachable(f"The account '{readable(dn)}' was made, and then not found; look for it there.")
        return name


def sam_name(mailbox: str, number: int) -> str:
    """Return the pre-Windows 2000 name of a mailbox: at most 20 characters; other numbers give other names."""
    tail = str(number) if number else ""
    return mailbox.replace("+", "_")[: _LONGEST_SAM - len(tail)].rstrip(".") + tail


def escaped(name: str) -> str:
    """Return a name as it stands in a DN (RFC 4514 §2.4)."""
    text = re.sub(r'([\\"+,;<>=])', r"\\\1", name).replace("\0", r"\00")
    text = re.sub(r"^([ #])", r"\\\1", text)
    return re.sub(r"(?<!\\) $", r"\\ ", text)


def _quoted(password: bytes) -> bytes:
    """Return a password as the attribute unicodePwd takes it. Raises `Refusal` (`password-refused`)."""
    try:
        text = password.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise Refusal(
            "password-refused", "Active Directory takes no password that is empty or not UTF-8; choose another."
        )
    return f'"{text}"'.encode("utf-16-le")


def _insist(result: Result, what: str) -> None:
    """Return where it was done. Raises `Refusal` otherwise."""
    if result.code != messages.SUCCESS:
        _refuse(result, what)


def _refuse(result: Result, what: str) -> NoReturn:
    if result.code in (messages.CONSTRAINT_VIOLATION, messages.UNWILLING) and re.match(
        rf"0*{_POLICY}\b", result.text, re.IGNORECASE
    ):
        raise Refusal(
            "password-refused",
            "Active Directory does not take this password: the domain's policy wants a longer one, other kinds of "
            "characters, or one that was not used before; choose another.",
        )
    if result.code == messages.INSUFFICIENT_RIGHTS:
        raise Refusal(
            "directory-not-permitted",
            f"In Active Directory {what}: the account of ldapuser may not do that; give it the right there.",
            Kind.NOT_PERMITTED,
        )
    raise Refusal("directory-refused", f"In Active Directory {what}: {result.code} {readable(result.text)}.")
