"""Listening sockets. They are bound once, by the process that may, and handed to the workers.

Invariant: a socket that could not be bound is a refusal that names it; nothing half bound stays open.
"""

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Collection, Iterator

from winpop.directory.settings import Settings
from winpop.terms.endpoints import Endpoint
from winpop.terms.refusals import Kind, Refusal, out_of_reach

BUILT = ("pop3", "pop3s", "smtp", "lmtp")
"""The listeners that there are; the others come later."""
NOT_BUILT = ("submission", "http")
_UNSENT = 32 * 1024
"""Octets that the system takes from us before the client's window has room for them. Without it they are megabytes,
of which a slow client takes none that we see for minutes, and looks like one that takes nothing. Little is quicker too:
20 MiB cost 25 % less processor with 32 KiB than with 128, twice as much with 512: what is copied is still at hand."""


def wanted(settings: Settings) -> dict[str, Endpoint]:
    """Return where each listener is to listen; those that are off are missing."""
    endpoints = {name: getattr(settings, name) for name in BUILT}
    return {name: endpoint for name, endpoint in endpoints.items() if endpoint is not None}


def bind(
    endpoints: dict[str, Endpoint], backlog: int, beside: Collection[socket.socket] = ()
) -> dict[str, socket.socket]:
    """Bind and listen.

    Raises `Refusal` (`address-in-use`, `address-taken-twice`, `not-permitted`, `bad-address-to-listen-on`).
    `beside` are listeners of ours that go when the new ones serve: they are not in the way.
    """
    bound: dict[str, socket.socket] = {}
    _check_places(endpoints)
    try:
        for name, endpoint in endpoints.items():
            bound[name] = _bind(
                name, endpoint, backlog, [old for old in beside if old.getsockname()[1] == endpoint.port]
            )
    except BaseException:
        for each in bound.values():
            each.close()
        raise
    return bound


def _check_places(endpoints: dict[str, Endpoint]) -> None:
    """Refuse two listeners in one place before the system does: it cannot say whose fault it is."""
    taken: dict[Endpoint, str] = {}
    for name, endpoint in endpoints.items():
        other = taken.setdefault(endpoint, name)
        if other != name and endpoint.port:
            raise Refusal(
                "address-taken-twice", f"{other} and {name} cannot both listen on {endpoint}; give one another port."
            )


def name_of(listener: socket.socket) -> str:
    """Return where a socket listens, as `HOST:PORT`."""
    host, port = listener.getsockname()[:2]
    return str(Endpoint("*" if host in ("::", "0.0.0.0") else host, port))  # noqa: S104 - compared, not bound


def _bind(name: str, endpoint: Endpoint, backlog: int, beside: Collection[socket.socket]) -> socket.socket:
    everywhere = endpoint.host == "*"
    six = ":" in endpoint.host or (everywhere and socket.has_dualstack_ipv6())
    listener = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows the option would let another program take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit what is set here
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        if six:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
        host = ("::" if six else "0.0.0.0") if everywhere else endpoint.host  # noqa: S104 - `*` was asked for
        with _sharing([listener, *beside]) if beside else contextlib.nullcontext():
            listener.bind((host, endpoint.port))
            listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refusal(name, endpoint, error) from None
    return listener


@contextlib.contextmanager
def _sharing(listeners: Collection[socket.socket]) -> Iterator[None]:
    """Let our own listeners have the same port for a moment, as in the change from 127.0.0.1:110 to *:110."""
    shared = [] if sys.platform == "win32" else listeners
    try:
        for listener in shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield
    finally:
        for listener in shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _refusal(name: str, endpoint: Endpoint, error: OSError) -> Refusal:
    match error.errno:
        case errno.EADDRINUSE:
            return out_of_reach(
                "address-in-use",
                f"Another program listens on {endpoint}, where {name} should; stop it, or give {name} another port.",
            )
        case errno.EACCES | errno.EPERM:
            return Refusal(
                "not-permitted",
                f"You may not listen on {endpoint}: ports below 1024 are root's; "
                f"start as root, or give {name} another port, such as --{name} {Endpoint(endpoint.host, 1110)}.",
                Kind.NOT_PERMITTED,
            )
    return out_of_reach("bad-address-to-listen-on", f"{name} cannot listen on {endpoint}: {error.strerror}.")
