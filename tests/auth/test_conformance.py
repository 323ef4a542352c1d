"""The laws for methods hold for one in memory, and each of them catches a method that breaks it."""

import asyncio
from collections.abc import Iterable

import pytest

from auth import conformance
from auth.conformance import LAWS, Account, Law, Subject
from winpop.auth.contract import NO_ACCOUNT, Answer, CannotSay, Right, Wrong

ONE = Account("1", "one@example.com", b"Passw0rd!one")
OTHER = Account("2", "other@example.com", b"Passw0rd!other")


class InMemory:
    """A method as simple as it can be."""

    def __init__(self, accounts: Iterable[Account] = (ONE, OTHER)) -> None:
        self.passwords = {account.identifier: account.password for account in accounts}

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        await asyncio.sleep(0)
        if account is None or account not in self.passwords:
            return Wrong(NO_ACCOUNT)
        return Right() if password == self.passwords[account] else Wrong()

    async def usable(self, account: str, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Right() if account in self.passwords else Wrong(NO_ACCOUNT)

    async def find(self, name: str) -> str | CannotSay | None:  # noqa: ARG002 - the contract's
        return None

    async def close(self) -> None:
        pass


class Failing(InMemory):
    """Its twin that has lost its accounts."""

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return CannotSay("The memory is out of reach.")

    async def usable(self, account: str, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return CannotSay("The memory is out of reach.")

    async def find(self, name: str) -> str | CannotSay | None:  # noqa: ARG002 - the contract's
        return CannotSay("The memory is out of reach.")


class KnowsNoAccounts(InMemory):
    """As the password file: it need not look."""

    async def usable(self, account: str, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Right()


class VouchesForNobody(InMemory):
    async def usable(self, account: str, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Wrong()


class RaisesWhenAsked(InMemory):
    async def usable(self, account: str, host: str = "") -> Answer:
        account.encode()
        return await super().usable(account, host)


class TakesEmpty(InMemory):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        return await super().check(account, name, password, host) if password else Right()


class CutsAtNul(InMemory):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        return await super().check(account, name, password.partition(b"\0")[0], host)


class FoldsCase(InMemory):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        right = self.passwords.get(account or "", b"")
        return await super().check(account, name, right if password.lower() == right.lower() else password, host)


class TakesAnyonesPassword(InMemory):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Right() if account in self.passwords and password in self.passwords.values() else Wrong()


class LetsNobodyIn(InMemory):
    """Everybody whom it does not know."""

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        return await super().check(account, name, password, host) if account in self.passwords else Right()


class LocksOutAll(InMemory):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Wrong()


class Raises(InMemory):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        name.encode()
        return await super().check(account, name, password, host)


class CallsFailureWrong(Failing):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Wrong()


class CallsFailureRight(Failing):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Right()


class FindsNobodyInFailure(Failing):
    async def find(self, name: str) -> str | CannotSay | None:  # noqa: ARG002 - the contract's
        return None


class CallsEverybodyUsable(Failing):
    async def usable(self, account: str, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Right()


class CallsNobodyUsable(Failing):
    async def usable(self, account: str, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return Wrong()


class TellsThePassword(Failing):
    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:  # noqa: ARG002 - the contract's
        return CannotSay(f"The password {password.decode('latin-1')} cannot be checked.")


class LosesItsTurn(InMemory):
    """Whoever is cancelled takes its only slot away."""

    taken = False

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        if self.taken:
            return CannotSay("The slot is taken.")
        self.taken = True
        answer = await super().check(account, name, password, host)
        self.taken = False
        return answer


class MixesUp(InMemory):
    """Two at the same time share one place for what is asked."""

    asked: tuple[str | None, bytes] = (None, b"")

    async def check(self, account: str | None, name: str, password: bytes, host: str = "") -> Answer:
        self.asked = (account, password)
        await asyncio.sleep(0)
        return await super().check(self.asked[0], name, self.asked[1], host)


def subject(
    method: type[InMemory] = InMemory, broken: type[InMemory] = Failing, *, knows: bool | None = True
) -> Subject:
    return Subject(method, broken, ONE, OTHER, "3", knows_accounts=knows)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_method_in_memory_keeps(law: Law) -> None:
    asyncio.run(law(subject()))


@pytest.mark.parametrize(
    ("method", "law"),
    [
        (LocksOutAll, conformance.the_right_password_is_right),
        (FoldsCase, conformance.another_password_is_wrong),
        (TakesAnyonesPassword, conformance.the_password_of_another_is_wrong),
        (TakesEmpty, conformance.what_is_no_password_is_wrong),
        (CutsAtNul, conformance.what_is_no_password_is_wrong),
        (LetsNobodyIn, conformance.nobody_has_a_password),
        (Raises, conformance.nothing_that_is_asked_raises),
        (VouchesForNobody, conformance.whoever_is_vouched_for_is_looked_up),
        (KnowsNoAccounts, conformance.whoever_is_vouched_for_is_looked_up),
        (RaisesWhenAsked, conformance.whoever_is_vouched_for_is_looked_up),
        (LosesItsTurn, conformance.who_gives_up_harms_nobody),
        (MixesUp, conformance.many_at_once_get_their_own_answers),
        (LosesItsTurn, conformance.many_at_once_get_their_own_answers),
    ],
    ids=lambda value: value.__name__,
)
def test_a_law_catches(method: type[InMemory], law: Law) -> None:
    with pytest.raises((AssertionError, UnicodeError)):
        asyncio.run(law(subject(method)))


@pytest.mark.parametrize("broken", [CallsFailureWrong, CallsFailureRight, TellsThePassword, FindsNobodyInFailure])
def test_a_failure_is_caught_that_says(broken: type[InMemory]) -> None:
    with pytest.raises(AssertionError):
        asyncio.run(conformance.what_cannot_be_said_is_neither_right_nor_wrong(subject(broken=broken)))


@pytest.mark.parametrize("knows", [True, None])
@pytest.mark.parametrize("broken", [CallsEverybodyUsable, CallsNobodyUsable])
def test_a_failure_is_caught_that_vouches_or_denies(broken: type[InMemory], knows: bool | None) -> None:  # noqa: FBT001 - a parameter of the test
    with pytest.raises(AssertionError):
        asyncio.run(conformance.whoever_is_vouched_for_is_looked_up(subject(broken=broken, knows=knows)))


@pytest.mark.parametrize("knows", [False, None])
def test_a_method_that_knows_no_accounts_lets_in_whoever_is_vouched_for(knows: bool | None) -> None:  # noqa: FBT001 - see above
    law = conformance.whoever_is_vouched_for_is_looked_up
    asyncio.run(law(subject(KnowsNoAccounts, KnowsNoAccounts, knows=knows)))
    with pytest.raises(AssertionError):
        asyncio.run(law(subject(InMemory, Failing, knows=False)))
