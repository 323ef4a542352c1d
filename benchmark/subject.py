"""winpop as it is installed: the subject of the benchmark.

Invariant: nothing is set that a fresh installation does not have, but the certificate, the ports, and for how long a
password that was right is remembered (`logoncache`): an hour, as long as the opponent's cache.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmark.generator import RunError
from benchmark.machine import Box
from benchmark.population import DOMAIN, KINDS, Certificate, cheap_hash, slow_hash
from benchmark.server import settled

LISTENERS = ("pop3", "pop3s", "smtp", "lmtp")
_REMEMBERED = 3600


class Winpop:
    """It runs from the construction on. Raises `RunError` when it does not come up."""

    def __init__(self, home: Path, workers: int, name: str = "winpop") -> None:
        """Start it in a home that is there."""
        self.name = "winpop"
        self._box = Box(name)
        listeners = [word for listener in LISTENERS for word in (f"--{listener}", "127.0.0.1:0")]
        command = [*_tool(home), "--json", "serve", *listeners, "--workers", str(workers)]
        self.configuration = f"winpop set logoncache {_REMEMBERED}\nwinpop serve --workers {workers}\n"
        log = home.parent / f"{home.name}.log"
        try:
            with log.open("ab") as errors:
                process = self._box.start(command, stdout=subprocess.PIPE, stderr=errors)
            assert process.stdout is not None
            with process.stdout:
                places = _ready(process.stdout.readline(), log)
        except BaseException:
            self._box.close()
            raise
        self.ports = {listener: int(places[listener].rpartition(":")[2]) for listener in LISTENERS}

    def cpu(self) -> float:
        """Return the processor seconds of all its processes so far."""
        return settled(self._box)

    def memory(self) -> int:
        """Return the octets of memory that are its alone."""
        return self._box.memory()

    def deliver_all(self) -> None:
        """Do nothing: what it has accepted is delivered."""

    def close(self) -> None:
        """End it."""
        self._box.close()


def _ready(line: bytes, log: Path) -> dict[str, str]:
    """Return where the service listens, from the line that it prints when it does."""
    if not line.startswith(b'{"ready"'):
        raise RunError(f"winpop is not ready: {line!r} {log.read_text(errors='replace')[-500:]}")
    places: dict[str, str] = json.loads(line)["ready"]
    return places


def make_home(home: Path, certificate: Certificate) -> None:
    """Make an installation with all kinds of mailboxes."""
    slow, cheap = slow_hash(), cheap_hash()
    begin_home(home, certificate)
    for kind in KINDS:
        add(home, kind.addresses(), cheap if kind.cheap else slow)


def begin_home(home: Path, certificate: Certificate) -> None:
    """Make an installation with a domain and no mailboxes."""
    run(home, "add", DOMAIN)
    run(home, "set", "logoncache", str(_REMEMBERED))
    run(home, "certificate", str(certificate.chain), str(certificate.key))


def add(home: Path, addresses: Iterable[str], password_hash: str) -> None:
    """Make mailboxes whose passwords have this hash."""
    rows = "".join(f'{address},"{password_hash}"\n' for address in addresses)
    run(home, "add", "--from", "-", given=f"address,password_hash\n{rows}")


def run(home: Path, *words: str, given: str = "") -> None:
    """Run the tool. Raises `RunError` when it does not succeed."""
    result = subprocess.run(
        [*_tool(home), *words], input=given, capture_output=True, text=True, timeout=600, check=False
    )
    if result.returncode:
        raise RunError(f"winpop {words[0]}: {result.stderr.strip() or result.stdout.strip()}")


def _tool(home: Path) -> list[str]:
    return [sys.executable, "-m", "winpop", "--home", str(home)]
