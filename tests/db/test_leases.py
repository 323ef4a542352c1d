"""Leases: held once, whoever asks, and freed by the kernel when the holder dies (threats.md M1, M11)."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from winpop.db.leases import SERVICE, Leases, mailbox_number

HOLDS = """
import sys, pathlib
from winpop.db.leases import Leases
leases = Leases(pathlib.Path(sys.argv[1]))
print([leases.take(int(number)) for number in sys.argv[2:]], flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of leases."""
    return tmp_path / "leases"


@pytest.fixture
def leases(path: Path) -> Iterator[Leases]:
    """The leases as this process sees them."""
    opened = Leases(path)
    yield opened
    opened.close()


class Holder:
    """Another process that takes leases and keeps them until it is killed."""

    def __init__(self, path: Path, *numbers: int) -> None:
        command = [sys.executable, "-c", HOLDS, str(path), *map(str, numbers)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.took = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_lease_is_held_once_in_a_process(leases: Leases) -> None:
    assert leases.take(7)
    assert not leases.take(7)
    leases.free(7)
    assert leases.take(7)


def test_a_lease_is_held_once_among_processes_and_freed_when_its_holder_is_killed(path: Path, leases: Leases) -> None:
    assert leases.take(8)
    holder = Holder(path, 7, 8)
    try:
        assert holder.took == "[True, False]"
        assert not leases.take(7)
    finally:
        holder.kill()
    assert leases.take(7)


def test_a_lease_that_was_given_back_can_be_taken_by_another_process(path: Path, leases: Leases) -> None:
    assert leases.take(7)
    leases.free(7)
    holder = Holder(path, 7)
    holder.kill()
    assert holder.took == "[True]"


def test_leases_are_independent_up_to_the_largest_number(path: Path, leases: Leases) -> None:
    numbers = [0, 1, 1024, 2**31, 2**32, 2**62]
    assert all(map(leases.take, numbers))
    leases.free(2**32)
    others = [2, 1025, 2**31 + 1, 2**32, 2**62 - 1, 2**62]
    holder = Holder(path, *others)
    holder.kill()
    assert holder.took == str([True, True, True, True, True, False])


@pytest.mark.skipif(sys.platform != "linux", reason="POSIX locks do not promise it")
def test_closing_another_descriptor_of_the_file_frees_nothing(path: Path, leases: Leases) -> None:
    assert leases.take(7)
    path.read_bytes()
    second = Leases(path)
    assert not second.take(7)
    second.close()
    holder = Holder(path, 7)
    holder.kill()
    assert holder.took == "[False]"


def test_close_gives_everything_back(path: Path) -> None:
    first, second = Leases(path), Leases(path)
    assert first.take(7)
    first.close()
    assert second.take(7)
    second.close()


def test_no_maildrop_has_the_number_of_the_service() -> None:
    numbers = [mailbox_number(identifier) for identifier in range(1, 100)]
    assert len(set(numbers)) == 99
    assert SERVICE not in numbers


def test_only_the_owner_may_use_the_file(path: Path, leases: Leases) -> None:
    assert leases.take(7)
    assert path.stat().st_mode & 0o777 == 0o600
