"""`make run`, told as it happens: what it prints can be pasted into another terminal."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from running import READY_WITHIN

TOOL = Path(__file__).resolve().parents[2] / "tools" / "demonstration.py"


@contextlib.contextmanager
def demonstrated(tmp_path: Path, end: Callable[[int], None]) -> Iterator[dict[str, str]]:
    """Give the demonstration's lines by their names, while it serves; `end` ends it, by its process number."""
    command = [sys.executable, str(TOOL), "127.0.0.1:0", "127.0.0.1:0", str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            said: dict[str, str] = {}
            for line in process.stdout:
                name, _, rest = line.strip().partition(" ")
                said[name] = rest.strip()
                if name == "Ctrl-C":
                    break
            yield said
            end(process.pid)
            assert process.wait(READY_WITHIN) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The demonstration's lines; Ctrl-C ends it, which all that runs in a terminal hears."""
    with demonstrated(tmp_path, lambda process: os.killpg(process, signal.SIGINT)) as said:
        yield said


def pasted(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)


def test_the_printed_lines_work(lines: dict[str, str], tmp_path: Path) -> None:
    assert "Welcome to winpop" in pasted(lines["fetch"]).stdout
    assert "is locked" in pasted(lines["lock"]).stdout
    assert pasted(lines["fetch"]).returncode != 0
    assert pasted(lines["send"]).returncode == 0
    assert pasted(lines["unlock"]).returncode == 0
    assert "Welcome to winpop" in pasted(lines["fetch"]).stdout
    look = pasted(lines["look"]).stdout.splitlines()
    assert [row.split()[:3] for row in look[1:]] == [
        ["alice@example.com", "unlocked", "2"],
        ["bob@example.com", "unlocked", "0"],
    ]
    assert (tmp_path / "home" / "winpop.db").exists()


def test_its_service_ends_with_it_when_it_alone_is_told_to(tmp_path: Path) -> None:
    with demonstrated(tmp_path, lambda process: os.kill(process, signal.SIGTERM)) as said:
        assert pasted(said["fetch"]).returncode == 0
    assert pasted(said["fetch"]).returncode != 0
