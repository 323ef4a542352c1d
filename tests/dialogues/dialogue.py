r"""Dialogues as text files, in the notation of RFC 1939 §10: read here, and held with a peer.

    # comment             ignored, like a blank line
    #! pure               only without a network: it needs a world that no real server can be in
    #! uncut              not at every cut: what the server does depends on what came in together
    #! stranger           the server takes no password in clear from this client
    #! clear              what the server says over TLS from the beginning is something else
    #! digests            the server offers every mechanism, and APOP; what it makes up is known, so no real one does it
    C: text               the client sends this and CRLF; `{...}` in it is sent in base64, Python's escapes allowed
    C| text               the client sends exactly this, Python's escapes allowed: \r\n \x00 \xff
    S: text               the server's next line; `...` in it stands for any run of characters, `{...}` as above
    S| text               the server's next line exactly, CRLF included, Python's escapes allowed
    T:                    client and server make their TLS handshake now
    X:                    the server closes the connection now
    E: NAME               the session is ended from outside with Ending.NAME; not over a network

Invariant: a dialogue holds only when nothing that the server says is left unread.
"""

import base64
import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

CRLF = b"\r\n"
DIRECTIVES = frozenset({"clear", "digests", "pure", "stranger", "uncut"})


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a dialogue: what kind it is, its bytes (of E: a name), and where it stands."""

    kind: str
    data: bytes
    where: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue as it was read from its file."""

    protocol: str
    steps: tuple[Step, ...]
    directives: frozenset[str]

    @property
    def pure_only(self) -> bool:
        """Tell whether a real server cannot hold this dialogue."""
        return not self.directives.isdisjoint({"pure", "digests"}) or any(step.kind == "E:" for step in self.steps)

    @property
    def cuts(self) -> Iterator[tuple[int, int]]:
        """Yield every place, as step and offset, where the network may cut what the client sends."""
        for index, step in enumerate(self.steps):
            if step.kind == "C:":
                yield from ((index, offset) for offset in range(1, len(step.data)))


def read(path: Path) -> Dialogue:
    """Read the dialogue in a file; its protocol is the name of the directory."""
    steps: list[Step] = []
    directives: set[str] = set()
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        where = f"{path.parent.name}/{path.name}:{number}: {line}"
        kind, text = line[:2], line[3:]
        if line.startswith("#") or not line:
            directives.update([text] if kind == "#!" else [])
        elif line != line.rstrip() or line[2:3] not in ("", " "):
            raise ValueError(f"{where}: white space that nobody sees, or that is missing after {kind}")
        elif kind in ("C:", "S:", "T:", "X:", "E:"):
            steps.append(Step(kind, _encoded(text) + CRLF if kind in ("C:", "S:") else text.encode(), where))
        elif kind in ("C|", "S|"):
            steps.append(Step("C:" if kind == "C|" else kind, _unescaped(text), where))
        else:
            raise ValueError(f"{where}: this is no line of a dialogue")
    if not steps:
        raise ValueError(f"{path}: nobody says anything")
    if not directives <= DIRECTIVES:
        raise ValueError(f"{path}: unknown directives {directives - DIRECTIVES}")
    if any(step.kind == "X:" for step in steps[:-1]):
        raise ValueError(f"{path}: something follows after X:")
    return Dialogue(path.parent.name, tuple(steps), frozenset(directives))


def _encoded(text: str) -> bytes:
    return re.sub(rb"\{([^}]*)\}", lambda match: base64.b64encode(_unescaped(match[1].decode())), text.encode())


def _unescaped(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")


class Peer(Protocol):
    """The server, as a client sees it."""

    def send(self, data: bytes) -> None:
        """Send these bytes."""

    def read_line(self) -> bytes:
        """Return the server's next line with its CRLF; what there is of it when no more will come."""

    def start_tls(self) -> None:
        """Make the client's side of the TLS handshake."""

    def at_end(self) -> bool:
        """Tell whether the server has closed and left nothing unread."""

    def leave(self) -> bytes:
        """Hang up, and return what the server said that nobody has read."""


Cut = Callable[[int, bytes], Iterable[bytes]]
"""The pieces in which the bytes of a step, given with its index, are sent."""


def hold(dialogue: Dialogue, peer: Peer, cut: Cut) -> None:
    """Hold a dialogue with a peer."""
    for index, step in enumerate(dialogue.steps):
        match step.kind:
            case "C:":
                for piece in cut(index, step.data):
                    peer.send(piece)
            case "X:":
                assert peer.at_end(), f"{step.where}\nthe server has not closed, or has said more"
                return
            case "T:":
                peer.start_tls()
            case "E:":
                assert isinstance(peer, PurePeer)
                peer.end(step.data.decode())
            case _:
                line = peer.read_line()
                assert _matches(step, line), f"{step.where}\nthe server said {line!r}"
    left = peer.leave()
    assert not left, f"{dialogue.steps[-1].where}\nunread after it: {left!r}"


def _matches(step: Step, line: bytes) -> bool:
    if step.kind == "S|":
        return line == step.data
    pattern = b".*".join(map(re.escape, step.data.split(b"...")))
    return re.fullmatch(pattern, line, re.DOTALL) is not None


NeedT_co = TypeVar("NeedT_co", covariant=True)
AnswerT_contra = TypeVar("AnswerT_contra", contravariant=True)
EndingT_contra = TypeVar("EndingT_contra", contravariant=True)
NeedT = TypeVar("NeedT")
AnswerT = TypeVar("AnswerT")
EndingT = TypeVar("EndingT", bound=Enum)


class PureSession(Protocol[NeedT_co, AnswerT_contra, EndingT_contra]):
    """The doors that all our sessions have (winpop.protocol)."""

    @property
    def closed(self) -> bool:
        """Tell whether no further reply will come."""

    def receive(self, data: bytes, /) -> None:
        """Take bytes from the client."""

    def needs(self) -> NeedT_co | None:
        """Tell what has to be supplied."""

    def supply(self, answer: AnswerT_contra, /) -> None:
        """Answer the open need."""

    def to_send(self) -> bytes:
        """Return the next bytes for the client."""

    def end(self, reason: EndingT_contra, /) -> None:
        """End the session from outside."""


class PurePeer(Generic[NeedT, AnswerT, EndingT]):
    """A pure session whose needs are answered at once.

    `answers` gives the answers to one need in turn, of which a session takes as many as it wants. A need of the type
    `handshake` waits for the client.
    """

    def __init__(
        self,
        session: PureSession[NeedT, AnswerT, EndingT],
        answers: Callable[[NeedT], Iterator[AnswerT]],
        endings: type[EndingT],
        *,
        handshake: type | None = None,
    ) -> None:
        self.session = session
        self.answers = answers
        self.endings = endings
        self.handshake = handshake
        self.said = b""
        self.unread = b""
        self._drive()

    def _drive(self) -> None:
        session = self.session
        while self._listen() or session.needs() is not None:
            if self._waits():
                return
            need = session.needs()
            if need is not None:
                self._answer(need)

    def _waits(self) -> bool:
        return self.handshake is not None and isinstance(self.session.needs(), self.handshake)

    def _answer(self, need: NeedT) -> None:
        for answer in self.answers(need):
            self.session.supply(answer)
            self._listen()
            if self.session.needs() is not need:
                break

    def _listen(self) -> bool:
        data = self.session.to_send()
        self.said += data
        self.unread += data
        return data != b""

    def send(self, data: bytes) -> None:
        self.session.receive(data)
        self._drive()

    def end(self, name: str) -> None:
        self.session.end(self.endings[name])
        self._drive()

    def start_tls(self) -> None:
        assert self._waits(), "the server does not wait for a handshake"
        assert not self.unread, f"said before the handshake: {self.unread!r}"
        need = self.session.needs()
        assert need is not None
        self._answer(need)
        self._drive()

    def read_line(self) -> bytes:
        line, crlf, self.unread = self.unread.partition(CRLF)
        return line + crlf

    def at_end(self) -> bool:
        return self.session.closed and not self.unread

    def leave(self) -> bytes:
        assert not self.session.closed, "the server has closed"
        return self.unread


class SocketPeer:
    """A real server. Each of its doors fails when the server is silent for ten seconds."""

    def __init__(self, host: str, port: int, *, tls: bool = False) -> None:
        self._socket = socket.create_connection((host, port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        if tls:
            self.start_tls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def start_tls(self) -> None:
        assert not self._unread, f"said before the handshake: {self._unread!r}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # a self-signed certificate, made at the first start
        self._socket = context.wrap_socket(self._socket)

    def send(self, data: bytes) -> None:
        # The server may close in the middle of what it does not like; S: or X: will tell.
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def read_line(self) -> bytes:
        while CRLF not in self._unread:
            data = self._receive()
            if not data:
                break
            self._unread += data
        line, crlf, self._unread = self._unread.partition(CRLF)
        return line + crlf

    def at_end(self) -> bool:
        return not self._unread and not self._receive()

    def leave(self) -> bytes:
        if isinstance(self._socket, ssl.SSLSocket):  # which cannot be closed by halves: what more is said comes at once
            self._socket.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                self._unread += self._socket.recv(65536)
            return self._unread
        self._socket.shutdown(socket.SHUT_WR)
        while data := self._receive():
            self._unread += data
        return self._unread

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            return b""  # closed before it had read all that was sent
