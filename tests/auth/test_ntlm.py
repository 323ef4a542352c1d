"""NTLM against a real domain, with pyspnego as the client; and messages that are none."""

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.contexts import run, settings
from auth.ntlm_parts import ALICE, CHALLENGE, NEGOTIATE, Fake, as_user, authenticate
from winpop.auth.contexts import Context, supported
from winpop.auth.ntlm import _claimed
from winpop.protocol.sasl.moves import Continue, Malformed, Proved, Unavailable
from winpop.terms.credentials import Established, Failed

if TYPE_CHECKING:
    from real.directory import Domain  # pytest imports it as a plugin

pytest_plugins = ["real.directory"]

# The real domain.


@pytest.fixture
def helper(domain: "Domain") -> str:
    """The setting `ntlmhelper` for the domain."""
    command = ("ntlm_auth", f"--configfile={domain.conf}", "--helper-protocol=squid-2.5-ntlmssp")
    return shlex.join(domain.inside(*command))


async def logged_on(context: Context, name: str, password: str) -> object:
    """Log on as a client does that we did not write; return what is said in the end."""
    import spnego

    options = spnego.NegotiateOptions.use_ntlm
    client = spnego.client(name, password, "mail.winpop.test", "pop", protocol="ntlm", options=options)
    token = client.step()
    assert token is not None
    said = await context.step(token)
    assert isinstance(said, Continue)
    token = client.step(said.token)
    assert token is not None
    return await context.step(token)


@pytest.mark.parametrize(
    ("name", "password", "principal"),
    [
        ("WINPOP\\alice", "Passw0rd!alice", "WINPOP\\alice"),
        ("winpop\\ALICE", "Passw0rd!alice", "WINPOP\\alice"),
        ("alice", "Passw0rd!alice", "WINPOP\\alice"),
        ("robert@mail.test", "Passw0rd!bob", "WINPOP\\bob"),
        ("WINPOP\\jürgen", "Passw0rd!jürgen", "WINPOP\\jürgen"),
    ],
)
def test_a_right_password_says_who_that_is(name: str, password: str, principal: str, helper: str) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        said = await logged_on(context, name, password)
        assert isinstance(said, Proved)
        assert isinstance(said.credentials, Established)
        assert said.credentials.principal.lower() == principal.lower()
        assert (said.credentials.mechanism, said.credentials.name, context.why) == ("NTLM", "", "")
        assert await context.step(ALICE) == Malformed()

    run(test, "NTLM", ntlmhelper=helper)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("carol", "disabled"),
        ("erin", "password expired"),
        ("frank", "must change password"),
        ("gina", "expired"),
        ("nobody", "password"),
    ],
)
def test_an_account_that_may_not_log_on_is_refused_and_the_log_knows_why(name: str, why: str, helper: str) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await logged_on(context, f"WINPOP\\{name}", f"Passw0rd!{name}") == Proved(Failed(f"WINPOP\\{name}"))
        assert context.why == why

    run(test, "NTLM", ntlmhelper=helper)


def test_a_wrong_password_is_refused_and_after_three_the_right_one_too(domain: "Domain", helper: str) -> None:
    name = domain.make_user()

    async def test(begin: Callable[[], Context]) -> None:
        for password, why in (("wrong", "password"),) * 3 + ((f"Passw0rd!{name}", "locked out"),):
            context = begin()
            assert await logged_on(context, f"WINPOP\\{name}", password) == Proved(Failed(f"WINPOP\\{name}"))
            assert context.why == why

    run(test, "NTLM", ntlmhelper=helper)


def test_many_at_once_each_get_their_own_answer(helper: str) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        people = ["alice", "heidi", "carol", "jürgen"] * 6
        said = await asyncio.gather(*(logged_on(begin(), f"WINPOP\\{who}", f"Passw0rd!{who}") for who in people))
        expected = [
            Failed("WINPOP\\carol") if who == "carol" else Established("NTLM", f"WINPOP\\{who}") for who in people
        ]
        assert said == [Proved(credentials) for credentials in expected]

    run(test, "NTLM", ntlmhelper=helper)


def test_after_every_nonsense_the_real_helper_goes_on(helper: str) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        for nonsense in (authenticate(b"a"), ALICE[:70] + b"\xff" * 10 + ALICE[80:], authenticate(b"", b"", b"")):
            context = begin()
            assert isinstance(await context.step(NEGOTIATE), Continue)
            said = await context.step(nonsense)
            assert isinstance(said, Malformed | Unavailable) or isinstance(getattr(said, "credentials", None), Failed)
            assert isinstance(await logged_on(begin(), "WINPOP\\alice", "Passw0rd!alice"), Proved)

    run(test, "NTLM", ntlmhelper=helper)


# What clients say.


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


@pytest.mark.parametrize("token", [b"", b"NTLMSSP\0", b"NTLMSSP\0\3\0\0\0", CHALLENGE, ALICE, b"x" * 5000, b"\n\n"])
def test_a_first_message_that_is_none(token: bytes, fake: Fake) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        assert await begin().step(token) == Malformed()

    run(test, "NTLM", ntlmhelper=fake.command())
    assert fake.processes() == []


@pytest.mark.parametrize(
    "token", [b"", NEGOTIATE, CHALLENGE, ALICE[:63], ALICE[:-1], ALICE[:20] + b"\xff" * 8 + ALICE[28:]]
)
def test_a_last_message_that_is_none(token: bytes, fake: Fake) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert isinstance(await context.step(NEGOTIATE), Continue)
        assert await context.step(token) == Malformed()

    run(test, "NTLM", ntlmhelper=fake.command())


@pytest.mark.parametrize("token", [authenticate(b""), authenticate(b"a\0", response=b"")])
def test_nobody_is_refused_whatever_the_helper_would_say(token: bytes, fake: Fake) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert isinstance(await context.step(NEGOTIATE), Continue)
        assert await context.step(token) == Proved(Failed(""))
        assert context.why == "nobody"

    run(test, "NTLM", ntlmhelper=fake.command())


@given(st.binary(max_size=200), st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 2**32 - 1))
def test_no_last_message_makes_it_raise(tail: bytes, user: bytes, domain: bytes, flags: int) -> None:
    for token in (authenticate(user, domain, flags=flags), b"NTLMSSP\0\3\0\0\0" + tail, tail):
        claimed = _claimed(token)
        assert claimed is None or len(claimed) <= 256
    assert _claimed(authenticate(b"bob", b"DOM", flags=0)) == "DOM\\bob"
    assert _claimed(as_user("bob")) == "WINPOP\\bob"


def test_it_is_offered_where_it_was_asked_for_and_only_with_the_directory() -> None:
    assert supported(settings(ntlm="1")) == {"NTLM"}
    assert supported(settings(ntlm="1", auth="3")) == frozenset()
    assert supported(settings(ntlm="0")) == frozenset()
