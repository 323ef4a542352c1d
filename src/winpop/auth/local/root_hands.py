"""A child that keeps root for the tool, which gives root up early for the owner of the home.

Invariants: it does what `Hands` can do and nothing else, for the process that made it; it ends when that one does. No
other process of the owner can speak through its parent: one that has given up root cannot be traced.
"""

import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from winpop.auth.local.hands import Hands, OwnHands
from winpop.terms.refusals import Kind, Refusal, out_of_reach

_SECONDS = 120.0
_LONGEST_LINE = 8192


def root_hands() -> Hands:
    """Fork the child that keeps root; where this process is not root there is none, and its own hands say so.

    Call it before root is given up, and while there is one thread. It takes a millisecond or two.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return OwnHands()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _be_child(theirs)
    theirs.close()
    ours.settimeout(_SECONDS)
    return RootHands(ours, child)


class RootHands:
    """Lets the child do it."""

    def __init__(self, channel: socket.socket, child: int) -> None:
        self._channel = channel
        self._child = child

    def make(self, name: str, comment: str, password: bytes) -> None:
        """Make a user, as `OwnHands.make`."""
        self._ask(do="make", name=name, comment=comment, password=password.decode("latin-1"))

    def set_password(self, name: str, password: bytes) -> None:
        """Give a user another password, as `OwnHands.set_password`."""
        self._ask(do="set_password", name=name, password=password.decode("latin-1"))

    def delete(self, name: str) -> None:
        """Delete a user, as `OwnHands.delete`."""
        self._ask(do="delete", name=name)

    def close(self) -> None:
        """Let the child end."""
        if self._child:
            self._channel.close()
            os.waitpid(self._child, 0)
            self._child = 0

    def _ask(self, **order: str) -> None:
        try:
            self._channel.sendall(json.dumps(order).encode("ascii") + b"\n")
            line = _line(self._channel)
        except OSError:
            line = b""
        if not line:
            raise out_of_reach("root-hands", "The process that kept root has ended; run winpop again.")
        answer = json.loads(line)
        if answer is not None:
            raise Refusal(answer["code"], answer["sentence"], Kind(answer["kind"]))


def _be_child(channel: socket.socket) -> None:
    """Do what is asked until nobody is there to ask; never returns."""
    assert sys.platform != "win32"
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent decides what it means
        gc.disable()  # what the parent has left behind would close descriptors that are ours by now
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        own = channel.fileno()
        os.closerange(3, own)  # the parent's files are not its business
        os.closerange(own + 1, os.sysconf("SC_OPEN_MAX"))
        os.chdir("/")
        while line := _line(channel):
            channel.sendall(json.dumps(_done(json.loads(line))).encode("ascii") + b"\n")
    finally:
        os._exit(0)  # no exit handler of the process it was made from


def _done(order: dict[str, str]) -> dict[str, Any] | None:
    """Do one order; return the refusal, or None."""
    hands = OwnHands()
    try:
        match order["do"]:
            case "make":
                hands.make(order["name"], order["comment"], order["password"].encode("latin-1"))
            case "set_password":
                hands.set_password(order["name"], order["password"].encode("latin-1"))
            case "delete":
                hands.delete(order["name"])
    except Refusal as refusal:
        return {"code": refusal.code, "sentence": refusal.sentence, "kind": int(refusal.kind)}
    return None


def _line(channel: socket.socket) -> bytes:
    """Return the next line, or nothing where the other side is gone."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
        octets = channel.recv(_LONGEST_LINE)
        if not octets:
            return b""
        line += octets
    return line
