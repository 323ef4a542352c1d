"""The service that real clients log on to, and how they are run.

A client that is missing is skipped with the name of its package; where CI is set it is a failure.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from running import Service, done

ALICE = "alice@example.com"
SECRET = "CaNaRy-secret"
SUBJECT = "Subject: lunch"
MESSAGE = f"From: bob@example.com\r\nTo: {ALICE}\r\n{SUBJECT}\r\n\r\nAt noon?\r\n.by the gate\r\n..\r\n"
BODY = ["At noon?", ".by the gate", ".."]
OTHER_HOST = "pop.other.example"
ISSUER, AUDIENCE = "https://issuer.example", "winpop"
PACKAGES = {"getmail": "getmail6", "script": "bsdutils"}
"""Of programs whose package has another name."""


@dataclass(frozen=True)
class Host:
    """The running service, and what its clients need."""

    service: Service
    authority: Path
    """The certificate of `localhost`, which clients are told to trust."""
    other: Path
    """The one that is shown to who asks for `OTHER_HOST`."""
    tokens: Path
    """The private key with which tokens are signed."""

    @property
    def clear(self) -> int:
        return self.service.ports["pop3"]

    @property
    def tls(self) -> int:
        return self.service.ports["pop3s"]

    def token(self, **claims: object) -> str:
        """Return a token for alice, or one with other claims."""
        jwt = python_package("jwt", "PyJWT")
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "email": ALICE, "iat": now, "exp": now + 600}
        signed = jwt.encode(usual | claims, self.tokens.read_text(), algorithm="ES256", headers={"kid": "one"})
        assert isinstance(signed, str)
        return signed


def missing(name: str, how: str) -> NoReturn:
    """Skip where people run the tests, fail where they have to run."""
    reason = f"{name} is not installed; run: {how}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def client(name: str) -> str:
    """Return the path of a program."""
    path = shutil.which(name)
    return path or missing(name, f"sudo apt install {PACKAGES.get(name, name)}")


def python_package(name: str, package: str) -> ModuleType:
    """Import a module that only tests use."""
    try:
        return import_module(name)
    except ImportError:
        missing(package, f"pip install {package}")


def attempt(*command: str, home: Path, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a client, which may fail; octets that are no UTF-8 are shown as such."""
    return subprocess.run(
        command, input=given, capture_output=True, timeout=40, check=False, encoding="utf-8", errors="replace",
        env=os.environ | {"HOME": str(home), "TERM": "xterm", "LC_ALL": "C.UTF-8"} | environment, cwd=home,
    )  # fmt: skip


def run(*command: str, home: Path, given: str = "", **environment: str) -> str:
    """Run a client, which must succeed; return all it said."""
    result = attempt(*command, home=home, given=given, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def private(path: Path, text: str) -> str:
    """Write a file with a password in it, as clients want it."""
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def is_whole(text: str) -> bool:
    """Tell whether the message is there, all lines of its body in their order."""
    lines = iter(text.replace("\r\n", "\n").split("\n"))
    return all(line in lines for line in [SUBJECT, *BODY])


def make_certificate(directory: Path, name: str, alternatives: str) -> tuple[Path, Path]:
    """Make a pair that signs itself, as an administrator would."""
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    run(
        client("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "30", "-subj", f"/CN={name}", "-addext", f"subjectAltName={alternatives}",
        "-keyout", str(key), "-out", str(chain), home=directory,
    )  # fmt: skip
    return chain, key


def make_token_keys(directory: Path) -> tuple[Path, Path]:
    """Make an issuer's key pair; return the private key (PEM) and the set of public ones (JWKS)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem, jwks, public = directory / "issuer.key", directory / "jwks.json", key.public_key().public_numbers()
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    point = {name: base64url(number.to_bytes(32, "big")) for name, number in (("x", public.x), ("y", public.y))}
    jwks.write_text(json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "alg": "ES256"} | point]}))
    return pem, jwks


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


@contextlib.contextmanager
def running_host(directory: Path) -> Iterator[Host]:
    """Run a service that offers everything, set up with the tool as an administrator does it."""
    home = directory / "home"
    authority, key = make_certificate(directory, "localhost", "DNS:localhost,IP:127.0.0.1")
    other, other_key = make_certificate(directory, OTHER_HOST, f"DNS:{OTHER_HOST}")
    signing, jwks = make_token_keys(directory)
    done(home, "add", "example.com")
    for name, value in {
        "hostname": "localhost", "apop": "1", "crammd5": "1", "scram": "1", "failuredelay": "0",
        "oauthissuer": ISSUER, "oauthaudience": AUDIENCE, "oauthkeys": str(jwks),
    }.items():  # fmt: skip
        done(home, "set", name, value)
    done(home, "add", ALICE, "/createuser", SECRET)
    done(home, "certificate", str(authority), str(key))
    done(home, "certificate", str(other), str(other_key))
    done(home, "set", "scramplus", "2")
    with Service(home) as service:
        service.send(ALICE, MESSAGE)
        yield Host(service, authority, other, signing)
