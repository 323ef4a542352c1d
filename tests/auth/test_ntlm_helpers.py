"""The processes that verify NTLM: how they are lent, and what happens when they are out of order."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from auth.contexts import run, settings
from auth.ntlm_parts import ALICE, NEGOTIATE, Fake, as_user, both
from winpop.auth.contexts import Context, Contexts
from winpop.auth.ntlm import Ntlm
from winpop.auth.ntlm_helpers import HelperError, Helpers
from winpop.protocol.sasl.moves import Continue, Malformed, Proved, Unavailable
from winpop.terms.credentials import Established, Failed


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def test_one_process_serves_one_logon_after_the_other_and_ends_with_the_service(fake: Fake) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        for _ in range(5):
            assert await both(begin()) == Proved(Established("NTLM", "WINPOP\\alice"))
        abandoned = begin()
        assert isinstance(await abandoned.step(NEGOTIATE), Continue)
        await abandoned.close()
        await abandoned.close()
        assert await both(begin()) == Proved(Established("NTLM", "WINPOP\\alice"))
        assert len(fake.alive()) == 1

    run(test, "NTLM", ntlmhelper=fake.command())
    assert len(fake.processes()) == 1
    assert fake.alive() == []


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("dies at YR", "The NTLM helper ended."),
        ("dies at KK", "The NTLM helper ended."),
        ("hangs at YR", "The NTLM helper did not answer within 1 s."),
        ("hangs at KK", "The NTLM helper did not answer within 1 s."),
        ("at YR nonsense", "The NTLM helper answered nonsense."),
        ("at YR ", "The NTLM helper answered nonsense."),
        ("at YR TT", "The NTLM helper said TT."),
        ("at YR TT !!!!", "The NTLM helper said TT."),
        ("at YR TT AAAA", "The NTLM helper said TT."),
        ("at YR AF WINPOP\\alice", "The NTLM helper said AF WINPOP\\alice."),
        ("at YR BH no winbind", "The NTLM helper said BH no winbind."),
        ("talks at YR", "The NTLM helper answered nonsense."),
        ("stammers at YR", "The NTLM helper answered nonsense."),
        ("at KK TT AAAA", "The NTLM helper said TT."),
        ("at KK AF", "The NTLM helper said AF."),
        ("at KK AF alice", "The NTLM helper said AF alice."),
        ("at KK AF \\alice", "The NTLM helper said AF \\alice."),
        ("at KK AF WINPOP\\", "The NTLM helper said AF WINPOP\\."),
        ("at KK BH", "The NTLM helper said BH."),
        ("at KK NA NT_STATUS_NO_LOGON_SERVERS", "The NTLM helper said NA NT_STATUS_NO_LOGON_SERVERS."),
        ("at KK NA NT_STATUS_ACCESS_DENIED", "The NTLM helper said NA NT_STATUS_ACCESS_DENIED."),
    ],
)
def test_a_helper_that_is_out_of_order_is_no_answer_about_the_client_and_is_replaced(
    mode: str, why: str, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("winpop.auth.ntlm_helpers._LIMIT", 1)

    async def test() -> None:
        contexts = Contexts()
        for times in (1, 2):
            context = contexts.begin("NTLM", settings(ntlmhelper=fake.command(mode)))
            assert await both(context) == Unavailable()
            assert context.why == why
            assert len(fake.processes()) == times
        assert await both(contexts.begin("NTLM", settings(ntlmhelper=fake.command()))) == Proved(
            Established("NTLM", "WINPOP\\alice")
        )
        await contexts.close()

    asyncio.run(test())
    assert fake.alive() == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("NT_STATUS_LOGON_FAILURE", "password"),
        ("NT_STATUS_NO_SUCH_USER", "no account"),
        ("NT_STATUS_ACCOUNT_LOCKED_OUT", "locked out"),
        ("NT_STATUS_INVALID_LOGON_HOURS", "not at this hour"),
    ],
)
def test_a_reason_that_speaks_of_the_account_refuses(said: str, why: str, fake: Fake) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await both(context) == Proved(Failed("WINPOP\\alice"))
        assert context.why == why

    run(test, "NTLM", ntlmhelper=fake.command(f"at KK NA {said}"))


def test_what_the_helper_calls_nonsense_is_the_client_s(fake: Fake) -> None:
    for word in ("YR", "KK"):

        async def test(begin: Callable[[], Context]) -> None:
            assert await both(begin()) == Malformed()
            assert await both(begin()) == Malformed()

        run(test, "NTLM", ntlmhelper=fake.command(f"at {word} NA NT_STATUS_INVALID_PARAMETER"))
    assert len(fake.processes()) == 2  # it need not be replaced for that


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/nonexistent/ntlm_auth --x", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("ntlm_auth 'x", "it is not a command"),
        ("", "it is not a command"),
    ],
)
def test_a_helper_that_cannot_be_started_is_told(command: str, reason: str) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await context.step(NEGOTIATE) == Unavailable()
        assert context.why == f"The NTLM helper '{command}' cannot be started: {reason}."

    run(test, "NTLM", ntlmhelper=command)


def test_a_helper_that_was_killed_while_it_was_free_is_replaced(fake: Fake) -> None:
    async def test() -> None:
        helpers = Helpers(fake.command())
        assert isinstance(await both(Ntlm(helpers)), Proved)
        [process] = helpers._free
        process.kill()
        await process.wait()
        assert isinstance(await both(Ntlm(helpers)), Proved)
        assert len(fake.processes()) == 2
        await helpers.close()

    asyncio.run(test())


@pytest.mark.parametrize("ending", ["closed", "cancelled"])
@pytest.mark.parametrize("word", ["YR", "KK"])
def test_a_logon_that_ends_in_the_middle_leaves_no_answer_behind_for_the_next(
    word: str, ending: str, fake: Fake
) -> None:
    async def test() -> None:
        helpers = Helpers(fake.command(f"waits at {word}"), most=1)
        context = Ntlm(helpers)
        if word == "KK":
            assert isinstance(await context.step(NEGOTIATE), Continue)
        step = asyncio.create_task(context.step(ALICE if word == "KK" else NEGOTIATE))
        await asyncio.to_thread(fake.wait_until_asked)
        if ending == "closed":
            await context.close()
            assert await step == Unavailable()
        else:
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        fake.go_on()
        other = Ntlm(helpers)
        assert isinstance(await other.step(NEGOTIATE), Continue)
        assert await other.step(as_user("bob")) == Proved(Established("NTLM", "WINPOP\\bob"))
        assert len(fake.processes()) == 2
        await helpers.close()

    asyncio.run(test())


def test_a_client_that_does_not_answer_keeps_a_helper_only_until_another_needs_it(fake: Fake) -> None:
    async def test() -> None:
        helpers = Helpers(fake.command(), most=2)
        slow = [Ntlm(helpers) for _ in range(2)]
        for context in slow:
            assert isinstance(await context.step(NEGOTIATE), Continue)
        began = asyncio.get_running_loop().time()
        others = [Ntlm(helpers) for _ in range(10)]
        assert await asyncio.gather(*map(both, others)) == [Proved(Established("NTLM", "WINPOP\\alice"))] * 10
        assert 0.9 < asyncio.get_running_loop().time() - began < 5
        said = [await context.step(ALICE) for context in slow]
        assert Unavailable() in said
        assert "the client took so long" in " ".join(context.why.lower() for context in slow)
        late = [Ntlm(helpers) for _ in range(2)]
        for context in late:
            assert isinstance(await context.step(NEGOTIATE), Continue)
        await asyncio.sleep(1.1)  # nobody else wants them: lateness alone costs nothing
        assert [await context.step(ALICE) for context in late] == [Proved(Established("NTLM", "WINPOP\\alice"))] * 2
        assert len(fake.processes()) == 2
        await helpers.close()

    asyncio.run(test())


def test_more_than_64_do_not_wait(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("winpop.auth.ntlm_helpers._LIMIT", 0.5)

    async def test() -> None:
        helpers = Helpers(fake.command("hangs at YR"), most=1)
        said = await asyncio.gather(*(_why(Ntlm(helpers)) for _ in range(100)))
        assert said.count("Too many NTLM logons wait for a helper.") >= 35
        assert "No NTLM helper was free within 0 s." in said
        await helpers.close()
        with pytest.raises(HelperError):
            await helpers.lend()

    asyncio.run(test())


async def _why(context: Ntlm) -> str:
    assert await context.step(NEGOTIATE) == Unavailable()
    return context.why
