r"""Finding accounts in the domain: by mailbox address, by logon name, by identifier; and who is an administrator.

The identifier of an account is its objectGUID as text: it stays when the account is renamed or moved. Logon names are
what Windows takes: the pre-Windows 2000 name `alice` and `DOMAIN\alice`, the user principal name with any suffix, and
the implied one, `alice@` and the domain's own name. Invariants: only users are found, neither computers nor groups; no
mailbox gets an account that is another's, by its mail address or as the one that we look up others with.
"""

import uuid
from collections.abc import Sequence

from winpop.auth.active_directory.connection import Connection
from winpop.auth.active_directory.messages import Entry, equal, every, some, within
from winpop.auth.active_directory.servers import Place, Servers
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal, readable

IDENTIFIER = "objectGUID"
_USER = equal("sAMAccountType", "805306368")
"""Active Directory's own word for accounts of people; it is indexed."""
_OWNER = ("userPrincipalName", "mail", "isCriticalSystemObject")
"""What tells whose account one is that was found by its name."""
_LONGEST_NAME = 320
_RID_OCTETS = 4


def identifier(entry: Entry) -> str | None:
    """Return the identifier of an account, or None where the server shows none."""
    octets = entry.one(IDENTIFIER)
    return str(uuid.UUID(bytes_le=octets)) if len(octets) == 16 else None  # noqa: PLR2004 - octets of a UUID


class Lookups:
    """Looks things up on a connection that is logged on. All raise `Unreachable`."""

    def __init__(self, servers: Servers) -> None:
        """Look in the domain of these servers."""
        self._servers = servers
        self._settings = servers.settings

    async def base(self, connection: Connection) -> str:
        """Return the DN below which accounts are looked for."""
        return self._settings.ldapbase or (await self._servers.place(connection)).root

    async def account(self, connection: Connection, account: str, attributes: Sequence[str] = ()) -> Entry | None:
        """Return the account with this identifier, wherever in the domain it is now, or None."""
        try:
            octets = uuid.UUID(account).bytes_le
        except ValueError:
            return None
        root = (await self._servers.place(connection)).root
        found = await connection.search(root, every(_USER, equal(IDENTIFIER, octets)), attributes or ("cn",))
        return found[0] if found else None

    async def of_address(self, connection: Connection, address: Address) -> str | None:
        """Return the account of a mailbox: by user principal name, else mail address, else pre-Windows 2000 name.

        Raises `Refusal`: `account-ambiguous` where two could be meant, `account-of-another` where the account of that
        name has another mail address, `account-not-for-mail` where it is the account of ldapuser.
        """
        ways = ("userPrincipalName", str(address)), ("mail", str(address)), ("sAMAccountName", address.mailbox)
        for attribute, value in ways:
            found = await self._users(connection, equal(attribute, value), (IDENTIFIER, *_OWNER))
            if len(found) > 1:
                names = " and ".join(f"'{readable(entry.dn)}'" for entry in found)
                raise Refusal(
                    "account-ambiguous",
                    f"Two accounts in Active Directory could be that of {address} by their {attribute}: {names}; "
                    f"give one of them the userPrincipalName {address}.",
                )
            if found:
                place = await self._servers.place(connection)
                await self._refuse_service_account(connection, found[0], address)
                # The name alone says little: mailboxes of one name can be in many domains.
                if attribute == "sAMAccountName" and not _may_have(found[0], address, place):
                    return None
                return identifier(found[0])
        return None

    async def _refuse_service_account(self, connection: Connection, entry: Entry, address: Address) -> None:
        """Raise `Refusal` where an account is the one that we look up others with."""
        user = self._settings.ldapuser
        place = await self._servers.place(connection)
        forms = some(equal("distinguishedName", user), *_meanings(user, place))
        this = every(_USER, equal(IDENTIFIER, entry.one(IDENTIFIER)), forms)
        if await connection.search(place.root, this, ("cn",)):
            raise Refusal(
                "account-not-for-mail",
                f"In Active Directory the account of {address} would be '{readable(entry.dn)}', which is that of "
                "ldapuser and no mailbox's; give the mailbox another name, or make an account for it.",
            )

    async def of_name(self, connection: Connection, name: str) -> str | None:
        """Return the account that a logon name means, or None where it means none, or more than one."""
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            return None
        place = await self._servers.place(connection)
        for wanted in _meanings(name, place):
            found = await self._users(connection, wanted)
            if found:
                return identifier(found[0]) if len(found) == 1 else None
        return None

    async def is_administrator(self, connection: Connection, who: str) -> bool:
        """Tell whether an account, by identifier or logon name, is in the administrators' group, also by others."""
        account = who if await self.account(connection, who) else await self.of_name(connection, who)
        group = self._settings.ldapadmins
        if account is None:
            return False
        root = (await self._servers.place(connection)).root
        for attribute in ("distinguishedName", "sAMAccountName", "cn"):
            named = every(equal("objectClass", "group"), equal(attribute, group))
            groups = await connection.search(root, named, ("objectSid",))
            if groups:
                break
        if len(groups) != 1:  # a name that two groups have gives nobody power
            return False
        # The primary group of an account is not among those it is a member of.
        primary = equal("primaryGroupID", str(int.from_bytes(groups[0].one("objectSid")[-_RID_OCTETS:], "little")))
        member = some(within("memberOf", groups[0].dn), primary)
        this = equal(IDENTIFIER, uuid.UUID(account).bytes_le)
        return bool(await connection.search(root, every(_USER, this, member), ("cn",)))

    async def has_principal(self, connection: Connection, name: str) -> bool:
        """Tell whether anything in the domain has this user principal name."""
        return await self._is_taken(connection, "userPrincipalName", name)

    async def has_sam(self, connection: Connection, name: str) -> bool:
        """Tell whether anything in the domain has this pre-Windows 2000 name: a user, a group, a computer."""
        return await self._is_taken(connection, "sAMAccountName", name)

    async def _is_taken(self, connection: Connection, attribute: str, value: str) -> bool:
        root = (await self._servers.place(connection)).root
        return bool(await connection.search(root, equal(attribute, value), ("cn",)))

    async def _users(
        self, connection: Connection, wanted: bytes, attributes: Sequence[str] = (IDENTIFIER,)
    ) -> list[Entry]:
        return await connection.search(await self.base(connection), every(_USER, wanted), attributes)


def _may_have(entry: Entry, address: Address, place: Place) -> bool:
    """Tell whether an account that has a mailbox's name may be that mailbox's. Raises `Refusal` (`account-of-another`).

    It may not be where it belongs to the directory itself, as administrator, or to a user of another mail domain.
    """
    principal, mail, critical = map(entry.text, _OWNER)
    suffix = principal.rpartition("@")[2].lower() if "@" in principal else ""
    if critical == "TRUE" or (suffix and suffix not in (address.domain.text, place.dns.lower())):
        return False
    if mail and mail.lower() != str(address):
        raise Refusal(
            "account-of-another",
            f"'{readable(entry.dn)}' in Active Directory has the name of the mailbox {address}, but the mail address "
            f"{readable(mail)}; if it is the mailbox's account, give it the userPrincipalName {address}.",
        )
    return True


def _meanings(name: str, place: Place) -> list[bytes]:
    """Return the filters for what a logon name can mean, in the order in which they are tried."""
    domain, backslash, sam = name.partition("\\")
    if backslash:
        ours = domain.lower() in (place.netbios.lower(), place.dns.lower())
        return [equal("sAMAccountName", sam)] if ours and sam else []
    local, at, suffix = name.rpartition("@")
    if not at:
        return [equal("sAMAccountName", name)]
    implied = [equal("sAMAccountName", local)] if local and suffix.lower() == place.dns.lower() else []
    return [equal("userPrincipalName", name), *implied]
