"""A disk that is full to the last byte: everything but mail coming in goes on, and mail too when there is room again.

Invariant: a thread of the test takes every byte that becomes free, as a log that runs wild would, from the moment on
when the disk is full until the test makes room.
"""

import contextlib
import os
import shutil
import smtplib
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from conftest import fill
from durability.ledger import Ledger, look_inside
from durability.report import Extent, Result
from durability.script import ACCOUNTS, ALICE, BOB, Story
from running import Service
from services.wire import change, settle
from winpop.db.home import Home

MAKERS = {
    "tmpfs": [],
    "ext4": ["mkfs.ext4", "-q", "-m", "0", "-b", "4096"],
    "xfs": ["mkfs.xfs", "-q"],
}
_MEGABYTES = {"tmpfs": 80, "ext4": 100, "xfs": 320}
_LARGE = 200_000


def missing() -> str:
    """Return what this computer lacks for a sample, or nothing."""
    lacking = lacks("ext4")
    return f"it needs {lacking}" if lacking else ""


def lacks(kind: str) -> str:
    """Return what this computer lacks for a small disk of this kind, or nothing."""
    maker = MAKERS[kind][:1]
    if os.name != "posix" or os.geteuid() != 0:
        return "root, to mount a small disk"
    if maker and shutil.which(maker[0]) is None:
        return f"{maker[0]} (package {'xfsprogs' if kind == 'xfs' else 'e2fsprogs'})"
    return ""


@contextlib.contextmanager
def small_disk(kind: str) -> Iterator[Path]:
    """Mount a small file system of its own."""
    with tempfile.TemporaryDirectory() as directory:
        disk, image = Path(directory, "disk"), Path(directory, "image")
        disk.mkdir()
        if MAKERS[kind]:
            with image.open("wb") as file:
                file.truncate(_MEGABYTES[kind] << 20)
            subprocess.run([*MAKERS[kind], image], check=True)
            mount: list[str | Path] = ["mount", "-o", "loop", image, disk]
        else:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES[kind]}m", "tmpfs", disk]
        subprocess.run(mount, check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)


class Filler:
    """Takes every byte of a disk, again and again."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._over = threading.Event()
        self._take()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self._take()

    def _take(self) -> None:
        for name, piece in (("filler", 65536), ("filler", 512), ("filler", 1), ("small", 1), ("smaller", 1)):
            with contextlib.suppress(OSError), (self._disk / name).open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(piece))

    def end(self) -> None:
        """Take no more, and give back what was taken."""
        self._over.set()
        self._thread.join()
        for name in ("filler", "small", "smaller"):
            (self._disk / name).unlink(missing_ok=True)


def run(extent: Extent) -> Result:
    """Try every kind of disk, or in a sample one."""
    result = Result("disk full to the last byte")
    began = time.monotonic()
    for kind in MAKERS if extent.full else ["ext4"]:
        lacking = lacks(kind)
        if lacking:
            result.notes.append(f"{kind} was not tried: needs {lacking}")
            continue
        with small_disk(kind) as disk:
            trial = _Trial(disk, result, kind)
            trial.run(150 if extent.full else 25)
    result.of = result.points
    result.seconds = time.monotonic() - began
    return result


class _Trial:
    """One disk: filled while the service runs, with a kill, a stop and a start while it is full."""

    def __init__(self, disk: Path, result: Result, kind: str) -> None:
        self.disk, self.result, self.kind = disk, result, kind
        self.home = Home(disk / "home")
        self.ledger = Ledger()
        self.filler: Filler | None = None
        self.sent = 0

    def run(self, rounds: int) -> None:
        fill(self.home, dict.fromkeys(ACCOUNTS, b"secret"))
        settle(self.home, diskreserve="1M", sessionsperaddress="1000", failuredelay="0")
        for address in ACCOUNTS:
            self.ledger.mailbox(address, True)
        try:
            self._rounds(rounds)
        finally:
            if self.filler is not None:
                self.filler.end()

    def _rounds(self, rounds: int) -> None:
        with self._service() as story:
            self._the_mark(story)
            while self.sent < 2 * rounds + 20:
                self._send(story, ALICE, BOB)
            self.filler = Filler(self.disk)
            for _ in range(rounds):
                self._without_a_byte(story)
            self._mail_is_refused(story)
        with self._service() as story:  # after a stop there is no log any more but the reserve
            self._without_a_byte(story)
            self._judge()
            self.filler.end()
            self.filler = None
            time.sleep(1.1)  # the room is looked at once a second
            self._do("mail comes in again", lambda: self._send(story, ALICE, BOB))
        self._judge()

    @contextlib.contextmanager
    def _service(self) -> Iterator[Story]:
        with Service(self.home.path) as running:
            workers = running.workers()
            story = Story(self.home.path, running.ports, self.ledger)
            yield story
            if running.workers() != workers:
                self.result.violated(self.kind, ["a worker died"])
            self.result.violated(self.kind, story.wrong)
            if " defect " in running.log.read_text():
                self.result.violated(self.kind, ["a defect is in the log"])

    def _the_mark(self, story: Story) -> None:
        """With less room than the low-water mark mail is refused, however much there is; with more it comes in."""
        free = os.statvfs(self.disk)
        above = free.f_bavail * free.f_frsize + (1 << 24)
        for mark, refused in ((above, True), (1 << 20, False)):
            change(self.home, "set", name="diskreserve", values=str(mark))
            time.sleep(2.0)  # the setting is seen, and the room looked at, within a second each
            if refused:
                self._mail_is_refused(story)
            else:
                self._do("mail comes in above the mark", lambda: self._send(story, ALICE))

    def _send(self, story: Story, *recipients: str) -> None:
        self.sent += 1
        size = _LARGE if self.sent % 50 == 0 else 900
        assert story.step("deliver", lambda: story.deliver(f"d-{self.sent}", size, *recipients)) == "done"

    def _without_a_byte(self, story: Story) -> None:
        for mailbox in (ALICE, BOB):
            self._do("log on, fetch all, delete one", lambda mailbox=mailbox: story.fetch(mailbox, delete=1))  # type: ignore[misc]
        for locked in (True, False):
            self._do("lock or unlock", lambda locked=locked: story.lock("example.com", locked))  # type: ignore[misc]

    def _do(self, what: str, do: Callable[[], None]) -> None:
        self.result.points += 1
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test looks for
            self.result.violated(self.kind, [f"{what}: {type(error).__name__} {error}"])

    def _mail_is_refused(self, story: Story) -> None:
        with smtplib.SMTP("127.0.0.1", story.ports["smtp"], timeout=20) as client:
            self.result.points += 1
            try:
                client.sendmail("sender@elsewhere.example", ALICE, "Subject: full\r\n\r\nhello\r\n")
            except smtplib.SMTPDataError as error:
                if error.smtp_code != 452 or not str(error.smtp_error).startswith("b'4.3.1 "):
                    self.result.violated(self.kind, [f"mail was refused with {error}"])
            else:
                self.result.violated(self.kind, ["mail was accepted on a full disk"])

    def _judge(self) -> None:
        self.result.states += 1
        self.result.violated(self.kind, self.ledger.violations(look_inside(self.home)))
