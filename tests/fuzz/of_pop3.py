"""The POP3 session, fuzzed: what it must do whatever a client sends, whatever it is told and however it is cut.

A script is held three times: whole, cut, and line by line beside a model that knows only the standards; what is said
must be the same. Then it is held once more and ended from outside, and once by a client that does not wait for its
handshake. Invariant: what is said depends on the bytes and the answers, and on cuts only behind STLS.
"""

import base64
import re
from collections.abc import Iterable

from fuzz.chosen import Chosen, law
from fuzz.pop3_model import STATUS, Model
from fuzz.pop3_world import CANARY, Held
from winpop.protocol import pop3
from winpop.protocol.sasl.mechanisms import MECHANISMS

WORDS = (
    *b"USER PASS CAPA STAT LIST UIDL RETR TOP DELE NOOP RSET QUIT GET STLS AUTH APOP UTF8 LANG".split(),
    *(b"AUTH " + name.encode() + b" " for name in MECHANISMS),
    b"USER a\r\nPASS b\r\n",
    b"\r\n",
    b"\r\n.\r\n",
    b"\r\n*\r\n",
    b"\r\n=\r\n",
    b"RETR 6\r\n",
    b"TOP 6 1\r\n",
    b"DELE 1\r\n",
    b"STLS\r\n",
    b"LANG de\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AUTH LOGIN\r\nYQ==\r\nYg==\r\n",
    b"biwsbj1hLHI9YQ==",  # n,,n=a,r=a
    b"biwsAWF1dGg9QmVhcmVyIGIBAQ==",  # n,,^Aauth=Bearer b^A^A
    b" 1",
    b" 6 2",
    b" HTTP/1",
    b"00000000000000000000000000000000",
    CANARY,
    base64.b64encode(CANARY),
)

_BEHIND_STLS = re.compile(rb"(?<=STLS\r\n)", re.IGNORECASE)


def pop3_session(data: bytes) -> None:
    """Hold the laws of the POP3 session against one input."""
    chosen = Chosen.of(data)
    whole = _held(chosen, _patient([chosen.script], chosen.script))
    cut = _held(chosen, _patient(chosen.pieces(), chosen.script))
    law(cut.said == whole.said, "cuts change what is said", whole.said, cut.said)
    law(cut.world.updates == whole.world.updates, "cuts change what is removed")
    law(cut.session.closed == whole.session.closed, "cuts change whether it closes")
    modelled = _modelled(chosen)
    law(modelled.said == whole.said, "lines change what is said", whole.said, modelled.said)
    if chosen.ends:
        _ended(chosen, whole)
    if _BEHIND_STLS.search(chosen.script):
        _held(chosen, [chosen.script])


def _patient(pieces: Iterable[bytes], script: bytes) -> list[bytes]:
    """Cut pieces of a script where its client waits for a handshake, should there be one."""
    places = {match.end() for match in _BEHIND_STLS.finditer(script)}
    cut, position = [], 0
    for piece in pieces:
        begun = position
        for place in sorted(place for place in places if position < place < position + len(piece)):
            cut.append(script[begun:place])
            begun = place
        cut.append(script[begun : position + len(piece)])
        position += len(piece)
    return cut


def _held(chosen: Chosen, pieces: Iterable[bytes]) -> Held:
    held = Held(chosen)
    for piece in pieces:
        held.send(piece)
    _nothing_more(held)
    return held


def _nothing_more(held: Held) -> None:
    if held.session.closed:
        law(held.send(b"CAPA\r\nQUIT\r\n") == b"", "something is said after the end")
        law(held.session.needs() is None, "something is needed after the end")


class Ended(Held):
    """A session that is ended from outside before the chosen step, unless it runs an update then."""

    def __init__(self, chosen: Chosen) -> None:
        super().__init__(chosen)
        self.left = chosen.ends
        self.reason = list(pop3.Ending)[chosen.reason % len(pop3.Ending)]
        self.removed: int | None = None

    def before_step(self) -> None:
        self.left -= 1
        session = self.session
        if self.left or session.closed or isinstance(session.needs(), pop3.Update):
            return
        handshake = isinstance(session.needs(), pop3.StartTls)
        speechless = self.within or handshake or session._long is not None or self.reason is pop3.Ending.IDLE
        self.removed = len(self.world.updates)
        session.end(self.reason)
        law(session.closed, "an ending does not close", self.reason)
        law(session.needs() is None, "an ended session needs something", self.reason)
        said = session.to_send()
        if speechless:
            law(said == b"", "an ending speaks where it must not", self.reason, said)
        else:
            law(said.startswith(b"-ERR ") and said.endswith(b"\r\n"), "an ending is no error", said)
            law(STATUS.fullmatch(said[:-2]), "an ending is no reply", said)


def _ended(chosen: Chosen, whole: Held) -> None:
    """End the session at the chosen step: nothing is removed that QUIT did not ask for, and no more is said."""
    held = Ended(chosen)
    for piece in _patient(chosen.pieces(), chosen.script):
        held.before_step()
        held.send(piece)
    if held.removed is not None:
        law(whole.said.startswith(held.said), "an ending changes what was said before it", whole.said, held.said)
        law(held.send(b"QUIT\r\n") == b"", "something is said after an ending", held.said)
        law(len(held.world.updates) == held.removed, "an ending removes", held.world.updates)


def _modelled(chosen: Chosen) -> Held:
    held = Held(chosen)
    model = Model(held)
    law(held.said.startswith(b"+OK ") and held.said.endswith(b"\r\n"), "the greeting is none", held.said)
    for line in chosen.lines():
        closed = held.session.closed
        text = line.removesuffix(b"\r\n")
        whole = line.endswith(b"\r\n")
        limit = model.limit(line)
        reply = held.send(line)
        if closed:
            law(reply == b"", "something is said after the end", reply)
        elif b"\r" in text[:-1] or b"\n" in text or len(line) > limit or (whole and b"\r" in text):
            law(not reply.startswith(b"+"), "a line that is none is obeyed", line, reply)
        elif not whole:
            law(reply == b"" or len(line) >= limit, "half a line is answered", line, reply)
            law(held.session.backlog < limit, "a line is not looked at", line)
        else:
            model.check(text, reply)
    _nothing_more(held)
    return held
