"""The TLS handshake as `openssl s_client` sees it, from the first octet and by STLS."""

import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from clients.host import ALICE, OTHER_HOST, Host, attempt, client, running_host

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The service, once for all tests of this file."""
    with running_host(tmp_path_factory.mktemp("host")) as running:
        yield running


def s_client(port: int, home: Path, *words: str, given: str = "QUIT\n") -> CompletedProcess[str]:
    return attempt(
        client("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-crlf", "-ign_eof", *words, home=home,
        given=given,
    )  # fmt: skip


@pytest.mark.parametrize("begin", [(), ("-starttls", "pop3")])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_sees_a_certificate_that_holds(
    version: str, begin: tuple[str, ...], host: Host, tmp_path: Path
) -> None:
    port = host.clear if begin else host.tls
    words = ("-verify_return_error", "-verify_hostname", "localhost", "-CAfile", str(host.authority))
    result = s_client(port, tmp_path, *begin, version, *words, "-servername", "localhost", given="CAPA\nQUIT\n")
    assert result.returncode == 0, result.stderr
    assert "Verification: OK" in result.stdout
    assert "Compression: NONE" in result.stdout
    capabilities = result.stdout.rpartition("+OK Capabilities follow")[2]
    assert "USER" in capabilities
    assert "STLS" not in capabilities


@pytest.mark.parametrize("begin", [(), ("-starttls", "pop3")])
@pytest.mark.parametrize(
    "words",
    [
        ("-tls1", "-cipher", "DEFAULT@SECLEVEL=0"),
        ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "AES128-SHA:AES128-GCM-SHA256"),  # no forward secrecy
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"),  # no authenticated encryption
    ],
)
def test_openssl_is_refused_what_is_too_old(
    words: tuple[str, ...], begin: tuple[str, ...], host: Host, tmp_path: Path
) -> None:
    result = s_client(host.clear if begin else host.tls, tmp_path, *begin, *words)
    assert result.returncode != 0
    assert "New, (NONE), Cipher is (NONE)" in result.stdout
    # It was the server that ended it: the client would have gone on.
    assert re.search("alert (protocol version|handshake failure)|unexpected eof", result.stderr), result.stderr
    assert re.search("SSL handshake has read [0-9]+ bytes and written [1-9][0-9]* bytes", result.stdout)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "localhost"),
        (("-noservername",), "localhost"),
        (("-servername", "localhost"), "localhost"),
        (("-servername", OTHER_HOST), OTHER_HOST),
        (("-servername", OTHER_HOST.upper()), OTHER_HOST),
        (("-servername", "unknown.example"), "localhost"),
    ],
)
@pytest.mark.parametrize("begin", [(), ("-starttls", "pop3")])
def test_openssl_gets_the_certificate_for_the_name_it_asks_for(
    words: tuple[str, ...], shown: str, begin: tuple[str, ...], host: Host, tmp_path: Path
) -> None:
    result = s_client(host.clear if begin else host.tls, tmp_path, *begin, *words)
    assert result.returncode == 0, result.stderr
    assert re.search(r"subject=CN ?= ?(\S+)", result.stdout)[1] == shown  # type: ignore[index]  # else it fails here


def test_openssl_agrees_on_the_protocol(host: Host, tmp_path: Path) -> None:
    result = s_client(host.tls, tmp_path, "-alpn", "pop3")
    assert result.returncode == 0, result.stderr
    assert "ALPN protocol: pop3" in result.stdout
    assert "+OK Bye" in result.stdout


@pytest.mark.parametrize("protocols", ["http/1.1", "h2,http/1.1", "imap"])
def test_who_wants_another_protocol_does_not_get_to_talk(protocols: str, host: Host, tmp_path: Path) -> None:
    """Cross-protocol attacks (ALPACA 2021): a browser's handshake never reaches POP3."""
    result = s_client(host.tls, tmp_path, "-alpn", protocols, given=f"USER {ALICE}\nQUIT\n")
    assert "+OK" not in result.stdout
    assert "-ERR" not in result.stdout
