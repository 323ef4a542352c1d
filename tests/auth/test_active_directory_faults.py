"""Domain controllers that are down, slow, false or out of their mind: the service says so in time, and goes on."""

import asyncio
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from auth import directories
from auth.authorities import authority, root_of
from auth.conformance import LAWS, Account, Law, Subject
from auth.directories import Behaviour, Directory, Memory, Server, Trust, after_start_tls, in_memory, in_tls
from winpop.auth.active_directory import ActiveDirectory, DirectoryAccounts, ber
from winpop.auth.active_directory.connection import Unreachable, trust
from winpop.auth.contract import Answer, CannotSay, Right, Wrong
from winpop.terms.names import Address
from winpop.terms.refusals import Kind, Refusal

T = TypeVar("T")
ALICE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
BOB = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
PASSWORD = b"CaNaRy-ad-1"


@pytest.fixture
def trusted(tmp_path: Path) -> Trust:
    return directories.trust(tmp_path)


@pytest.fixture
def memory() -> Memory:
    accounts = {"CN=alice,DC=memory": (ALICE.bytes_le, PASSWORD), "CN=bob,DC=memory": (BOB.bytes_le, b"CaNaRy-ad-2")}
    return Memory(accounts)


@pytest.fixture
def server(memory: Memory, trusted: Trust) -> Iterator[Server]:
    with in_memory(memory, trusted) as running:
        yield running


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    def run_it(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main)

    return run_it


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"ldaps://127.0.0.1:{listener.getsockname()[1]}"


async def asked(settings: Directory, *, times: int = 1, pause: float = 30) -> tuple[list[Answer], float]:
    """Ask for alice; return the answers, and the longest time in which the event loop did nothing else."""
    method = ActiveDirectory(settings, "service", pause)
    longest, last = 0.0, time.monotonic()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    ticking = asyncio.create_task(tick())
    answers = [await method.check(str(ALICE), "alice", PASSWORD) for _ in range(times)]
    ticking.cancel()
    await method.close()
    return answers, longest


def test_a_good_one_is_understood(run: Run, server: Server, trusted: Trust) -> None:
    [answer], _ = run(asked(Directory((server.uri(),), trusted.ca)))
    assert answer == Right()


def test_start_tls_comes_before_the_password(run: Run, memory: Memory, trusted: Trust) -> None:
    # RFC 4511 §4.14: the server of this test knows nothing else before TLS.
    with in_memory(memory, trusted, "ldap") as server:
        [answer], _ = run(asked(Directory((server.uri("ldap"),), trusted.ca)))
    assert answer == Right()


FAULTS: dict[str, Behaviour] = {
    "silent": directories.silent,
    "closes": directories.closes,
    "not LDAP": directories.says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "half": directories.says(b"\x30\x0c\x02\x01\x01\x61\x07\x0a"),
    "no length": directories.says(b"\x30\x80\x02\x01\x01"),
    "too large": directories.says(b"\x30\x84\x7f\xff\xff\xff"),
    "negative": directories.says(b"\x30\x0c\x02\x01\xff\x61\x07\x0a\x01\x00\x04\x00\x04\x00"),
    "out of turn": directories.says(b"\x30\x0c\x02\x01\x63\x61\x07\x0a\x01\x00\x04\x00\x04\x00"),
    "goodbye": directories.says(directories.message(0, ber.element(0x78, b"\x0a\x01\x34\x04\x00\x04\x03bye"))),
    "drips": directories.drips,
    "floods": directories.floods,
    "entries without end": directories.says(directories.message(1, b"\x64\x04\x04\x00\x30\x00") * 5000),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "where", ["before TLS", "instead of StartTLS", "at the service", "at the search", "at the logon"]
)
def test_whatever_it_does_instead_the_answer_comes_in_time(  # noqa: PLR0913, PLR0917 - one table of cases
    run: Run, memory: Memory, trusted: Trust, where: str, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    behaviour = FAULTS[fault]
    memory.faults[where.removeprefix("at the ")] = behaviour
    behave = behaviour if where in ("before TLS", "instead of StartTLS") else in_tls(trusted.context, memory.serve)
    with Server(behave) as server:
        uri = server.uri("ldap" if where == "instead of StartTLS" else "ldaps")
        started = time.monotonic()
        [answer], longest = run(asked(Directory((uri,), trusted.ca)))
        took = time.monotonic() - started
    assert isinstance(answer, CannotSay), answer
    assert uri in answer.why
    assert answer.why.endswith(".")
    assert took < 5
    assert longest < 0.5
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ({"by": "Somebody Else"}, "unable to get local issuer certificate"),
        ({"days": -1, "since": -30}, "certificate has expired"),
        ({"days": 30, "since": 10}, "certificate is not yet valid"),
        ({"names": ("dc1.example.com",)}, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
    ids=["of another authority", "expired", "too early", "of another host"],
)
def test_a_false_certificate_gets_no_password_and_one_sentence_says_why(  # noqa: PLR0913, PLR0917 - one table of cases
    run: Run, memory: Memory, tmp_path: Path, scheme: str, certificate: dict[str, Any], why: str
) -> None:
    # RFC 4513 §3.1.3: the name in the certificate is the one that was asked for.
    names = certificate.pop("names", ())
    trusted = directories.trust(tmp_path, *names, **certificate)
    certificate["names"] = names
    with in_memory(memory, trusted, scheme) as server:
        settings = Directory((server.uri(scheme),), trusted.ca)
        [answer], _ = run(asked(settings))
        reached = DirectoryAccounts(settings, "service").reachable()
    assert isinstance(answer, CannotSay)
    assert why in answer.why
    assert server.uri(scheme) in answer.why
    assert reached == {server.uri(scheme): answer.why}
    assert (memory.service_binds, memory.binds) == (0, [])


def test_the_name_in_the_certificate_is_the_name_in_the_setting(run: Run, memory: Memory, tmp_path: Path) -> None:
    trusted = directories.trust(tmp_path, "localhost")
    with in_memory(memory, trusted) as server:
        uri = server.uri().replace("127.0.0.1", "localhost")
        [answer], _ = run(asked(Directory((uri,), trusted.ca)))
    assert answer == Right()


@pytest.mark.parametrize(("octets", "why"), [(None, "No such file"), (b"", "no certificate"), (b"\xff\0x", "no certi")])
def test_a_file_of_authorities_that_is_none_is_named(tmp_path: Path, octets: bytes | None, why: str) -> None:
    path = tmp_path / "authorities.pem"
    if octets is not None:
        path.write_bytes(octets)
    with pytest.raises(Unreachable, match=why) as caught:
        trust(str(path))
    assert str(path) in str(caught.value)
    settings = Directory((closed_port(),), str(path))
    [answer], _ = asyncio.run(asked(settings))
    assert answer == CannotSay(str(caught.value))
    with pytest.raises(Refusal) as refused:
        DirectoryAccounts(settings, "service").find(Address.parse("alice@example.com"))
    assert (refused.value.code, refused.value.kind) == ("directory-out-of-reach", Kind.OUT_OF_REACH)
    assert refused.value.sentence == str(caught.value)


def test_the_authorities_of_the_system_do_not_know_ours(memory: Memory, trusted: Trust) -> None:
    with in_memory(memory, trusted) as server:
        [answer], _ = asyncio.run(asked(Directory((server.uri(),))))
    assert isinstance(answer, CannotSay)
    assert "issuer" in answer.why


def test_what_is_put_behind_the_answer_to_start_tls_is_not_taken_for_the_servers(
    run: Run, memory: Memory, trusted: Trust
) -> None:
    forged = directories.message(2, b"\x61\x07\x0a\x01\x00\x04\x00\x04\x00")
    with Server(after_start_tls(trusted.context, memory.serve, forged)) as server:
        [answer], _ = run(asked(Directory((server.uri("ldap"),), trusted.ca)))
    assert isinstance(answer, CannotSay)
    assert "in clear" in answer.why
    assert memory.service_binds == 0


def test_a_server_that_does_not_start_tls_gets_no_password(run: Run, memory: Memory, trusted: Trust) -> None:
    seen = []

    def refuse(connection: socket.socket) -> None:
        seen.append(connection.recv(4096))
        connection.sendall(directories.message(1, ber.element(0x78, b"\x0a\x01\x34\x04\x00\x04\x04busy")))
        seen.append(connection.recv(4096))

    with Server(refuse) as server:
        [answer], _ = run(asked(Directory((server.uri("ldap"),), trusted.ca)))
    assert answer == CannotSay(f"The domain controller {server.uri('ldap')} does not start TLS: 52 busy.")
    assert seen[1:] == [b""]
    assert memory.service_binds == 0


def test_old_tls_is_refused(run: Run, memory: Memory, trusted: Trust) -> None:
    trusted.context.set_ciphers("DEFAULT@SECLEVEL=0")
    for end in ("minimum_version", "maximum_version"):
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            setattr(trusted.context, end, ssl.TLSVersion.TLSv1_1)
    with in_memory(memory, trusted) as server:
        [answer], _ = run(asked(Directory((server.uri(),), trusted.ca)))
    assert isinstance(answer, CannotSay)
    assert "version" in answer.why.lower()
    assert memory.service_binds == 0


@pytest.mark.parametrize("first", ["refuses", "silent", "closes", "expired"])
def test_the_next_server_is_asked_and_later_the_first_again(
    run: Run, memory: Memory, trusted: Trust, tmp_path: Path, first: str
) -> None:
    expired = directories.trust(tmp_path / "expired", days=-1, since=-30)
    behaviours = {
        "refuses": directories.closes,
        "silent": directories.silent,
        "closes": directories.closes,
        "expired": in_tls(expired.context, memory.serve),
    }
    bad = Server(behaviours[first])
    if first == "refuses":
        bad.stop()

    async def main(second: Server) -> None:
        settings = Directory((bad.uri(), second.uri()), trusted.ca)
        method = ActiveDirectory(settings, "service", pause=0.5)
        assert await method.check(str(ALICE), "alice", PASSWORD) == Right()
        failed = bad.count
        started = time.monotonic()
        assert await method.check(str(ALICE), "alice", PASSWORD) == Right()
        if time.monotonic() - started < 0.1:  # while it is left alone
            assert bad.count == failed
        bad.stop()
        with Server(in_tls(trusted.context, memory.serve), bad.port) as first_again:
            while not first_again.count:
                assert await method.check(str(ALICE), "alice", PASSWORD) == Right()
                await asyncio.sleep(0.02)
            second.stop()
            assert await method.check(str(ALICE), "alice", PASSWORD) == Right()
        await method.close()

    with bad, in_memory(memory, trusted) as second:
        run(main(second))


def test_all_of_them_are_named_when_none_answers(run: Run, trusted: Trust) -> None:
    dead = closed_port()
    with Server(directories.silent) as silent:
        [answer], _ = run(asked(Directory((dead, silent.uri()), trusted.ca)))
    assert isinstance(answer, CannotSay)
    assert dead in answer.why
    assert silent.uri() in answer.why
    assert answer.why.count(".  ") == 0


def test_no_server_is_a_sentence_too(run: Run) -> None:
    [answer], _ = run(asked(Directory(())))
    assert isinstance(answer, CannotSay)
    assert "ldapservers" in answer.why


def test_a_connection_that_has_died_meanwhile_costs_nobody_his_logon(run: Run, trusted: Trust, server: Server) -> None:
    async def main() -> None:
        method = ActiveDirectory(Directory((server.uri(),), trusted.ca), "service")
        for _ in range(3):
            assert await method.check(str(ALICE), "alice", PASSWORD) == Right()
            server.cut()
        assert server.count == 6
        await method.close()

    run(main())


def test_a_busy_server_is_as_one_that_is_not_there(memory: Memory, trusted: Trust, server: Server) -> None:
    for kind in ("logon", "search", "service"):
        memory.answers = {kind: (51, "busy\r\n-ERR forged")}
        [answer], _ = asyncio.run(asked(Directory((server.uri(),), trusted.ca)))
        assert isinstance(answer, CannotSay)
        assert "51 busy" in answer.why
        assert answer.why.isprintable()


def test_a_service_account_that_is_refused_is_not_tried_until_it_is_locked_out(
    run: Run, memory: Memory, trusted: Trust, server: Server
) -> None:
    memory.service_password = b"another"
    answers, _ = run(asked(Directory((server.uri(),), trusted.ca), times=5))
    assert {type(answer) for answer in answers} == {CannotSay}
    assert memory.service_binds == 1
    assert isinstance(answers[-1], CannotSay)
    assert "winpop set ldapuser NAME /password" in answers[-1].why


def test_no_password_is_never_sent(run: Run, memory: Memory, trusted: Trust, server: Server) -> None:
    """The directory of this test, like real ones, lets everybody in who has none (RFC 4513 §5.1.2)."""

    async def main() -> None:
        method = ActiveDirectory(Directory((server.uri(),), trusted.ca), "service")
        for password in (b"", b"\0", PASSWORD + b"\0", b"x" * 1025):
            assert await method.check(str(ALICE), "alice", password) == Wrong()
            assert await method.check(None, "nobody", password) == Wrong()
        await method.close()

    run(main())
    assert memory.binds == []
    no_service_password = asyncio.run(ActiveDirectory(Directory((server.uri(),), trusted.ca), "").check("", "", b"x"))
    assert isinstance(no_service_password, CannotSay)
    assert memory.service_binds == 0


def test_nobody_costs_what_somebody_costs_and_his_password_goes_nowhere(
    run: Run, memory: Memory, trusted: Trust, server: Server
) -> None:
    async def main() -> None:
        method = ActiveDirectory(Directory((server.uri(),), trusted.ca), "service")
        for account in (None, str(uuid.uuid4())):
            assert await method.check(account, "nobody", PASSWORD) == Wrong("no account")
        await method.close()

    run(main())
    assert len(memory.binds) == 2
    assert PASSWORD not in [password for _, password in memory.binds]


def test_more_logons_than_can_wait_are_told_so_and_the_others_end_in_time(
    run: Run, trusted: Trust, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main(uri: str) -> list[Answer]:
        method = ActiveDirectory(Directory((uri,), trusted.ca), "service")
        answers = await asyncio.gather(*(method.check(str(ALICE), "alice", PASSWORD) for _ in range(1000)))
        await method.close()
        return answers

    with Server(directories.silent) as server:
        started = time.monotonic()
        answers = run(main(server.uri()))
        assert time.monotonic() - started < 5
        assert server.count < 30  # not one for each
    assert {type(answer) for answer in answers} == {CannotSay}
    assert sum("Too many" in answer.why for answer in answers if isinstance(answer, CannotSay)) == 1000 - 256
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_with_a_directory_in_memory_it_keeps(law: Law, run: Run, trusted: Trust, server: Server) -> None:
    settings, dead = Directory((server.uri(),), trusted.ca, ldaptimeout=20), Directory((closed_port(),), trusted.ca)
    subject = Subject(
        lambda: ActiveDirectory(settings, "service"),
        lambda: ActiveDirectory(dead, "service"),
        Account(str(ALICE), "alice", PASSWORD),
        Account(str(BOB), "bob", b"CaNaRy-ad-2"),
        str(uuid.uuid4()),
        knows_accounts=True,
    )
    run(law(subject))


def test_no_password_shows_in_what_python_shows(trusted: Trust) -> None:
    method = ActiveDirectory(Directory(("ldaps://127.0.0.1",), trusted.ca), "CaNaRy-service")
    shown = repr(method) + repr(vars(method)) + repr(DirectoryAccounts(Directory(()), "CaNaRy-service"))
    assert "CaNaRy" not in shown


def test_another_authority_in_the_file_is_taken_without_a_restart(memory: Memory, tmp_path: Path) -> None:
    trusted = directories.trust(tmp_path, by="Somebody Else")
    with in_memory(memory, trusted) as server:
        settings = Directory((server.uri(),), trusted.ca)

        async def main() -> None:
            method = ActiveDirectory(settings, "service", pause=0)
            assert isinstance(await method.check(str(ALICE), "alice", PASSWORD), CannotSay)
            await asyncio.to_thread(Path(trusted.ca).write_text, root_of(authority("Somebody Else")))
            assert await method.check(str(ALICE), "alice", PASSWORD) == Right()
            await method.close()

        asyncio.run(main())


def test_a_state_that_the_service_account_may_not_see_is_not_taken_for_a_good_one(
    run: Run, memory: Memory, trusted: Trust, server: Server
) -> None:
    async def usable() -> Answer:
        method = ActiveDirectory(Directory((server.uri(),), trusted.ca), "service")
        answer = await method.usable(str(ALICE))
        await method.close()
        return answer

    assert run(usable()) == Right()
    memory.state |= {"userAccountControl": b"514"}
    assert run(usable()) == Wrong("disabled")
    for hidden in list(memory.state):
        kept, memory.state = memory.state, {name: value for name, value in memory.state.items() if name != hidden}
        answer = run(usable())
        assert isinstance(answer, CannotSay)
        assert hidden in answer.why
        memory.state = kept


def test_who_cannot_be_looked_for_is_not_nobody(run: Run, memory: Memory, trusted: Trust, server: Server) -> None:
    async def find() -> str | CannotSay | None:
        method = ActiveDirectory(Directory((server.uri(),), trusted.ca), "service")
        found = await method.find("nobody")
        await method.close()
        return found

    assert run(find()) is None
    memory.answers = {"search": (51, "busy")}
    assert isinstance(run(find()), CannotSay)


@pytest.mark.parametrize(("user", "password"), [("", "service"), ("CN=service,DC=memory", "")])
def test_without_a_service_account_the_command_that_sets_it_is_named(
    run: Run, trusted: Trust, server: Server, user: str, password: str
) -> None:
    async def main() -> Answer:
        return await ActiveDirectory(Directory((server.uri(),), trusted.ca, ldapuser=user), password).usable(str(ALICE))

    answer = run(main())
    assert isinstance(answer, CannotSay)
    assert "winpop set ldapuser NAME /password" in answer.why


@pytest.mark.parametrize("password", ["caf\udce9", "\ud800"])
def test_a_service_password_that_is_not_utf_8_is_sent_as_it_is(
    run: Run, memory: Memory, trusted: Trust, server: Server, password: str
) -> None:
    async def main() -> Answer:
        method = ActiveDirectory(Directory((server.uri(),), trusted.ca), password)
        answer = await method.usable(str(ALICE))
        await method.close()
        return answer

    assert isinstance(run(main()), CannotSay)
    memory.service_password = b"caf\xe9" if password != "\ud800" else b"\xed\xa0\x80"
    assert run(main()) == Right()
