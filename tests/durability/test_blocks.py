"""The log of a disk and its replay, with a toy and with the service.

Invariant: what the machine lacks is named; in CI nothing may be lacking.
"""

import os
from pathlib import Path

import pytest

from durability import blocklog, blocks
from durability.blocklog import DISCARD, FLUSH, MARK, WRITE, Entry
from durability.blocks import Cut, Pick, Replay
from durability.report import Extent

_SEED = 20260
_SECTOR = 512


@pytest.fixture
def disks() -> None:
    """What the tests of disks need."""
    lacking = blocks.missing()
    if lacking:
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)


def entry(kind: bytes, offset: int = 0, data: bytes = b"", size: int = 0) -> Entry:
    return Entry(kind, offset, size or len(data), data)


@pytest.fixture
def small(tmp_path: Path) -> Replay:
    """A log of two writes, a flush, a write of two sectors, a discard; marks 0 to 2 before, between and at the end."""
    (tmp_path / "image").write_bytes(b"." * 4 * _SECTOR)
    log = [
        entry(MARK, data=b"0"),
        entry(WRITE, 0, b"a" * _SECTOR),
        entry(WRITE, _SECTOR, b"b" * _SECTOR),
        entry(MARK, data=b"1"),
        entry(FLUSH),
        entry(WRITE, 0, b"c" * 2 * _SECTOR),
        entry(DISCARD, 3 * _SECTOR, size=_SECTOR),
        entry(MARK, data=b"2"),
    ]
    return Replay("ext4", tmp_path / "image", log, tmp_path)


def made(replay: Replay, cut: Cut) -> bytes:
    """Return the first octet of each sector of that state."""
    replay._scratch.touch()
    replay._write(cut)
    return replay._scratch.read_bytes()[::_SECTOR]


def test_all_before_a_flush_is_done_and_what_follows_it_may_be(small: Replay) -> None:
    states = [(made(small, cut), small.moments(cut)) for cut in small.cuts(subsets=20, torn=20, seed=1)]
    done = {state for state, _ in states}
    assert done >= {b"....", b"a...", b".b..", b"ab..", b"cc..", b"ab.\0", b"cc.\0", b"cb..", b"ac.."}
    for state, moments in states:
        if set(state) & set(b"c\0"):
            assert moments == [1, 2]  # the power went after the flush
        elif state != b"ab..":
            assert moments == [0, 1]  # it went before it, with what was told by then


def test_no_state_comes_twice(small: Replay) -> None:
    cuts = list(small.cuts(subsets=20, torn=0, seed=1))
    assert len(cuts) == len(set(cuts))
    assert Cut(0, (Pick(1), Pick(2))) not in cuts  # the next window begins with it
    assert Cut(1, ()) in cuts


def test_the_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"." * 4 * _SECTOR)
    files = blocklog._Files(str(tmp_path / "image"), str(tmp_path / "log"))
    files.write("/disk", b"a" * _SECTOR, _SECTOR, 0)
    files.fsync("/disk", 0, 0)
    files.setxattr("/disk", "user.mark", b"7", 0)
    assert list(blocklog.entries(tmp_path / "log")) == [
        entry(WRITE, _SECTOR, b"a" * _SECTOR),
        entry(FLUSH),
        entry(MARK, data=b"7"),
    ]
    assert files.read("/disk", _SECTOR, _SECTOR, 0) == b"a" * _SECTOR


@pytest.mark.usefixtures("disks")
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_synchronised_file_is_in_all_states_and_another_is_not(kind: str) -> None:
    with blocks.directory() as name:
        place = Path(name)
        image, before = blocks.images(kind, place)
        (place / "mnt").mkdir()
        with (
            blocklog.logged_disk(image, place) as disk,
            blocklog.loop_device(disk.file) as device,
            blocklog.mounted(device, kind, place / "mnt", blocklog.LIVE[kind]) as mnt,
        ):
            disk.mark("0")
            with (mnt / "sure").open("wb") as file:
                file.write(b"sure" * 5000)
                file.flush()
                os.fsync(file.fileno())
            disk.mark("1")
            (mnt / "unsure").write_bytes(b"unsure" * 5000)
            disk.mark("2")
            disk.mark("3")
        replay = Replay(kind, before, blocks.until_the_end(disk.log, 3), place)
        sure, unsure = set(), set()
        with replay.device() as again:
            for cut in replay.cuts(subsets=4, torn=4, seed=1):
                with replay.mounted(cut, again) as mnt:
                    latest = replay.moments(cut)[-1]
                    there = (mnt / "sure").exists() and (mnt / "sure").read_bytes() == b"sure" * 5000
                    sure.add((latest >= 1, there))
                    unsure.add((latest >= 2, (mnt / "unsure").exists()))
    assert (True, False) not in sure
    assert (False, False) in sure
    assert (True, False) in unsure


@pytest.mark.usefixtures("disks")
@pytest.mark.parametrize(
    ("kind", "broken", "came"),
    [
        ("ext4", "eatmydata", "is lost"),
        ("ext4", "nodirsync", "No such file"),
        ("ext4", "synchronous-normal", "is lost"),
        ("ext4", "250-too-early", "is lost"),
        ("xfs", "eatmydata", "is lost"),
    ],
)
def test_what_is_broken_on_purpose_breaks_promises(broken: str, came: str, kind: str) -> None:
    result = blocks.control(f"{broken} on {kind}", Extent(full=False, seed=_SEED, seconds=60))
    assert any(came in sentence for sentence in result.violations)
    if broken != "250-too-early":  # which a client sees that fetches at once
        assert not any("without any fault" in sentence for sentence in result.violations)
