"""The encrypted password file: the method in which winpop itself keeps the passwords, as argon2id hashes.

Invariant: an account is the hash itself, so what is known of a password is known of nothing else once it has changed;
nobody's hash is as much work as somebody's.
"""

from collections.abc import Awaitable, Callable

from winpop.auth import passwords
from winpop.auth.contract import NO_ACCOUNT, Answer, CannotSay, Right, Wrong
from winpop.terms.refusals import Refusal


class PasswordFile:
    """The method; `in_thread` runs the slow hashing for a host, and raises `TimeoutError` when too much of it waits."""

    def __init__(self, in_thread: Callable[[Callable[[], bool], str], Awaitable[bool]]) -> None:
        self._in_thread = in_thread

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        """Tell whether this is the password that `account` is the hash of."""
        del name
        try:
            right = await self._in_thread(lambda: passwords.verify(account, password), host)
        except TimeoutError:
            return CannotSay("Too many passwords wait to be verified.")
        except Refusal as refusal:
            return CannotSay(refusal.sentence)
        if right:
            return Right()
        return Wrong(NO_ACCOUNT) if account is None else Wrong()

    async def usable(self, account: str, host: str = "") -> Answer:
        """Return yes: there is nothing here that keeps an account from logging on but a lock."""
        del account, host
        return Right()

    async def find(self, name: str) -> str | None:
        """Return None: here a logon name is a mailbox's address and nothing else."""
        del name
        return None

    async def close(self) -> None:
        """Do nothing: there is nothing to give back."""
