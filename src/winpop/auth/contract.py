"""The contract of the authentication methods: where the truth about passwords lies.

Invariants: an answer has three values, and an error of a method is the third, never a yes or a no; why a password was
not taken is for the log, never for the client; a method that is asked about nobody does the work all the same.
"""

from dataclasses import dataclass
from typing import Protocol

from winpop.terms.names import Address

LOCAL, DIRECTORY, FILE = 1, 2, 3
"""The methods by their documented numbers: local accounts, Active Directory integrated, encrypted password file."""


@dataclass(frozen=True, slots=True)
class Right:
    """The password is this account's, and the account may be used."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """It is not, or the account may not be used; `why` is for the log: one of the words below, or a method's own."""

    why: str = "password"


NO_ACCOUNT, PASSWORD, DISABLED, EXPIRED, LOCKED_OUT, MUST_CHANGE, PASSWORD_EXPIRED = (
    "no account",
    "password",
    "disabled",
    "expired",
    "locked out",
    "must change password",
    "password expired",
)


@dataclass(frozen=True, slots=True)
class CannotSay:
    """The method is out of reach; `why` is a sentence for the log."""

    why: str


Answer = Right | Wrong | CannotSay


class Method(Protocol):
    """Checks passwords for the service. Belongs to one event loop; nothing here ever raises or blocks the loop."""

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        """Tell whether `account` has this password; `host` is the client's address, for methods that look at it.

        `account` is the identifier that `Accounts` gave for the mailbox, None where the name belongs to no mailbox;
        `name` is what the client called itself. `password` has 1 to 248 octets, none of them NUL.
        """
        ...

    async def usable(self, account: str, host: str = "") -> Answer:
        """Tell whether `account` may log on now, of which something else than a password has vouched who it is."""
        ...

    async def find(self, name: str) -> str | CannotSay | None:
        """Return the identifier of the account that a logon name means which is no mailbox's address, or None."""
        ...

    async def close(self) -> None:
        """Give back connections and processes."""
        ...


class Accounts(Protocol):
    """Administers the accounts of a method for the tool `winpop`. Blocking; raises `Refusal` and nothing else."""

    def find(self, address: Address) -> str | None:
        """Return the identifier of the account that exists for a mailbox address, or None. It is stable and unique."""
        ...

    def create(self, address: Address, password: bytes) -> str:
        """Make the account of a mailbox and return its identifier. Raises `Refusal` (`account-exists` and others)."""
        ...

    def set_password(self, account: str, password: bytes) -> None:
        """Give an account another password. Raises `Refusal` (`no-such-account`, `password-refused` and others)."""
        ...

    def delete(self, account: str) -> None:
        """Delete an account; one that is gone already is no error."""
        ...

    def facts(self, account: str) -> list[tuple[str, str]]:
        """Return what an administrator may want to know of an account, and what keeps it from logging on."""
        ...
