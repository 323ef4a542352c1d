"""What the benchmark asks of a server, whoever made it.

Invariant: a server lives in a temporary directory, listens on loopback at ports that the system chose, and leaves no
process and no file outside of that directory.
"""

import contextlib
import socket
import time
from pathlib import Path
from typing import Protocol

from benchmark.generator import RunError
from benchmark.machine import Box


class Server(Protocol):
    """A server that runs."""

    name: str
    ports: dict[str, int]
    """Where it listens: pop3, pop3s, lmtp, smtp, as far as it has them."""

    def cpu(self) -> float:
        """Return the processor seconds of all its processes so far."""
        ...

    def memory(self) -> int:
        """Return the octets of memory that are its alone."""
        ...

    def deliver_all(self) -> None:
        """Return when every message that it has accepted is in its mailbox. Raises `RunError`."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def settled(box: Box, most: float = 3.0) -> float:
    """Return the processor seconds of a box once what the last clients left behind is done, at most so much later."""
    until = time.monotonic() + most
    before = box.cpu()
    while True:
        time.sleep(0.1)
        after = box.cpu()
        if after - before < 0.002 or time.monotonic() > until:  # noqa: PLR2004 - a fiftieth of a core is rest
            return after
        before = after


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for_ports(name: str, ports: list[int], log: Path, within: float = 20.0) -> None:
    """Return when every port accepts. Raises `RunError`, with the end of the log."""
    until = time.monotonic() + within
    for port in ports:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError as error:
                if time.monotonic() > until:
                    said = log.read_text(errors="replace")[-500:] if log.exists() else "nothing"
                    raise RunError(f"{name} does not listen; it said: {said}") from error
                time.sleep(0.05)
