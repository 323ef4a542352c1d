"""An issuer of tokens as the tests need it: real keys, and a real HTTPS server on loopback that can misbehave."""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from winpop.auth.tokens import TokenAnswer, Tokens, Whose
from winpop.telemetry.log import Log

ISSUER = "https://login.example.com/tenant"
NOW = 1_790_000_000.0
AUDIENCE = "winpop"
ALICE = Whose("alice@example.com")
AUTHORITY = trustme.CA()

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


RSA = rsa_key()
OTHER_RSA = rsa_key()


def algorithm_of(name: str) -> Any:  # noqa: ANN401 - PyJWT's own classes differ
    return jwt.PyJWS().get_algorithm_by_name(name)


def jwk(key: Private, algorithm: str, kid: str | None = "k1", **members: object) -> dict[str, Any]:
    """Return the public half of a key as an issuer publishes it."""
    public = algorithm_of(algorithm).to_jwk(key.public_key(), as_dict=True)
    public.pop("key_ops", None)
    published: dict[str, Any] = public | ({} if kid is None else {"kid": kid}) | members
    return published


def claims(issuer: str, **changes: object) -> dict[str, object]:
    """Return the claims of a valid token; None takes one away."""
    whole = {"iss": issuer, "aud": AUDIENCE, "exp": NOW + 300, "iat": NOW, "email": "alice@example.com"} | changes
    return {name: value for name, value in whole.items() if value is not None}


def signed(key: Private, algorithm: str, payload: object, kid: object = "k1", **header: object) -> str:
    """Return a token. It is put together here, so that it can be as wrong as a test wants."""
    head = {"alg": algorithm, "typ": "JWT"} | ({} if kid is None else {"kid": kid}) | header
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    start = b".".join(map(encoded, (json.dumps(head).encode(), text)))
    return b".".join((start, encoded(algorithm_of(algorithm).sign(start, key)))).decode()


def encoded(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


class Issuer:
    """`pages` are what its paths answer; a page may also be a function that answers by itself."""

    def __init__(self, authority: trustme.CA, name: str = "127.0.0.1") -> None:
        self.pages: dict[str, object] = {}
        self.asked: list[str] = []
        self.was_asked = threading.Event()
        self.ended = threading.Event()
        asked, was_asked, pages = self.asked, self.was_asked, self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                was_asked.set()
                page = pages.get(self.path)
                if callable(page):
                    page(self)
                    return
                body = page if isinstance(page, bytes) else json.dumps(page).encode()
                self.send_response(404 if page is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that hangs up is what some tests want

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def publish(self, *keys: dict[str, Any]) -> None:
        """Answer discovery, and these keys."""
        self.pages["/.well-known/openid-configuration"] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.pages["/keys"] = {"keys": list(keys)}

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def redirect(to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a page that sends elsewhere."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return answer


def dripping(ended: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a page whose header comes one octet at a time, and never ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not ended.wait(0.2):
            handler.wfile.write(b"x")

    return answer


def raw(octets: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a page that answers exactly this and hangs up without TLS's farewell."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(octets)

    return answer


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """`Tokens` with what a test looks at: its log and its clock."""

    def __init__(self, issuer: str = ISSUER, keys: str = "", claim: str = "email", audience: str = AUDIENCE) -> None:
        self.lines: list[str] = []
        self.clock = Clock()
        context = ssl.create_default_context()
        AUTHORITY.configure_trust(context)
        self.tokens = Tokens(
            issuer, audience, keys, claim, Log(write=self.lines.append), context=context, clock=self.clock
        )

    async def check(self, token: str, now: float = NOW) -> TokenAnswer:
        return await self.tokens.check(token, now)


def write(path: Path, *keys: object) -> None:
    """Replace the file, as a program that does it well."""
    other = path.with_suffix(".new")
    other.write_text(json.dumps({"keys": keys}))
    other.replace(path)


def answer(path: Path, token: str, claim: str = "email", now: float = NOW) -> TokenAnswer:
    return asyncio.run(Bench(keys=str(path), claim=claim).check(token, now))
