"""Backups and restores that are killed, or for which the disk is full: what was there before is whole."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.doing import bring, do, refused
from admin.test_backup_restore import blobs_and_rows_agree, drop
from durability.ledger import State, look_inside
from running import winpop
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store import backup_format, backup_opening
from winpop.store.blobs import SMALL, Blobs
from winpop.store.sweep import sweep

ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"
LARGE = b"0123456789abcde\r\n" * (SMALL // 16)
LATER = 10.0**11
IN_SMALL_BATCHES = """
import sys
from winpop.cli.main import main
from winpop.store import backup_copying, backup_restoring
backup_copying._ROWS = backup_restoring._ROWS = 3
sys.exit(main())
"""
POINTS = {
    "pwrite64": (1, 9, 30, 75, 150),
    "fdatasync": (1, 3, 8),
    "fsync": (1, 3),
    "rename": (1, 2),
    "unlink": (1, 3),
    "ftruncate": (1, 2),
}
"""A sample, since each point takes seconds."""
KILLED = -9


def killed_at(home: Home, call: str, number: int, *words: str) -> bool:
    """Run the tool, to be killed at a system call; tell whether it got there."""
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is missing")
        pytest.skip("needs strace (package strace)")
    inject = f"{call}:signal=KILL:when={number}"
    traced = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={inject}"]
    command = [*traced, sys.executable, "-c", IN_SMALL_BATCHES, "--home", str(home.path), *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode in (0, KILLED, 137), result.stderr
    return result.returncode != 0


def restored(kept: Path, into: Path, *, home: str = "new") -> State:
    """Restore into a new home; return what is in it."""
    new = Home(into / home)
    shutil.rmtree(new.path, ignore_errors=True)
    do(new, "restore", directory=str(kept))
    assert blobs_and_rows_agree(new)
    return look_inside(new)


def fill(home: Home) -> None:
    for n in range(4):
        bring(home, ALICE, b"small %d\r\n" % n)
        bring(home, CAROL, LARGE + b"%d" % n)
    do(home, "lock", target=BOB)


def change(home: Home) -> None:
    for n in range(4):
        bring(home, BOB, b"new %d\r\n" % n)
    bring(home, BOB, LARGE + b"new")
    drop(home, CAROL, 0, 2)
    do(home, "unlock", target=BOB)
    do(home, "delete", target=ALICE)


def tidy(kept: Path) -> bool:
    """Tell whether exactly the files are there that rows name."""
    with backup_opening.opened(kept) as archive:
        named = {name for (name,) in archive.rows("SELECT blob FROM body WHERE blob IS NOT NULL")}
        whole = archive.one("PRAGMA integrity_check") == ("ok",)
        there = {name for name, _ in archive.blobs.names()}
        unfinished = any(archive.blobs.tmp.iterdir())
    return (
        whole
        and named == there
        and not unfinished
        and {path.name for path in kept.iterdir()} == {"blobs", backup_format.NAME}
    )


@pytest.mark.parametrize("call", POINTS)
def test_a_killed_backup_leaves_the_snapshots_before_and_the_next_goes_on(
    home: Home, tmp_path: Path, call: str
) -> None:
    fill(home)
    kept, first = tmp_path / "first", look_inside(home)
    do(home, "backup", directory=str(kept))
    change(home)
    second, reached = look_inside(home), 0
    for number in POINTS[call]:
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(kept, copy)
        if killed_at(home, call, number, "backup", str(copy), "/keep", "1" if number % 2 else "5"):
            reached += 1
            assert restored(copy, tmp_path) in (first, second)
            do(home, "backup", directory=str(copy))
        assert restored(copy, tmp_path) == second
        assert tidy(copy)
        shutil.rmtree(copy)
    assert reached


@pytest.mark.parametrize("call", POINTS)
def test_a_killed_first_backup_is_no_backup_yet(home: Home, tmp_path: Path, call: str) -> None:
    fill(home)
    kept, state = tmp_path / "kept", look_inside(home)
    for number in POINTS[call][:2]:
        if killed_at(home, call, number, "backup", str(kept)) and (kept / backup_format.NAME).exists():
            new = Home(tmp_path / "new")
            shutil.rmtree(new.path, ignore_errors=True)
            result = winpop(new.path, "restore", str(kept))
            assert result.returncode == 0 or any(
                f"[{code}]" in result.stderr for code in ("not-a-backup", "no-snapshot")
            )
        do(home, "backup", directory=str(kept))
        assert restored(kept, tmp_path) == state
        assert tidy(kept)
        shutil.rmtree(kept)


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync", "rename"])
def test_a_killed_restore_is_run_again(home: Home, tmp_path: Path, call: str) -> None:
    fill(home)
    kept, state, reached = tmp_path / "kept", look_inside(home), 0
    do(home, "backup", directory=str(kept))
    for number in POINTS[call]:
        new = Home(tmp_path / f"new-{number}")
        if not killed_at(new, call, number, "restore", str(kept)):
            continue
        reached += 1
        if new.exists():
            part = look_inside(new)
            for address, mail in part.mail.items():
                assert mail == state.mail[address][: len(mail)]
            assert part.locked == state.locked & (set(part.mail) | {"example.com", "other.example"})
        do(new, "restore", directory=str(kept))
        assert look_inside(new) == state
        database = Sqlite(new)
        for later in (LATER, LATER + 31 * 24 * 3600):  # the first marks a file that no row names
            sweep(database, Blobs(new.mail), later)
        database.close()
        assert blobs_and_rows_agree(new)
    assert reached


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "rename"])
def test_a_killed_restore_into_the_same_installation_keeps_the_order(home: Home, tmp_path: Path, call: str) -> None:
    fill(home)
    kept, state = tmp_path / "kept", look_inside(home)
    do(home, "backup", directory=str(kept))
    for number in POINTS[call][:5]:
        drop(home, ALICE, 0, 2)
        drop(home, CAROL, 1, 2)
        killed_at(home, call, number, "restore", str(kept))
        do(home, "restore", directory=str(kept))
        assert look_inside(home) == state


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("needs root to mount a tmpfs")
        pytest.skip("needs root to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("size", [SMALL // 2, 4 * SMALL])
def test_a_full_disk_leaves_the_snapshots_before(home: Home, tmp_path: Path, small_disk: Path, size: int) -> None:
    fill(home)
    first, kept = look_inside(home), small_disk / "kept"
    do(home, "backup", directory=str(kept))
    for n in range(4 * 1024 * 1024 // size):
        bring(home, BOB, b"%d" % n + os.urandom(size - 100))
    refusal = refused(home, "backup", directory=str(kept))
    assert refusal.code == "disk-full"
    assert str(kept) in refusal.sentence
    assert restored(kept, tmp_path) == first
    assert refused(home, "backup", directory=str(kept)).code == "disk-full"
    do(home, "delete", target=BOB)
    do(home, "backup", directory=str(kept))
    assert restored(kept, tmp_path) == look_inside(home)
    assert tidy(kept)


def test_a_disk_that_is_full_from_the_start(home: Home, small_disk: Path) -> None:
    fill(home)
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(filler, bytes(4096))
    os.close(filler)
    assert refused(home, "backup", directory=str(small_disk / "kept")).code == "disk-full"


def test_a_restore_onto_a_full_disk_goes_on_when_there_is_room(home: Home, tmp_path: Path, small_disk: Path) -> None:
    fill(home)
    for n in range(20):
        bring(home, BOB, b"%d" % n + os.urandom(2 * SMALL))
    kept, new = tmp_path / "kept", Home(small_disk / "new")
    do(home, "backup", directory=str(kept))
    result = winpop(new.path, "restore", str(kept))
    assert result.returncode == 4
    assert "[disk-full]" in result.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    do(new, "restore", directory=str(kept))
    assert look_inside(new) == look_inside(home)
    assert blobs_and_rows_agree(new)


@pytest.mark.parametrize("kind", ["missing", "damaged"])
def test_a_damaged_backup_is_a_refusal(home: Home, tmp_path: Path, kind: str) -> None:
    fill(home)
    kept = tmp_path / "kept"
    do(home, "backup", directory=str(kept))
    if kind == "missing":
        shutil.rmtree(kept / "blobs")
    else:
        with (kept / backup_format.NAME).open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(20000))
    for word in ("restore", "backup"):
        result = winpop(home.path, word, str(kept))
        assert "Traceback" not in result.stderr
        assert "internal-error" not in result.stderr
        assert result.returncode in (0, 1, 4), result.stderr
