"""Where the keys of an issuer of tokens come from: a real HTTPS server on loopback, and files (RFC 7517 §5)."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme

from auth.issuer import (
    ALICE,
    AUTHORITY,
    ISSUER,
    OTHER_RSA,
    RSA,
    Bench,
    Issuer,
    answer,
    claims,
    dripping,
    jwk,
    raw,
    redirect,
    signed,
    write,
)
from winpop.auth.contract import CannotSay, Wrong


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the key k1, RSA."""
    path = tmp_path / "keys.json"
    write(path, jwk(RSA, "RS256"))
    return path


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that is found by discovery and has that key."""
    with Issuer(AUTHORITY) as running:
        running.publish(jwk(RSA, "RS256"))
        yield running


def test_the_keys_are_found_at_the_issuer_and_fetched_once(issuer: Issuer) -> None:
    async def test() -> None:
        bench = Bench(issuer.url)
        token = signed(RSA, "RS256", claims(issuer.url))
        assert [await bench.check(token) for _ in range(3)] == [ALICE] * 3
        assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
        bench.clock.now += 599
        await bench.check(token)
        assert len(issuer.asked) == 2
        bench.clock.now += 1
        assert await bench.check(token) == ALICE
        assert len(issuer.asked) == 4

    run(test)


def test_logons_at_the_same_time_share_one_fetch(issuer: Issuer) -> None:
    async def test() -> None:
        bench = Bench(issuer.url, f"{issuer.url}/keys")
        token = signed(RSA, "RS256", claims(issuer.url))
        assert await asyncio.gather(*(bench.check(token) for _ in range(20))) == [ALICE] * 20
        assert issuer.asked == ["/keys"]

    run(test)


def test_a_logon_that_ends_does_not_end_the_fetch_of_others(issuer: Issuer) -> None:
    async def test() -> None:
        bench = Bench(issuer.url)
        token = signed(RSA, "RS256", claims(issuer.url))
        first = asyncio.create_task(bench.check(token))
        second = asyncio.create_task(bench.check(token))
        await asyncio.to_thread(issuer.was_asked.wait, 10)
        first.cancel()
        assert await second == ALICE
        assert first.cancelled()

    run(test)


def test_new_keys_are_fetched_when_a_token_names_one_and_at_most_once_a_minute(issuer: Issuer) -> None:
    async def test() -> None:
        bench = Bench(issuer.url, f"{issuer.url}/keys")
        old, new = (signed(key, "RS256", claims(issuer.url), kid) for key, kid in ((RSA, "k1"), (OTHER_RSA, "k2")))
        unknown = Wrong("token signed with a key that the issuer does not have")
        assert await bench.check(old) == ALICE
        issuer.publish(jwk(OTHER_RSA, "RS256", "k2"))
        bench.clock.now += 59
        assert await bench.check(new) == unknown
        bench.clock.now += 1
        assert await bench.check(new) == ALICE
        assert await bench.check(old) == unknown  # it is no key of the issuer's any more
        assert len(issuer.asked) == 2
        for _ in range(50):  # names that somebody makes up
            assert await bench.check(signed(OTHER_RSA, "RS256", claims(issuer.url), "no")) == unknown
        assert len(issuer.asked) == 2

    run(test)


def test_old_keys_go_on_for_a_day_when_the_issuer_is_gone(issuer: Issuer) -> None:
    async def test() -> None:
        bench = Bench(issuer.url)
        token = signed(RSA, "RS256", claims(issuer.url))
        assert await bench.check(token) == ALICE
        issuer.pages.clear()
        for _ in range(3):
            bench.clock.now += 20_000
            assert await bench.check(token) == ALICE
        assert len(bench.lines) == 1
        assert "answers with the status 404" in bench.lines[0]
        new = await bench.check(signed(OTHER_RSA, "RS256", claims(issuer.url), "k2"))
        assert isinstance(new, CannotSay)  # it may be a new key of the issuer's
        bench.clock.now += 26_401
        gone = await bench.check(token)
        assert isinstance(gone, CannotSay)
        assert gone.why.endswith("/.well-known/openid-configuration answers with the status 404.")
        issuer.publish(jwk(RSA, "RS256"))
        bench.clock.now += 60
        assert await bench.check(token) == ALICE
        assert 'state="there again"' in bench.lines[-1]

    run(test)


BAD_PAGES: dict[str, tuple[Callable[[Issuer], object], str]] = {
    "nothing there": (lambda _: None, "answers with the status 404"),
    "a redirect to http": (lambda i: redirect(i.url.replace("https", "http")), "sends us elsewhere"),
    "a redirect to another page": (lambda i: redirect(f"{i.url}/keys2"), "sends us elsewhere"),
    "no JSON": (lambda _: b"<html>", "is not JSON"),
    "nested without end": (lambda _: b"[" * 100_000, "is not JSON"),
    "no JWK set": (lambda _: {"keys": 5}, "is not a JWK set"),
    "a list": (lambda _: [], "is not a JWK set"),
    "more than a mebibyte": (lambda _: {"keys": ["x" * (1 << 20)]}, "it has more than 1048576 octets"),
    "no HTTP": (lambda _: raw(b"\x00\x01\x02\r\n\r\n"), "cannot be fetched"),
    "an empty answer": (lambda _: raw(b""), "cannot be fetched"),
    "less than it said": (lambda _: raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"), "cannot be fetched"),
    "headers without end": (lambda _: raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000), "cannot be fetched"),
}


@pytest.mark.parametrize("page", BAD_PAGES)
def test_an_issuer_that_answers_nonsense_is_out_of_reach(page: str, issuer: Issuer) -> None:
    make, sentence = BAD_PAGES[page]

    async def test() -> None:
        issuer.pages["/keys2"] = issuer.pages["/keys"]
        issuer.pages["/keys"] = make(issuer)
        bench = Bench(issuer.url, f"{issuer.url}/keys")
        token = signed(RSA, "RS256", claims(issuer.url))
        said = await bench.check(token)
        assert isinstance(said, CannotSay)
        assert sentence in said.why
        assert said.why.count(". ") == 0
        assert issuer.asked == ["/keys"]
        assert await bench.check(token) == said  # it is not asked again at once
        assert issuer.asked == ["/keys"]
        issuer.publish(jwk(RSA, "RS256"))
        bench.clock.now += 5
        assert await bench.check(token) == ALICE

    run(test)


def test_answers_in_pieces_without_a_length_and_without_a_farewell_are_read(issuer: Issuer) -> None:
    document = json.dumps({"keys": [jwk(RSA, "RS256")]}).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (document[:7], document[7:])) + b"0\r\n\r\n"
    for answered in (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
        b"HTTP/1.0 200 OK\r\n\r\n" + document,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + document,
    ):
        issuer.pages["/keys"] = raw(answered)
        bench = Bench(issuer.url, f"{issuer.url}/keys")
        assert asyncio.run(bench.check(signed(RSA, "RS256", claims(issuer.url)))) == ALICE


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"issuer": "https://other.example.com"}, "is not the document of the issuer"),
        ({}, "is not the document of the issuer"),
        ([], "is not the document of the issuer"),
        ({"issuer": None}, "does not say where they are"),
        ({"issuer": None, "jwks_uri": 5}, "does not say where they are"),
        ({"issuer": None, "jwks_uri": "http://127.0.0.1/keys"}, "is not an https: address"),
        ({"issuer": None, "jwks_uri": "https://127.0.0.1/\r\nX: y"}, "is not an https: address"),
        ({"issuer": None, "jwks_uri": "https://[::1/"}, "is not an https: address"),
        ({"issuer": None, "jwks_uri": "https://u:p@127.0.0.1/"}, "is not an https: address"),
        ({"issuer": None, "jwks_uri": "https://127.0.0.1:99999/"}, "is not an https: address"),
        ({"issuer": None, "jwks_uri": "file:///etc/passwd"}, "is not an https: address"),
    ],
)
def test_a_discovery_that_is_not_right_is_refused(document: object, sentence: str, issuer: Issuer) -> None:
    if isinstance(document, dict) and document.get("issuer", "") is None:
        document = document | {"issuer": issuer.url}
    issuer.pages["/.well-known/openid-configuration"] = document
    said = asyncio.run(Bench(issuer.url).check(signed(RSA, "RS256", claims(issuer.url))))
    assert isinstance(said, CannotSay)
    assert sentence in said.why
    assert len(issuer.asked) == 1


@pytest.mark.parametrize("when", ["whose header never ends", "that says nothing"])
def test_an_issuer_is_waited_for_five_seconds(when: str, issuer: Issuer) -> None:
    async def test() -> None:
        slow = dripping(issuer.ended) if when.startswith("whose") else lambda _: issuer.ended.wait()
        issuer.pages["/keys"] = slow
        bench = Bench(issuer.url, f"{issuer.url}/keys")
        began = time.monotonic()
        said = await bench.check(signed(RSA, "RS256", claims(issuer.url)))
        assert isinstance(said, CannotSay)
        assert "did not answer within 5 s" in said.why
        assert 4.9 < time.monotonic() - began < 8
        await bench.tokens.close()

    run(test)


def test_an_issuer_that_is_down_is_out_of_reach(issuer: Issuer) -> None:
    issuer.close()
    said = asyncio.run(Bench(issuer.url).check(signed(RSA, "RS256", claims(issuer.url))))
    assert isinstance(said, CannotSay)
    assert "cannot be fetched" in said.why


def test_a_certificate_of_a_stranger_or_for_another_name_is_not_believed() -> None:
    for authority, name, sentence in (
        (trustme.CA(), "127.0.0.1", "certificate verify failed"),
        (AUTHORITY, "login.example.com", "IP address mismatch"),
    ):
        with Issuer(authority, name) as issuer:
            issuer.publish(jwk(RSA, "RS256"))
            said = asyncio.run(Bench(issuer.url).check(signed(RSA, "RS256", claims(issuer.url))))
            assert isinstance(said, CannotSay)
            assert sentence in said.why
            assert issuer.asked == []


def test_the_service_can_stop_while_keys_are_fetched(issuer: Issuer) -> None:
    async def test() -> None:
        issuer.pages["/keys"] = dripping(issuer.ended)
        bench = Bench(issuer.url, f"{issuer.url}/keys")
        task = asyncio.create_task(bench.check(signed(RSA, "RS256", claims(issuer.url))))
        await asyncio.to_thread(issuer.was_asked.wait, 10)
        began = time.monotonic()
        await bench.tokens.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 2

    run(test)


def test_a_file_is_read_again_when_it_changed_and_a_broken_one_changes_nothing(file: Path) -> None:
    broken = file.with_name("broken")
    broken.write_text('{"keys": [')

    async def test() -> None:
        bench = Bench(keys=str(file))
        old, new = (signed(key, "RS256", claims(ISSUER), kid) for key, kid in ((RSA, "k1"), (OTHER_RSA, "k2")))
        assert await bench.check(old) == ALICE
        assert await bench.check(new) == Wrong("token signed with a key that the issuer does not have")
        broken.replace(file)
        assert await bench.check(old) == ALICE
        await asyncio.to_thread(file.unlink)
        assert await bench.check(old) == ALICE
        assert len(bench.lines) == 1
        write(file, jwk(OTHER_RSA, "RS256", "k2"))
        assert await bench.check(new) == ALICE
        assert await bench.check(old) == Wrong("token signed with a key that the issuer does not have")

    run(test)


def test_files_that_hold_no_keys_say_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    for name, sentence in (
        ("missing", "No such file or directory"),
        (".", "it is not a file"),
        ("pipe", "it is not a file"),
        ("large", "it has more than 1048576 octets"),
        ("a\0b", "embedded null byte"),
    ):
        said = answer(tmp_path / name, signed(RSA, "RS256", claims(ISSUER)))
        assert isinstance(said, CannotSay)
        assert sentence in said.why


def test_keys_come_by_https_or_not_at_all(issuer: Issuer) -> None:
    said = asyncio.run(
        Bench(issuer.url, issuer.url.replace("https", "http") + "/keys").check(signed(RSA, "RS256", claims(ISSUER)))
    )
    assert isinstance(said, CannotSay)
    assert "is not an https: address" in said.why
