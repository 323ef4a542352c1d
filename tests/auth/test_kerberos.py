"""GSSAPI with real tickets of a real domain; the client's side is libkrb5's own (RFC 4752 §3.2 and §3.3)."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from auth.contexts import run, settings
from winpop.auth.contexts import Context, _Bounded, supported
from winpop.protocol.sasl.moves import Continue, Malformed, Proved, Unavailable
from winpop.terms.credentials import Established, Failed

if TYPE_CHECKING:
    from real.directory import Domain  # pytest imports it as a plugin

try:
    import gssapi
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("install libkrb5-dev and gcc, then: pip install gssapi", allow_module_level=True)

pytest_plugins = ["real.directory"]

MAIL = "pop@mail.winpop.test"
MUTUAL = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity


@dataclass
class Realm:
    """The domain as this process sees it, and heidi's tickets. The keytab `both` also has the keys of `other`."""

    name: str
    directory: Path
    keytab: str
    both: str
    other: str
    other_keytab: str

    def client(self, service: str = MAIL, flags: int = MUTUAL) -> Any:  # noqa: ANN401 - typed too loosely to help
        return gssapi.SecurityContext(
            name=gssapi.Name(service, gssapi.NameType.hostbased_service),
            creds=gssapi.Credentials(usage="initiate", store={"ccache": f"FILE:{self.directory}/tickets"}),
            usage="initiate",
            mech=gssapi.MechType.kerberos,
            flags=flags,
        )

    @property
    def heidi(self) -> str:
        return f"heidi@{self.name}"


@pytest.fixture(scope="module")
def made(domain: "Domain", tmp_path_factory: pytest.TempPathFactory) -> Realm:
    directory = tmp_path_factory.mktemp("kerberos")
    host = domain.make_user() + ".winpop.test"
    domain.modify(domain.dn(host.removesuffix(".winpop.test")), servicePrincipalName=f"http/{host}")
    keytab, both, other = (str(directory / name) for name in ("pop.keytab", "both.keytab", "http.keytab"))
    for file, service in (
        (keytab, "pop/mail.winpop.test"),
        (both, "pop/mail.winpop.test"),
        (both, f"http/{host}"),
        (other, f"http/{host}"),
    ):
        domain.script("tool", "domain", "exportkeytab", file, f"--principal={service}")
    heidi = f"heidi@{domain.realm}"
    variables = os.environ | {"KRB5_CONFIG": str(domain.krb5_conf)}
    command = ["kinit", "-c", f"FILE:{directory}/tickets", heidi]
    subprocess.run(command, input="Passw0rd!heidi\n", text=True, env=variables, check=True, capture_output=True)
    return Realm(domain.realm, directory, keytab, both, f"http@{host}", other)


@pytest.fixture
def realm(made: Realm, domain: "Domain", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Realm:
    """The domain, and what is remembered of tickets in a place of the test's own."""
    monkeypatch.setenv("KRB5_CONFIG", str(domain.krb5_conf))
    monkeypatch.setenv("KRB5RCACHENAME", f"file2:{tmp_path}/seen")
    return made


async def offered(realm: Realm, context: Context) -> tuple[Any, bytes]:
    """Go on until the server has offered its layers; return the client, and the offer in its wrapping."""
    client = realm.client()
    said = await context.step(client.step())
    assert isinstance(said, Continue)
    assert client.step(said.token) is None
    assert client.complete
    said = await context.step(b"")
    assert isinstance(said, Continue)
    return client, said.token


async def answered(realm: Realm, context: Context, answer: bytes) -> object:
    """Answer the offer with this."""
    client, _ = await offered(realm, context)
    return await context.step(client.wrap(answer, False).message)


@pytest.mark.parametrize("name", ["", "heidi@example.com", "jürgen@example.com"])
def test_a_ticket_proves_who_the_client_is(name: str, realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        client, offer = await offered(realm, context)
        unwrapped = client.unwrap(offer)
        assert unwrapped.message == b"\x01\x00\x00\x00"  # no security layer, and so no octets
        assert not unwrapped.encrypted
        said = await context.step(client.wrap(b"\x01\x00\x00\x00" + name.encode(), False).message)
        assert said == Proved(Established("GSSAPI", realm.heidi, name))
        assert context.why == ""
        assert await context.step(b"") == Malformed()

    run(test, "GSSAPI", keytab=realm.keytab)


def test_a_client_that_does_not_ask_who_the_server_is_gets_the_offer_at_once(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context, client = begin(), realm.client(flags=gssapi.RequirementFlag.integrity)
        said = await context.step(client.step())
        assert isinstance(said, Continue)
        assert client.unwrap(said.token).message == b"\x01\x00\x00\x00"
        said = await context.step(client.wrap(b"\x01\xff\xff\xff", False).message)
        assert said == Proved(Established("GSSAPI", realm.heidi))

    run(test, "GSSAPI", keytab=realm.keytab)


def test_many_at_once(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        said = await asyncio.gather(*(answered(realm, begin(), b"\x01\x00\x00\x00") for _ in range(30)))
        assert said == [Proved(Established("GSSAPI", realm.heidi))] * 30

    run(test, "GSSAPI", keytab=realm.keytab)


def test_what_was_heard_on_the_way_does_not_work_again(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        token = realm.client().step()
        assert isinstance(await begin().step(token), Continue)
        context = begin()
        assert await context.step(token) == Proved(Failed(""))
        assert context.why == "ticket: Request is a replay"

    run(test, "GSSAPI", keytab=realm.keytab)


def test_a_ticket_for_another_service_is_refused_also_when_its_key_is_there(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await context.step(realm.client(realm.other).step()) == Proved(Failed(""))
        assert "does not match" in context.why

    run(test, "GSSAPI", keytab=realm.both)


def test_a_ticket_under_a_key_that_the_keytab_lacks_is_refused(realm: Realm, domain: "Domain") -> None:
    host = domain.make_user()
    domain.modify(domain.dn(host), servicePrincipalName=f"pop/{host}.winpop.test")

    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await context.step(realm.client(f"pop@{host}.winpop.test").step()) == Proved(Failed(""))
        assert context.why.startswith("ticket: ")

    run(test, "GSSAPI", keytab=realm.both)


def test_a_ticket_of_another_time_is_refused(
    realm: Realm, domain: "Domain", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        token = realm.client().step()
        made = time.time()
        strict = tmp_path / "krb5.conf"
        strict.write_text(domain.krb5_conf.read_text().replace("[libdefaults]", "[libdefaults]\n  clockskew = 1"))
        monkeypatch.setenv("KRB5_CONFIG", str(strict))
        await asyncio.sleep(max(0, made + 3 - time.time()))  # nothing else makes it old
        context = begin()
        assert await context.step(token) == Proved(Failed(""))
        assert context.why == "ticket: Clock skew too great"

    run(test, "GSSAPI", keytab=realm.keytab)


def test_garbage_is_no_token(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        spnego = bytes.fromhex("600a06062b0601050502a000")
        for token in (b"", b"\0", b"garbage" * 99, b"NTLMSSP\0\1\0\0\0", spnego, bytes.fromhex("6084ffffffff")):
            assert await begin().step(token) == Malformed(), token

    run(test, "GSSAPI", keytab=realm.keytab)


def test_a_token_that_was_cut_or_touched_lets_nobody_in(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        token = realm.client().step()
        bad = [token[: len(token) * part // 10] for part in range(10)]
        bad += [token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :] for at in range(len(token) // 2, len(token), 37)]
        for touched in bad:
            assert await begin().step(touched) in (Malformed(), Proved(Failed(""))), touched
        assert isinstance(await begin().step(token), Continue)

    run(test, "GSSAPI", keytab=realm.keytab)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x01",
        b"\x01\x00\x00",
        b"\x00\x00\x00\x00",
        b"\x02\x00\x10\x00",  # integrity: it was not offered
        b"\x04\x00\x10\x00alice",
        b"\x03\x00\x10\x00",
        b"\x01\x00\x00\x00\xff",
        b"\x01\x00\x00\x00alice\x00",
    ],
)
def test_an_answer_to_the_offer_that_is_not_of_its_form(answer: bytes, realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        assert await answered(realm, begin(), answer) == Malformed()

    run(test, "GSSAPI", keytab=realm.keytab)


def test_an_answer_that_was_touched_is_refused(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        client, _ = await offered(realm, context)
        token = bytearray(client.wrap(b"\x01\x00\x00\x00heidi", False).message)
        token[-1] ^= 1
        assert await context.step(bytes(token)) == Proved(Failed(realm.heidi))
        for junk in (b"", b"junk"):
            context = begin()
            await offered(realm, context)
            assert await context.step(junk) == Malformed()
        context = begin()
        _, offer = await offered(realm, context)
        assert await context.step(offer) == Proved(Failed(realm.heidi))  # the server's own, sent back

    run(test, "GSSAPI", keytab=realm.keytab)


def test_before_the_offer_the_client_has_nothing_to_say(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert isinstance(await context.step(realm.client().step()), Continue)
        assert await context.step(b"x") == Malformed()

    run(test, "GSSAPI", keytab=realm.keytab)


class Endless:
    """A mechanism that never comes to an end."""

    why = ""

    async def step(self, token: bytes) -> Continue:
        return Continue(token)

    async def close(self) -> None:
        pass


def test_a_context_has_its_bounds(realm: Realm) -> None:
    async def test(begin: Callable[[], Context]) -> None:
        endless = _Bounded(Endless())
        assert [await endless.step(b"x") for _ in range(13)] == [Continue(b"x")] * 12 + [Malformed()]
        large = _Bounded(Endless())
        assert [await large.step(b"x" * 40_000) for _ in range(2)] == [Continue(b"x" * 40_000), Malformed()]
        assert await large.step(b"") == Malformed()
        assert await begin().step(b"x" * 4_000_000) == Malformed()
        context = begin()
        await context.close()
        assert await context.step(realm.client().step()) == Malformed()

    run(test, "GSSAPI", keytab=realm.keytab)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "cannot be read: No such file or directory."),
        (".", "cannot be read: it is not a file."),
        ("a\nb", "cannot be read: No such file or directory."),
        ("junk", "holds no key of the service pop: Unsupported key table format version number."),
        ("http", "holds no key of the service pop: No key table entry found matching pop/@."),
    ],
)
def test_a_keytab_that_is_no_good_is_no_answer_about_the_client(
    name: str, sentence: str, realm: Realm, tmp_path: Path
) -> None:
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "http").write_bytes(Path(realm.other_keytab).read_bytes())

    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await context.step(realm.client().step()) == Unavailable()
        assert context.why.endswith(sentence)
        assert context.why.isprintable()

    run(test, "GSSAPI", keytab=str(tmp_path / name))


@pytest.mark.parametrize("place", ["/nonexistent/seen", "/dev/full"])
def test_where_nothing_can_be_remembered_no_ticket_is_taken(
    place: str, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRB5RCACHENAME", f"file2:{place}")

    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await context.step(realm.client().step()) == Unavailable()
        assert context.why.startswith("A ticket cannot be checked: ")

    run(test, "GSSAPI", keytab=realm.keytab)


def test_a_file_system_that_hangs_holds_neither_the_loop_nor_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr("winpop.auth.kerberos._LIMIT", 0.5)
    monkeypatch.setattr("winpop.auth.kerberos.Kerberos._step", lambda *_: ended.wait())

    async def test(begin: Callable[[], Context]) -> None:
        loop = asyncio.get_running_loop()
        contexts = [begin() for _ in range(100)]
        began = loop.time()
        steps = [asyncio.create_task(context.step(b"x")) for context in contexts]
        await asyncio.wait(steps, timeout=0.1)
        assert sum(step.done() for step in steps) == 36  # there is room for 64
        assert [await step for step in steps] == [Unavailable()] * 100
        assert {context.why for context in contexts} == {"Kerberos did not answer in time."}
        assert loop.time() - began < 5
        ended.set()

    run(test, "GSSAPI")


def test_without_gssapi_it_is_not_offered_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supported(settings(keytab="/etc/winpop.keytab")) == {"GSSAPI"}
    assert supported(settings()) == frozenset()
    monkeypatch.setitem(sys.modules, "gssapi", None)
    assert supported(settings(keytab="/etc/winpop.keytab")) == frozenset()

    async def test(begin: Callable[[], Context]) -> None:
        context = begin()
        assert await context.step(b"x") == Unavailable()
        assert "winpop[kerberos]" in context.why

    run(test, "GSSAPI", keytab="/etc/winpop.keytab")
