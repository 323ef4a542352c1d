"""SCRAM, step by step, against implementations that are not ours: GNU SASL, and scramp with channel binding.

GNU SASL can bind by tls-exporter only, which Python's ssl cannot give; scramp can by tls-server-end-point.
"""

import base64
import hashlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from clients.host import ALICE, SECRET, Host, client, python_package, running_host

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The service, once for all tests of this file."""
    with running_host(tmp_path_factory.mktemp("host")) as running:
        yield running


class Wire:
    """A POP3 client over TLS that passes on what a mechanism says."""

    def __init__(self, host: Host) -> None:
        context = ssl.create_default_context(cafile=host.authority)
        plain = socket.create_connection(("127.0.0.1", host.tls), 20)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        self._lines = self.socket.makefile("rb")
        assert self.line().startswith("+OK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.socket.close()

    def line(self) -> str:
        return self._lines.readline().decode().removesuffix("\r\n")

    def ask(self, text: str) -> str:
        """Send a line, return the next one."""
        self.socket.sendall(text.encode() + b"\r\n")
        return self.line()

    def offered(self) -> list[str]:
        """Return the mechanisms that CAPA lists."""
        assert self.ask("CAPA").startswith("+OK")
        lines = iter(self.line, ".")
        return [word for line in lines if line.startswith("SASL ") for word in line.split()[1:]]


class Gsasl:
    """The command-line client of GNU SASL: it does not speak POP3, so it is handed the challenges."""

    def __init__(self, mechanism: str, home: Path, password: str, *words: str) -> None:
        self._process = subprocess.Popen(
            [client("gsasl"), "--client", "-m", mechanism, "-a", ALICE, "-p", password, "--hostname", "localhost",
             "--service", "pop", "--no-cb", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=home,
        )  # fmt: skip
        self.told = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def token(self) -> str:
        """Return the next token for the server."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.told += line
            if line.startswith("Output from client"):
                return next(self._process.stdout).strip()
        raise AssertionError(self.told)

    def give(self, challenge: str) -> None:
        """Hand it what the server has sent."""
        assert self._process.stdin is not None
        self._process.stdin.write(challenge + "\n")
        self._process.stdin.flush()

    def believes(self) -> bool:
        """Tell whether it takes the server for the one that knows the password, at its end."""
        self.give("")
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.stdout is not None
        self.told += self._process.stdout.read()
        return "authentication finished (server trusted)" in self.told


def challenged(reply: str) -> str:
    """Return the challenge in a reply."""
    assert reply.startswith("+ "), reply
    return reply[2:]


@pytest.mark.parametrize(("initial", "words"), [(True, ()), (False, ("-z", ALICE))])  # with and without an authzid
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_gsasl_and_the_server_prove_themselves_to_each_other(
    mechanism: str, initial: bool, words: tuple[str, ...], host: Host, tmp_path: Path  # noqa: FBT001 - a parameter of the test
) -> None:  # fmt: skip
    with Wire(host) as wire, Gsasl(mechanism, tmp_path, SECRET, *words) as gsasl:
        assert mechanism in wire.offered()
        if initial:
            reply = wire.ask(f"AUTH {mechanism} {gsasl.token()}")
        else:
            assert challenged(wire.ask(f"AUTH {mechanism}")) == ""
            reply = wire.ask(gsasl.token())
        gsasl.give(challenged(reply))
        gsasl.give(challenged(wire.ask(gsasl.token())))
        assert gsasl.token() == ""
        assert wire.ask("").startswith("+OK")
        assert gsasl.believes(), gsasl.told
        assert wire.ask("STAT").startswith("+OK 1 ")
        assert wire.ask("QUIT").startswith("+OK")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_gsasl_is_refused_with_a_wrong_password(mechanism: str, host: Host, tmp_path: Path) -> None:
    with Wire(host) as wire, Gsasl(mechanism, tmp_path, "wrong") as gsasl:
        gsasl.give(challenged(wire.ask(f"AUTH {mechanism} {gsasl.token()}")))
        assert wire.ask(gsasl.token()) == "-ERR [AUTH] The name or the password is wrong"
        assert wire.ask("STAT").startswith("-ERR")


def scramp_client(mechanism: str, password: str, binding: tuple[str, bytes]) -> Any:  # noqa: ANN401 - it has no types
    scramp = python_package("scramp", "scramp")
    return scramp.ScramClient([mechanism], ALICE, password, channel_binding=binding)


def end_point(wire: Wire) -> bytes:
    """Return the binding tls-server-end-point of a certificate that is signed with SHA-256 (RFC 5929 §4.1)."""
    certificate = wire.socket.getpeercert(binary_form=True)
    assert certificate is not None
    return hashlib.sha256(certificate).digest()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_scramp_binds_the_logon_to_the_certificate_that_it_saw(mechanism: str, host: Host) -> None:
    with Wire(host) as wire:
        assert mechanism in wire.offered()
        scram = scramp_client(mechanism, SECRET, ("tls-server-end-point", end_point(wire)))
        first = base64.b64encode(scram.get_client_first().encode()).decode()
        scram.set_server_first(base64.b64decode(challenged(wire.ask(f"AUTH {mechanism} {first}"))).decode())
        final = base64.b64encode(scram.get_client_final().encode()).decode()
        scram.set_server_final(base64.b64decode(challenged(wire.ask(final))).decode())
        assert wire.ask("").startswith("+OK")
        assert wire.ask("QUIT").startswith("+OK")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_a_logon_that_was_bound_to_another_certificate_is_refused(mechanism: str, host: Host) -> None:
    """Somebody in between has shown the client a certificate of their own, and passes on what it says."""
    with Wire(host) as wire:
        another = hashlib.sha256(ssl.PEM_cert_to_DER_cert(host.other.read_text())).digest()
        scram = scramp_client(mechanism, SECRET, ("tls-server-end-point", another))
        first = base64.b64encode(scram.get_client_first().encode()).decode()
        scram.set_server_first(base64.b64decode(challenged(wire.ask(f"AUTH {mechanism} {first}"))).decode())
        final = base64.b64encode(scram.get_client_final().encode()).decode()
        assert wire.ask(final) == "-ERR [AUTH] The name or the password is wrong"


def test_a_client_from_which_the_binding_was_hidden_is_refused(host: Host) -> None:
    """It could bind and was told that the server cannot (RFC 5802 §6); its password is right."""
    with Wire(host) as wire:
        scram = scramp_client("SCRAM-SHA-256", SECRET, ("tls-server-end-point", end_point(wire)))
        first = scram.get_client_first()
        assert first.startswith("y,")
        reply = wire.ask(f"AUTH SCRAM-SHA-256 {base64.b64encode(first.encode()).decode()}")
        assert reply == "-ERR [AUTH] The name or the password is wrong"
