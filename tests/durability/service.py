"""What all kinds of faults do with the real service: lay its home quickly, start it, read its log, break it on purpose.

Invariant: a start that fails, or takes too long, leaves no process behind.
"""

import contextlib
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import argon2

import conftest
from running import Service, is_alive
from winpop.db.home import Home
from winpop.directory.mailboxes import Kept

_READY_WITHIN = 40.0


class Attempt(Service):
    """A service of which the start may fail, and then leaves nothing behind; nor does it take for ever."""

    def __init__(
        self, home: Path, *flags: str, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> None:
        watch = threading.Timer(_READY_WITHIN, self._give_up)
        watch.start()
        try:
            super().__init__(home, *flags, prefix=prefix, **environment or {})
        except BaseException:
            self._give_up()
            self._close()
            raise
        finally:
            watch.cancel()

    def _give_up(self) -> None:
        process = getattr(self, "process", None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def fill_quickly(home: Home, addresses: Iterable[str]) -> None:
    """Make a home with these mailboxes; their password `secret` is checked quickly."""
    quick = argon2.PasswordHasher(1, 8, 1).hash(b"secret")
    with mock.patch.dict(conftest.KEPT, {b"secret": Kept(quick)}):
        conftest.fill(home, dict.fromkeys(addresses, b"secret"))


def copied(model: Path, path: Path) -> Home:
    """Return another home like the model."""
    shutil.copytree(model, path, copy_function=shutil.copyfile)
    path.chmod(0o700)
    return Home(path)


def planted(defect: str) -> dict[str, str]:
    """Return the environment in which the program has this defect (see `planted`)."""
    path = [str(Path(__file__).parent / "planted"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"WINPOP_PLANTED": defect, "PYTHONPATH": os.pathsep.join(path)}


def troubles(home: Path) -> list[str]:
    """Return what must not be in the log of this home's service: defects of ours."""
    log = home.parent / f"{home.name}.log"
    bad = re.compile(
        r"Traceback| critical defect |critical housekeeping .*damaged|internal-error|Exception ignored|Fatal Python"
    )
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [f"the log has {lines[at : at + 25]!r}" for at, line in enumerate(lines) if bad.search(line)]


def runs(process: int) -> bool:
    """Tell whether there is such a process; one that has ended and that nobody waited for is none."""
    place = Path(f"/proc/{process}")
    try:
        return is_alive(place, (place / "stat").read_text().rpartition(")")[2].split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return False


def patience(seconds: float = 1.0) -> float:
    """Return so many seconds, and more of them where more processes want to run than there are processors."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
