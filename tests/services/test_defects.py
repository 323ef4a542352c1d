"""A defect of ours, put in on purpose: it ends the connection that met it, gives back what that held, and no more."""

import os
from pathlib import Path

import pytest

from running import Service
from services.wire import ALICE, HEADER, eventually, lock, logs_on, no_defect, pop3, smtp, unfinished
from winpop.db.home import Home

LARGE = HEADER + (b"x" * 1022 + b"\r\n") * 300


def told(service: Service) -> str:
    """Return the log when it tells of a defect."""
    log = service.log.read_text()
    return log if "critical defect" in log else ""


def broken(tmp_path: Path, method: str) -> str:
    """Return a path for modules on which one breaks this method of the services."""
    module, _, name = method.partition(":")
    return on_path(
        tmp_path,
        f"""
import winpop.services.{module} as module

def raising(*_, **__):
    raise RuntimeError("CaNaRy")

module.{name} = raising
""",
    )


def on_path(tmp_path: Path, first: str) -> str:
    """Return a path for modules on which this is run first in every process of Python."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(first)
    return os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize(
    "method",
    [
        "pop3:Pop3Connection._fetch",
        "pop3:Pop3Connection._opened",
        "pop3:Pop3Connection._passed",
        "pop3:Pop3Connection._updated",
        "pop3:Pop3Connection._enter",
    ],
)
def test_a_pop3_session_that_meets_a_defect_ends_and_frees_its_maildrop(
    method: str, home: Home, tmp_path: Path
) -> None:
    with Service(home.path, "--workers", "1", PYTHONPATH=broken(tmp_path, method)) as running:
        running.send(ALICE, LARGE)
        with pop3(running) as other, pop3(running) as wire:
            wire.send(b"USER alice@example.com\r\nPASS secret\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
            assert not wire.rest().endswith(b"+OK Bye\r\n")
            assert other.ask(b"CAPA").startswith(b"+OK")
        if not method.endswith("_enter"):
            assert eventually(lambda: logs_on(running, ALICE), within=1)
        log = eventually(lambda: told(running))
        assert "CaNaRy" not in log
        assert "Traceback" not in log


@pytest.mark.parametrize(
    "method",
    ["smtp:SmtpConnection._verify", "smtp:SmtpConnection._written", "smtp:SmtpConnection._placed", "smtp:trace"],
)
def test_an_smtp_session_that_meets_a_defect_ends_and_leaves_no_file(method: str, home: Home, tmp_path: Path) -> None:
    with Service(home.path, "--workers", "1", PYTHONPATH=broken(tmp_path, method)) as running:
        with smtp(running) as other, smtp(running) as wire:
            wire.send(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n" + LARGE + b".\r\nQUIT\r\n")
            assert b"\r\n221 " not in wire.rest()
            assert other.ask(b"NOOP").startswith(b"250 ")
        eventually(lambda: not unfinished(home))
        log = eventually(lambda: told(running))
        assert "CaNaRy" not in log


def test_a_message_whose_file_is_gone_is_refused_and_the_session_goes_on(service: Service) -> None:
    for _ in range(2):
        service.send(ALICE, LARGE)
    blobs = sorted((path for path in (service.home / "mail").glob("??/*")), key=lambda path: path.stat().st_mtime_ns)
    blobs[0].unlink()
    with pop3(service, ALICE) as wire, no_defect(service):
        assert wire.ask(b"RETR 1").startswith(b"-ERR [SYS/PERM] ")
        assert wire.ask(b"TOP 1 0").startswith(b"-ERR [SYS/PERM] ")
        assert wire.ask(b"RETR 2").startswith(b"+OK")
        assert wire.multiline().endswith(LARGE)


def test_a_lock_is_seen_though_the_look_before_failed(home: Home, tmp_path: Path) -> None:
    path = on_path(
        tmp_path,
        """
from winpop.services.world import World

changes, calls = World.changes, []

def sometimes(self):
    calls.append(1)
    if len(calls) % 2 == 0:
        raise RuntimeError("CaNaRy")
    return changes(self)

World.changes = sometimes
""",
    )
    with Service(home.path, PYTHONPATH=path) as running, pop3(running, ALICE) as wire:
        eventually(lambda: told(running))
        lock(running, ALICE)
        assert wire.rest().startswith(b"-ERR [AUTH]")
