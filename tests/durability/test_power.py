"""The forgetful file system itself, a short run of power cuts on it, and the controls, which have to be found."""

import contextlib
import errno
import fcntl
import json
import mmap
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durability import power
from durability.forgetful import ATTRIBUTE, SECTOR, read_moment, survivors
from durability.power import CONTROLS, Disk
from durability.report import Extent

WHY_NOT = power.missing()
if WHY_NOT and os.environ.get("CI"):
    pytest.fail(f"no power cuts without FUSE: {WHY_NOT}", pytrace=False)
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no power cuts: {WHY_NOT}"),
    pytest.mark.timeout(300),
]
OLD, NEW = b"old" * 1000, b"new" * 1000


@pytest.fixture(params=power.MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Each mode."""
    return str(request.param)


@pytest.fixture
def disk(mode: str) -> Iterator[Disk]:
    """A disk of each mode."""
    with Disk(mode) as mounted:
        yield mounted


@pytest.fixture
def strict() -> Iterator[Disk]:
    """A disk that is POSIX to the letter."""
    with Disk("strict") as mounted:
        yield mounted


def synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kept(path: Path, octets: bytes) -> Path:
    """Write a file that stays."""
    path.write_bytes(octets)
    synchronise(path)
    synchronise(path.parent)
    return path


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


# --- what stays, and what goes ---


def test_what_was_synchronised_stays_and_what_was_not_goes(disk: Disk) -> None:
    kept(disk.path / "stays", OLD)
    with (disk.path / "stays").open("ab") as file:
        file.write(NEW)
    (disk.path / "goes").write_bytes(NEW)
    assert names(disk.path) == ["goes", "stays"]
    disk.order("crash")
    assert names(disk.path) == ["stays"]
    assert (disk.path / "stays").read_bytes() == OLD


def test_a_name_is_kept_with_its_directory_and_by_a_journal_with_any_file(disk: Disk, mode: str) -> None:
    (disk.path / "file").write_bytes(NEW)
    synchronise(disk.path / "file")
    disk.order("crash")
    assert names(disk.path) == (["file"] if mode == "lenient" else [])


def test_the_bytes_of_another_file_are_not_kept_with_its_name(disk: Disk) -> None:
    (disk.path / "other").write_bytes(NEW)
    synchronise(disk.path)
    disk.order("crash")
    assert (disk.path / "other").read_bytes() == b""


def test_a_rename_is_kept_with_its_directory_and_by_a_journal_with_any_file(disk: Disk, mode: str) -> None:
    kept(disk.path / "old", OLD)
    (disk.path / "old").rename(disk.path / "new")
    synchronise(disk.path / "new")
    disk.order("crash")
    assert names(disk.path) == (["new"] if mode == "lenient" else ["old"])
    assert (disk.path / names(disk.path)[0]).read_bytes() == OLD


def test_a_rename_over_a_file_leaves_the_one_or_the_other(disk: Disk) -> None:
    kept(disk.path / "file", OLD)
    kept(disk.path / "next", NEW)
    (disk.path / "next").replace(disk.path / "file")
    moment, seen = read_moment(disk.moment()), set()
    for seed in range(40):
        left = survivors(moment, seed).entries
        assert left is not None
        content = left["file"].content
        assert content is not None
        seen.add((tuple(sorted(left)), content.read(0, 9999)))
    assert seen == {(("file", "next"), OLD), (("file",), NEW)}


def test_each_half_of_a_rename_between_directories_is_kept_by_itself(strict: Disk) -> None:
    for name in ("here", "there"):
        (strict.path / name).mkdir()
    synchronise(strict.path)
    kept(strict.path / "here" / "file", OLD)
    (strict.path / "here" / "file").rename(strict.path / "there" / "file")
    strict.order("snapshot:both")
    synchronise(strict.path / "there")
    strict.order("crash")
    assert (names(strict.path / "here"), names(strict.path / "there")) == (["file"], ["file"])
    strict.order("restore:both")
    assert (names(strict.path / "here"), names(strict.path / "there")) == (["file"], [])


def test_a_file_whose_removal_was_not_synchronised_comes_back(disk: Disk) -> None:
    kept(disk.path / "file", OLD)
    (disk.path / "file").unlink()
    disk.order("snapshot:before")
    synchronise(disk.path)
    disk.order("crash")
    assert names(disk.path) == []
    disk.order("restore:before")
    assert (disk.path / "file").read_bytes() == OLD


def test_a_new_directory_is_kept_with_the_one_above_it(strict: Disk) -> None:
    (strict.path / "new").mkdir()
    kept(strict.path / "new" / "file", OLD)
    strict.order("crash")
    assert names(strict.path) == []


def test_a_file_that_was_cut_is_whole_again_or_cut_by_the_journal(disk: Disk, mode: str) -> None:
    kept(disk.path / "file", OLD)
    os.truncate(disk.path / "file", 5)
    with (disk.path / "file").open("rb+") as file:
        file.seek(9)
        file.write(b"late")
    assert (disk.path / "file").read_bytes() == OLD[:5] + bytes(4) + b"late"
    kept(disk.path / "other", NEW)
    disk.order("crash")
    assert (disk.path / "file").read_bytes() == (OLD[:5] if mode == "lenient" else OLD)


# --- random states ---


def test_writes_are_torn_at_sectors_and_only_what_was_not_synchronised(disk: Disk) -> None:
    kept(disk.path / "file", b"a" * 4096)
    kept(disk.path / "safe", OLD)
    with (disk.path / "file").open("rb+") as file:
        file.seek(100)
        file.write(b"b" * 3900)
    moment, states = read_moment(disk.moment()), set()
    for seed in range(60):
        left = survivors(moment, seed).entries
        assert left is not None
        assert left["safe"].content is not None
        assert left["safe"].content.read(0, 9999) == OLD
        assert left["file"].content is not None
        octets = left["file"].content.read(0, 9999)
        assert len(octets) == 4096
        assert octets[:100] + octets[4000:] == b"a" * 196
        states.add(octets)
        for sector in range(0, 4096, SECTOR):
            assert len(set(octets[max(sector, 100) : min(sector + SECTOR, 4000)])) == 1
    assert len(states) > 5


def test_a_journal_keeps_names_in_their_order() -> None:
    with Disk("lenient") as disk:
        for number in range(9):
            (disk.path / str(number)).touch()
        moment = read_moment(disk.moment())
        left = {tuple(sorted(survivors(moment, seed).entries or {})) for seed in range(60)}
        assert left == {tuple(map(str, range(count))) for count in range(10)}


def test_a_seed_says_all_and_a_snapshot_can_be_restored_again_and_again(disk: Disk) -> None:
    for number in range(20):
        (disk.path / str(number)).write_bytes(NEW)
    disk.order("snapshot:here")
    disk.order("restore:here:7")
    first = {name: (disk.path / name).read_bytes() for name in names(disk.path)}
    disk.order("restore:here")
    assert names(disk.path) == []
    disk.order("restore:here:7")
    assert {name: (disk.path / name).read_bytes() for name in names(disk.path)} == first
    with pytest.raises(OSError, match="Invalid"):
        disk.order("restore:nowhere")
    with pytest.raises(OSError, match="Invalid"):
        disk.order("nonsense")


def test_what_is_written_out_is_what_a_crash_leaves(disk: Disk, tmp_path: Path) -> None:
    (disk.path / "directory").mkdir(mode=0o700)
    synchronise(disk.path)
    with (disk.path / "directory" / "file").open("wb") as file:
        file.write(OLD + bytes(100_000))
    synchronise(disk.path / "directory" / "file")
    synchronise(disk.path / "directory")
    survivors(read_moment(disk.moment()), None).write(tmp_path / "out")
    disk.order("crash")
    for place in (disk.path, tmp_path / "out"):
        assert (place / "directory" / "file").read_bytes() == OLD + bytes(100_000)
        assert (place / "directory").stat().st_mode & 0o777 == 0o700


def test_a_file_that_was_open_belongs_to_nothing_after_a_crash(disk: Disk) -> None:
    with kept(disk.path / "file", OLD).open("rb+", buffering=0) as file:
        disk.order("crash")
        with contextlib.suppress(OSError):
            file.write(NEW)
            os.fsync(file.fileno())
    assert (disk.path / "file").read_bytes() == OLD


# --- orders ---


def test_a_disk_can_be_told_to_synchronise_nothing(disk: Disk) -> None:
    disk.order("nosync")
    kept(disk.path / "file", OLD)
    disk.order("crash")
    assert names(disk.path) == []


def test_a_disk_can_be_told_to_synchronise_no_directories(strict: Disk) -> None:
    kept(strict.path / "before", OLD)
    strict.order("nodirsync")
    kept(strict.path / "file", OLD)
    with (strict.path / "before").open("wb") as file:
        file.write(NEW)
        file.flush()
        os.fsync(file.fileno())
    strict.order("crash")
    assert names(strict.path) == ["before"]
    assert (strict.path / "before").read_bytes() == NEW


def test_a_disk_can_be_full(disk: Disk) -> None:
    kept(disk.path / "file", OLD)
    disk.order("full:5000")
    with pytest.raises(OSError, match="No space") as caught:
        (disk.path / "more").write_bytes(NEW)
    assert caught.value.errno == errno.ENOSPC
    assert os.statvfs(disk.path).f_bavail == 0
    disk.order("full:0")
    (disk.path / "more").write_bytes(NEW)


def test_a_synchronisation_that_failed_succeeds_the_second_time_and_has_kept_nothing(disk: Disk) -> None:
    kept(disk.path / "file", OLD)
    with (disk.path / "file").open("rb+", buffering=0) as file:
        file.write(NEW)
        disk.order("eio:1")
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(file.fileno())
        os.fsync(file.fileno())
    assert (disk.path / "file").read_bytes() == NEW
    disk.order("crash")
    assert (disk.path / "file").read_bytes() == OLD
    assert json.loads(os.getxattr(disk.path, ATTRIBUTE))["files"] == 3


# --- what SQLite needs of it ---


def in_another_process(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_memory_is_shared_among_processes(disk: Disk) -> None:
    path = kept(disk.path / "file", bytes(65536))
    with path.open("rb+") as file, mmap.mmap(file.fileno(), 65536) as shared:
        shared[40_000:40_003] = b"yes"
        program = (
            "import mmap, sys; f = open(sys.argv[1], 'rb+'); m = mmap.mmap(f.fileno(), 65536);"
            "print(m[40000:40003].decode()); m[7:10] = b'too'"
        )
        assert in_another_process(program, path) == "yes\n"
        assert shared[7:10] == b"too"


@pytest.mark.parametrize("command", ["F_SETLK", "F_OFD_SETLK"])
def test_bytes_are_locked_among_processes(disk: Disk, command: str) -> None:
    path = kept(disk.path / "file", b"")
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 7, 1, 0)
    program = (
        "import fcntl, os, struct, sys; f = open(sys.argv[1], 'rb+')\n"
        "for byte in (7, 8):\n"
        "    lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)\n"
        "    try: fcntl.fcntl(f, getattr(fcntl, sys.argv[2]), lock); print('free', end=' ')\n"
        "    except BlockingIOError: print('taken', end=' ')\n"
    )
    with path.open("rb+") as file:
        fcntl.fcntl(file, getattr(fcntl, command), lock)
        assert in_another_process(program, path, command) == "taken free "
    assert in_another_process(program, path, command) == "free free "


@pytest.mark.parametrize(("synchronous", "left"), [("FULL", 4), ("NORMAL", 0)])
def test_a_log_written_by_several_processes_keeps_what_was_committed(disk: Disk, synchronous: str, left: int) -> None:
    path = disk.path / "database"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE some (number INTEGER)")
        program = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n"
            "c.execute('PRAGMA synchronous = ' + sys.argv[2])\n"
            "c.execute('INSERT INTO some VALUES (1)'); c.execute('INSERT INTO some VALUES (2)')\n"
        )
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM some").fetchall()  # a reader: the others make no checkpoint at their end
        for _ in range(2):
            in_another_process(program, path, synchronous)
        moment = read_moment(disk.moment())
    state = disk.beside() / "state"
    survivors(moment, None).write(state)
    with contextlib.closing(sqlite3.connect(state / "database")) as connection:
        assert connection.execute("SELECT count(*) FROM some").fetchone() == (left,)


# --- the service on it ---


@pytest.mark.parametrize("which", CONTROLS)
def test_a_defect_is_found(which: str) -> None:
    result = power.control(which, Extent(full=False, seed=1, seconds=30))
    assert result.violations
    assert result.states
