"""The process that keeps root so that the service need not: it checks the passwords of local accounts.

`serve` starts it before root is given up (`python -P -m winpop.auth.local.helper DESCRIPTOR OWNER LIMIT`). Whoever asks
makes a pair of sockets, writes a request (see `request`) into one end and sends the other end over a socket that the
service's processes have inherited. So each request has a channel of its own, there is no name that somebody else could
take, and who has not inherited the socket cannot ask; who is at the other end is looked at as well (SO_PEERCRED).

Invariants: this process reads no byte of a request: a child of its own does, which answers it and is gone, or is killed
when its time is over; there are at most `AT_ONCE` of them, more requests wait in the kernel. It ends when the service
has: when nobody holds the other end any more. No core file and no debugger shows its memory.
"""

import array
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

from winpop.auth.local import kernel, pam, request

AT_ONCE = 8
LIMIT = 10.0
"""Seconds for one request."""
LONGEST_LINE = 8192
"""Octets of a request or an answer."""


class Helper:
    """The helper, as who has started it holds it. `descriptor` is for `LocalMethod`, here and in the workers."""

    def __init__(self, orders: socket.socket, process: "subprocess.Popen[bytes] | None") -> None:
        self._orders = orders
        self._process = process

    @property
    def descriptor(self) -> int:
        """The socket over which channels are sent; processes of the service inherit it."""
        return self._orders.fileno()

    @property
    def process(self) -> int | None:
        """The number of the process, None where it could not be started."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """Let it end; it does when every other process that has inherited the socket is gone or has closed it."""
        self._orders.close()
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)


def start_helper(owner: int, limit: float = LIMIT) -> Helper | None:
    """Start the helper, as the user this process is; `owner` is the number of the user who serves later.

    Returns at once, and None where there are no such accounts (Windows). Where no process can be started each check
    says so.
    """
    if sys.platform == "win32":
        return None
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - this Python, and numbers
                [
                    sys.executable,
                    "-P",  # no module out of the directory in which somebody happened to start the service
                    "-m",
                    "winpop.auth.local.helper",
                    *map(str, (theirs.fileno(), owner, limit)),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            process = None
    return Helper(ours, process)


@dataclass(slots=True)
class _Child:
    channel: socket.socket
    until: float
    overdue: bool = field(default=False)


class Keeper:
    """Gives each request that comes over `orders` to a child, as long as there is somebody who can ask."""

    def __init__(self, orders: socket.socket, owner: int, limit: float) -> None:
        self._orders = orders
        self._owners = (owner, 0)
        self._limit = limit
        self._children: dict[int, _Child] = {}
        self._ended, told = socket.socketpair()
        for end in (self._ended, told):
            end.setblocking(False)
        self._told = told
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Serve until nobody is there."""
        while self._serve():
            self._end_overdue()
            self._reap()
        for process in self._children:
            _kill(process)
        while self._children or kernel.own_children():  # what they leave is ours then, and ends as well
            select.select([self._ended], [], [], 0.1)
            self._reap()

    def _serve(self) -> bool:
        """Wait for a channel, the end of a child, or of its time; return whether there is anybody who can ask."""
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        poll.register(self._orders, select.POLLIN if len(self._children) < AT_ONCE else 0)  # its end shows in any case
        ready = dict(poll.poll(self._patience()))
        if self._ended.fileno() in ready:
            self._ended.recv(4096)
        came = ready.get(self._orders.fileno(), 0)
        return not came & select.POLLHUP and (not came & select.POLLIN or self._take())

    def _patience(self) -> float | None:
        """Return the milliseconds until the next child's time is over."""
        untils = [child.until for child in self._children.values() if not child.overdue]
        return max(0.0, min(untils) - time.monotonic()) * 1000 if untils else None

    def _end_overdue(self) -> None:
        for process, child in self._children.items():
            if not child.overdue and child.until <= time.monotonic():
                child.overdue = True
                _kill(process)

    def _reap(self) -> None:
        """Look who has ended; what a module has left running ends with it."""
        while (process := _ended()) is not None:
            child = self._children.pop(process, None)
            if child is not None:
                _kill(process)  # before it is waited for: until then its number is nobody else's
            _, status = os.waitpid(process, 0)
            if child is None:
                continue
            if child.overdue:
                _tell(child.channel, f"PAM gave no answer within {self._limit:g} seconds; a module waits.")
            elif status:
                _tell(child.channel, "The process that asked PAM has died; a PAM module may be at fault.")
            child.channel.close()
        for process in kernel.own_children():
            if process not in self._children:
                _kill(process)

    def _take(self) -> bool:
        """Take a channel and begin a child for it; return whether there is anybody who can ask."""
        octets, channel = _received(self._orders)
        if channel is not None and not kernel.belongs_to(channel, self._owners):
            channel.close()
        elif channel is not None:
            with contextlib.suppress(ImportError, OSError, AttributeError):
                pam.load()  # so that no child has to search for the library
            try:
                process = os.fork()
            except OSError as error:
                _tell(channel, f"No process can be made to ask PAM ({error.strerror}).")
                channel.close()
                return True
            if process == 0:
                self._be_child(channel)
            self._children[process] = _Child(channel, time.monotonic() + self._limit)
        return octets != b""

    def _be_child(self, channel: socket.socket) -> None:
        status = 1
        try:
            kernel.die_with_parent()
            os.setsid()  # so that what a module starts can be ended with it, also where there are no orphans to adopt
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            for descriptor in (1, 2):  # what a module prints is nobody's
                os.dup2(0, descriptor)
            self._orders.close()
            for child in self._children.values():
                child.channel.close()
            channel.settimeout(self._limit)
            line = b""
            while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                octets = channel.recv(LONGEST_LINE)
                if not octets:
                    break
                line += octets
            if not _is_gone(channel):
                channel.sendall(request.answer_to(line))
            status = 0
        finally:
            os._exit(status)  # no exception and no exit handler of the process it was made from


def _received(orders: socket.socket) -> tuple[bytes, socket.socket | None]:
    """Return the octet that came and the socket that came with it; no octet where nobody holds the other end."""
    size = array.array("i").itemsize
    octets, ancillary, _, _ = orders.recvmsg(1, socket.CMSG_LEN(size), getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(content) >= size:
            [descriptor] = array.array("i", content[:size])
            os.set_inheritable(descriptor, False)
            try:
                return octets, socket.socket(fileno=descriptor)
            except OSError:  # something else than a socket
                os.close(descriptor)
    return octets, None


def _is_gone(channel: socket.socket) -> bool:
    """Tell whether who has asked has given up since."""
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


def _ended() -> int | None:
    """Return a child that has ended and was not waited for, or None."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended else None


def _tell(channel: socket.socket, sentence: str) -> None:
    with contextlib.suppress(OSError):
        channel.setblocking(False)
        channel.send(request.line_of(cannot=sentence))


def _kill(process: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(process, signal.SIGKILL)


def main() -> None:
    """Be the helper."""
    descriptor, owner, limit = sys.argv[1:]
    kernel.hide_memory()
    kernel.adopt_orphans()
    os.set_inheritable(int(descriptor), False)
    os.chdir("/")
    # Who stops a service may signal all its processes; this one ends when the last of the others has.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Keeper(socket.socket(fileno=int(descriptor)), int(owner), float(limit)).run()


if __name__ == "__main__":
    main()
