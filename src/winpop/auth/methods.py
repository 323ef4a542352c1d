"""The contract of the authentication methods, and the encrypted password file.

Invariants: a verdict has three values, and an error of a method is the third, never a yes or a no; the lock
is looked at only after the password was right, and the time until then is the same for every reason to refuse.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from winpop.auth import passwords
from winpop.db.contract import Reader
from winpop.directory import mailboxes
from winpop.directory.mailboxes import Mailbox
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Known:
    """The user is who they say, and this is their mailbox (locked or not)."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class Stranger:
    """No such user, or not their password."""


@dataclass(frozen=True, slots=True)
class CannotSay:
    """The method is out of reach."""


Verdict = Known | Stranger | CannotSay


class Method(Protocol):
    """Where the truth about passwords lies."""

    async def check(self, name: str, password: bytes) -> Verdict:
        """Tell whether `name` has this password. Never raises."""
        ...


class PasswordFile:
    """The encrypted password file method: the full address is the user name, in any case."""

    def __init__(self, reader: Reader, in_thread: Callable[[Callable[[], bool]], Awaitable[bool]]) -> None:
        """Read from `reader`; run the slow hashing through `in_thread`."""
        self._reader = reader
        self._in_thread = in_thread

    async def check(self, name: str, password: bytes) -> Verdict:
        """Tell whether the address `name` has this password."""
        try:
            mailbox = _look_up(self._reader, name)
            password_hash = mailbox.password_hash if mailbox else None
            right = await self._in_thread(lambda: passwords.verify(password_hash, password))
            if mailbox is None or not right:
                return Stranger()
            # Again: while the hash was computed the mailbox may have been locked, deleted, or given another password.
            now = mailboxes.by_id(self._reader, [mailbox.id]).get(mailbox.id)
        except (Refusal, TimeoutError):
            return CannotSay()
        return Known(now) if now and now.password_hash == password_hash else Stranger()


def _look_up(reader: Reader, name: str) -> Mailbox | None:
    try:
        address = Address.parse(name)
    except Refusal:
        return None
    return mailboxes.look_up(reader, address)
