"""The real program as the tests run it: the tool as a process of its own, and the service beside it."""

import contextlib
import json
import os
import signal
import smtplib
import subprocess
import sys
import time
from pathlib import Path
from poplib import POP3
from typing import Any, Self

COMMAND = [sys.executable, "-m", "winpop"]
READY_WITHIN = 30


def winpop(home: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the tool; `given` is its standard input."""
    command = [*COMMAND, "--home", str(home), *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def done(home: Path, *arguments: str, given: str = "") -> str:
    """Run the tool, which must succeed; return what it printed."""
    result = winpop(home, *arguments, given=given)
    assert result.returncode == 0, result.stderr
    return result.stdout


def asked(home: Path, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Run the tool with --json; return the document."""
    return json.loads(done(home, "--json", *arguments))


class Service:
    """`winpop serve` on ports that the system chose."""

    def __init__(self, home: Path, *flags: str, prefix: tuple[str, ...] = (), **environment: str) -> None:
        self.home = home
        self.log = home.parent / f"{home.name}.log"
        self._log = self.log.open("ab")
        listeners = [word for name in ("pop3", "pop3s", "smtp", "lmtp") for word in (f"--{name}", "127.0.0.1:0")]
        command = [*prefix, *COMMAND, "--home", str(home), "--json", "serve", *listeners, *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, env=os.environ | environment, start_new_session=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith(b'{"ready"'):
            self.process.wait(READY_WITHIN)
            self._close()
            raise AssertionError(f"not ready: {line!r} {self.log.read_text()}")
        self._clients: list[POP3] = []
        self.ports = {name: int(place.rpartition(":")[2]) for name, place in json.loads(line)["ready"].items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End it as an administrator does, its clients gone; return its exit status."""
        self._leave()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(40)
        finally:
            self._close()
        return status

    def kill(self) -> None:
        """End master and workers as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        wait_until_gone(self.process.pid)
        self._leave()
        self._close()

    def _leave(self) -> None:
        for client in self._clients:
            client.close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def workers(self) -> list[int]:
        """Return the process numbers of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def log_on(self, user: str, password: str = "secret", source: str = "") -> POP3:
        """Open a POP3 session, which ends with the service at the latest."""
        client = log_on(self.ports["pop3"], user, password, source)
        self._clients.append(client)
        return client

    def send(self, recipient: str, message: bytes | str, sender: str = "sender@elsewhere.example") -> None:
        """Hand in a message by SMTP; return when it was acknowledged."""
        with smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=20) as client:
            client.sendmail(sender, recipient, message)


def wait_until_gone(group: int) -> None:
    """Wait until no process of a group runs: the locks of one that is still dying say that a database is in use.

    A process of which the first thread has ended is a zombie already, and its other threads hold what it had.
    """
    until = time.monotonic() + 10
    while any(_is_running(status, group) for status in Path("/proc").glob("[0-9]*/stat")):
        assert time.monotonic() < until, "a process of the service does not end"
        time.sleep(0.005)


def _is_running(status: Path, group: int) -> bool:
    try:
        words = status.read_text().rpartition(")")[2].split()
        return int(words[2]) == group and is_alive(status.parent, words[0])
    except OSError:
        return False


def is_alive(process: Path, state: str) -> bool:
    """Tell whether any thread of a process (its directory in /proc) runs; `state` is that of the first."""
    return state not in "ZX" or len(list((process / "task").iterdir())) > 1


def log_on(port: int, user: str, password: str = "secret", source: str = "") -> POP3:
    """Open a POP3 session, from another loopback address if one is named."""
    client = POP3("127.0.0.1", port, timeout=20) if not source else _from(source, port)
    try:
        client.user(user)
        client.pass_(password)
    except BaseException:
        client.close()
        raise
    return client


def _from(source: str, port: int) -> POP3:
    import socket

    class Elsewhere(POP3):
        def _create_socket(self, timeout: float | None) -> socket.socket:  # poplib has no public way
            return socket.create_connection((self.host, self.port), timeout, (source, 0))

    return Elsewhere("127.0.0.1", port, timeout=20)


def messages(client: POP3) -> list[bytes]:
    """Return all messages of a session, byte for byte as poplib gives them: lines without their ends."""
    return [b"\r\n".join(client.retr(n + 1)[1]) for n in range(client.stat()[0])]
