"""What every authentication method must do, whatever is behind it: laws over `winpop.auth.contract.Method`.

A test module makes a `Subject` and runs each law once:

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_it_keeps(law: Law, subject: Subject) -> None:
        asyncio.run(law(subject))

A law gives one account at most two wrong passwords, since directories lock accounts out: make the accounts anew for
each. `test_conformance.py` shows that each law can fail.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from winpop.auth.contract import Answer, CannotSay, Method, Right, Wrong

STRANGE_NAMES = ("", "\0", "*", "*)(uid=*", "a" * 5000, "\udc80", "alice\r\nQUIT", "..\\..", "\u202ealice", "%u", "{0}")
STRANGE_PASSWORDS = (b"\xff\xfe", b"\r\n", b"%s%n", b"*", b"a" * 248, b" ", b"\x01")
_PATIENCE = 60
"""Seconds in which any answer comes, in a test."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account that can log on; its password has at least two octets, and is no other account's."""

    identifier: str
    name: str
    password: bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """A method under test. What makes it is called within the event loop that it belongs to."""

    make: Callable[[], Method]
    broken: Callable[[], Method]
    """The same, with its truth out of reach."""
    one: Account
    other: Account
    absent: str
    """An identifier of the right form that no account has."""
    knows_accounts: bool | None = None
    """Whether it can look its accounts up; False: whoever is vouched for is let in. None: the law sees which."""


Law = Callable[[Subject], Coroutine[None, None, None]]


async def the_right_password_is_right(subject: Subject) -> None:
    method = subject.make()
    for account in (subject.one, subject.other, subject.one):
        assert await _check(method, account) == Right()
    await method.close()


async def another_password_is_wrong(subject: Subject) -> None:
    method = subject.make()
    assert isinstance(await _check(method, subject.one, subject.one.password[:-1]), Wrong)
    assert isinstance(await _check(method, subject.one, subject.one.password + b"x"), Wrong)
    assert isinstance(await _check(method, subject.other, subject.other.password.swapcase()), Wrong)
    assert await _check(method, subject.one) == Right()
    await method.close()


async def the_password_of_another_is_wrong(subject: Subject) -> None:
    method = subject.make()
    assert await _check(method, subject.other) == Right()  # and whatever is remembered of it is not one's
    assert isinstance(await _check(method, subject.one, subject.other.password), Wrong)
    await method.close()


async def what_is_no_password_is_wrong(subject: Subject) -> None:
    method = subject.make()
    right = subject.one.password
    for password in (b"", b"\0", right + b"\0", right + b"\0x", b"\0" + right, right + b"x" * 1024):
        assert isinstance(await _check(method, subject.one, password), Wrong), password
        assert isinstance(await _answer(method, None, "nobody", password), Wrong), password
    assert await _check(method, subject.one) == Right()
    await method.close()


async def nobody_has_a_password(subject: Subject) -> None:
    method = subject.make()
    for account in (None, subject.absent):
        for password in (subject.one.password, b"x"):
            assert isinstance(await _answer(method, account, subject.one.name, password), Wrong)
    await method.close()


async def nothing_that_is_asked_raises(subject: Subject) -> None:
    method = subject.make()
    for name in STRANGE_NAMES:
        assert await asyncio.wait_for(method.find(name), _PATIENCE) is None, name
        assert isinstance(await _answer(method, None, name, b"x"), Wrong), name
    for password in STRANGE_PASSWORDS:
        assert isinstance(await _answer(method, None, "nobody", password), Wrong), password
    assert await _check(method, subject.one) == Right()
    await method.close()


async def what_cannot_be_said_is_neither_right_nor_wrong(subject: Subject) -> None:
    method = subject.broken()
    for account in (subject.one.identifier, subject.absent, None):
        answer = await _answer(method, account, subject.one.name, subject.one.password)
        assert isinstance(answer, CannotSay), answer
        assert len(answer.why) > 10
        assert subject.one.password.decode("latin-1") not in answer.why
    found = await asyncio.wait_for(method.find(subject.one.name), _PATIENCE)
    assert isinstance(found, CannotSay) or (found is None and not subject.knows_accounts), found
    await method.close()


async def whoever_is_vouched_for_is_looked_up(subject: Subject) -> None:
    """Right for an account that may log on, and never for one that is gone; one that cannot look must never have to."""
    method, broken = subject.make(), subject.broken()
    for account in (subject.one, subject.other):
        assert await _usable(method, account.identifier) == Right()
    absent, unsaid = await _usable(method, subject.absent), await _usable(broken, subject.one.identifier)
    knows = isinstance(absent, Wrong) if subject.knows_accounts is None else subject.knows_accounts
    assert isinstance(absent, Wrong if knows else Right), absent
    assert isinstance(unsaid, CannotSay if knows else Right), unsaid
    assert not isinstance(unsaid, CannotSay) or len(unsaid.why) > 10
    for name in STRANGE_NAMES:
        answer = await _usable(method, name)
        assert isinstance(answer, Wrong | CannotSay if knows else Right), name
    assert await _usable(method, subject.one.identifier) == Right()
    await method.close()
    await broken.close()


async def who_gives_up_harms_nobody(subject: Subject) -> None:
    """A logon whose client has gone is cancelled wherever it stands; the next gets its own answer."""
    method = subject.make()
    for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        asked = asyncio.ensure_future(method.check(subject.one.identifier, subject.one.name, subject.one.password))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked], timeout=_PATIENCE)
        assert asked.done()
    assert isinstance(await _check(method, subject.other, subject.one.password), Wrong)
    assert await _check(method, subject.one) == Right()
    await method.close()


async def many_at_once_get_their_own_answers(subject: Subject) -> None:
    method = subject.make()
    one, other = subject.one, subject.other
    asked: list[tuple[str | None, str, bytes, bool]] = []
    for _ in range(8):
        asked += [(account.identifier, account.name, account.password, True) for account in (one, other)]
        asked.append((None, "nobody", one.password, False))
    asked.insert(5, (one.identifier, one.name, other.password, False))
    asked.insert(15, (other.identifier, other.name, one.password, False))
    answers = await asyncio.gather(*(_answer(method, account, name, password) for account, name, password, _ in asked))
    for (*_, right), answer in zip(asked, answers, strict=True):
        assert isinstance(answer, Right if right else Wrong), answer
    await method.close()


LAWS: tuple[Law, ...] = (
    the_right_password_is_right,
    another_password_is_wrong,
    the_password_of_another_is_wrong,
    what_is_no_password_is_wrong,
    nobody_has_a_password,
    nothing_that_is_asked_raises,
    what_cannot_be_said_is_neither_right_nor_wrong,
    whoever_is_vouched_for_is_looked_up,
    who_gives_up_harms_nobody,
    many_at_once_get_their_own_answers,
)


async def _check(method: Method, account: Account, password: bytes | None = None) -> Answer:
    right = account.password if password is None else password
    return await _answer(method, account.identifier, account.name, right)


async def _answer(method: Method, account: str | None, name: str, password: bytes) -> Answer:
    return await asyncio.wait_for(method.check(account, name, password, "192.0.2.1"), _PATIENCE)


async def _usable(method: Method, account: str) -> Answer:
    return await asyncio.wait_for(method.usable(account, "192.0.2.1"), _PATIENCE)
