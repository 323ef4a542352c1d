"""The shim with a toy, and the sweeps with the service: they find nothing, and do find a defect that is planted.

Invariant: where gcc is missing it is named; in CI it may not be.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import fill
from durability import errors, kills
from durability.report import Extent
from durability.shim import Faults, required
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite

_SEED = 20261
_TOY = """
import os, sys
for path in sys.argv[1:]:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        print(os.write(file, b"0123456789"))
        os.fsync(file)
        os.rename(path, path + ".done")
    except OSError as error:
        print(error.errno)
"""
"""Four calls for each file."""


@pytest.fixture(autouse=True)
def _gcc() -> None:
    required()


def toy(faults: Faults, *paths: Path, leader: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the toy under the shim; `leader`: as the service, in a session of its own."""
    return subprocess.run(
        [sys.executable, "-c", _TOY, *map(str, paths)],
        env=os.environ | faults.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        start_new_session=leader,
    )


def test_it_counts_what_changes_the_directory_and_nothing_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "inside.not"
    inside.mkdir()
    outside.mkdir()
    with Faults(inside) as faults:
        assert toy(faults, inside / "a", outside / "b").stdout == "10\n10\n"
        assert faults.points() == ["open a", "write a", "fsync a", "rename a.done"]
        assert (faults.count, faults.hits, faults.hit) == (4, 0, "")


def test_processes_count_together(tmp_path: Path) -> None:
    with Faults(tmp_path, "eio", 6) as faults:
        assert toy(faults, tmp_path / "a").stdout == "10\n"
        assert toy(faults, tmp_path / "b").stdout == f"{errno.EIO}\n"
        assert faults.hit == "write b"
        assert toy(faults, tmp_path / "c").stdout == "10\n"
        assert faults.count == 4 + 2 + 4


@pytest.mark.parametrize(("action", "there"), [("kill", b""), ("killafter", b"0123456789"), ("killone", b"")])
def test_it_kills_before_the_call_or_after_it(tmp_path: Path, action: str, there: bytes) -> None:
    with Faults(tmp_path, action, 2) as faults:  # type: ignore[arg-type]
        assert toy(faults, tmp_path / "a").returncode == -signal.SIGKILL
        assert (tmp_path / "a").read_bytes() == there


@pytest.mark.parametrize(("action", "status"), [("kill", -signal.SIGKILL), ("killone", 0)])
def test_a_tool_that_is_killed_takes_the_service_with_it_or_not(tmp_path: Path, action: str, status: int) -> None:
    wait = "import sys; print('ready', flush=True); sys.stdin.read()"
    with (
        Faults(tmp_path, action, 2) as faults,  # type: ignore[arg-type]
        subprocess.Popen(
            [sys.executable, "-c", wait],
            env=os.environ | faults.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as service,
    ):
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        assert toy(faults, tmp_path / "a", leader=False).returncode == -signal.SIGKILL
        service.communicate(timeout=10)
        assert service.returncode == status


@pytest.mark.parametrize(("action", "said"), [("eio", errno.EIO), ("enospc", errno.ENOSPC), ("short", 5)])
def test_a_call_fails_once(tmp_path: Path, action: str, said: int) -> None:
    with Faults(tmp_path, action, 2) as faults:  # type: ignore[arg-type]
        assert toy(faults, tmp_path / "a", tmp_path / "b").stdout == f"{said}\n10\n"
        assert (faults.hits, faults.hit) == (1, "write a")
        assert (tmp_path / "b.done").read_bytes() == b"0123456789"


def test_calls_fail_until_it_is_switched_off(tmp_path: Path) -> None:
    with Faults(tmp_path, "enospc", 1, lasting=True) as faults:
        assert toy(faults, tmp_path / "a", tmp_path / "b").stdout == f"{errno.ENOSPC}\n" * 2
        faults.calm()
        assert toy(faults, tmp_path / "a").stdout == "10\n"


@pytest.mark.parametrize(("action", "struck"), [("nofsync", 1), ("nodirsync", 0)])
def test_synchronising_does_nothing(tmp_path: Path, action: str, struck: int) -> None:
    with Faults(tmp_path, action, lasting=True) as faults:  # type: ignore[arg-type]
        assert toy(faults, tmp_path / "a").stdout == "10\n"
        assert faults.hits == struck


_REFUSED = """
import os, pathlib, signal, sys
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.terms.refusals import Refusal
home = Home(pathlib.Path(sys.argv[1]))
other, database = Sqlite(home), Sqlite(home)
other.number("SELECT 1")
try:
    with database.write() as transaction:
        transaction.run("DELETE FROM mailbox")
    print("done", flush=True)
except Refusal as refusal:
    print(refusal.code, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_refused_does_not_come_true_after_a_crash(tmp_path: Path) -> None:
    fill(Home(tmp_path / "home"), {"a@b.example": b"secret"})
    said: list[str] = []
    points: list[str] = []
    for action in ("", "eio"):  # first to find the call by which the commit becomes durable
        home = Home(tmp_path / f"home-{action}")
        shutil.copytree(tmp_path / "home", home.path)
        at = max(n for n, name in enumerate(points, 1) if name == "fdatasync winpop.db-wal") if action else 0
        with Faults(home.path, action, at) as faults:
            command = [sys.executable, "-c", _REFUSED, str(home.path)]
            ended = subprocess.run(
                command, env=os.environ | faults.environment, capture_output=True, text=True, check=False
            )
            said.append(ended.stdout.strip())
            points = faults.points()
    assert said == ["done", "database-unreachable"]
    database = Sqlite(home)
    assert database.number("SELECT count(*) FROM mailbox") == 1
    database.close()


def test_a_250_before_the_commit_is_found_by_killing() -> None:
    result = kills.control(Extent(full=False, seed=_SEED, seconds=25))
    assert any("is lost" in sentence for sentence in result.violations), result


def test_a_250_before_the_commit_is_found_by_errors() -> None:
    result = errors.control(Extent(full=False, seed=_SEED, seconds=25))
    assert any("is lost" in sentence for sentence in result.violations), result
