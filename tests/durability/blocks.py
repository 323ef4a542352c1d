"""Power cuts on ext4 and xfs: from the log of a disk, every state that a cut could have left, mounted and judged.

Between two flushes a disk may have done any of the writes, and half of one: so a state is the writes before a flush,
and a choice of those after it. Whoever was answered by then must have been told the truth: a state is judged with the
ledgers of all moments at which the power could have gone and left it, from its last write to the next flush.

Invariant: no state is made that a disk with a volatile cache and sectors of 512 octets could not be in.
"""

import contextlib
import mmap
import os
import random
import shutil
import subprocess
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from conftest import fill
from durability import blocklog
from durability.blocklog import Disk, Entry
from durability.ledger import Found, Ledger, State, look_inside
from durability.report import Extent, Result
from durability.script import ACCOUNTS, DONE, Story
from durability.service import planted
from running import Service
from winpop.db.home import Home

_SECTOR = 512
_CHUNK = 64 * 1024
_ROOM = 2 << 30
_SUBSETS = {True: 8, False: 2}
_TORN = {True: 8, False: 2}
_STATES = {"ext4": 150, "xfs": 25}
"""How many states a sample has."""
_SERVED = {True: 40, False: 3}
"""How many of the states are served by the real service as well."""
_CROWD, _FETCH, _DELETE = 36, 6, 5
_SIZES = [125_000, 110_000, 900, 200_000, 120_000]
"""Messages for each mailbox after the script, after how many a fetch follows, how many of them it deletes; their sizes.
It is twice the 1000 pages after which SQLite brings its log into the database and begins it anew. From then on a commit
writes over blocks that the file has, so that no journal of the file system is written by the way: only then does a
directory that was not synchronised show."""
_PASSES = {True: 6, False: 2}
"""In how many goes through the log the states are taken, so that running out of time leaves out some everywhere."""
EATMYDATA = "/usr/lib/x86_64-linux-gnu/libeatmydata.so"
_IN_THE_PROGRAM = {"nodirsync": "skipped", "synchronous-normal": "normal", "250-too-early": "early"}
"""What can be broken in the program itself: our word for it, and that of `planted`."""
BROKEN = ("eatmydata", *_IN_THE_PROGRAM)
_WHOLE = -1


# --- crash states ---


class Pick(NamedTuple):
    """A write that was done: the entry of the log, and a bit for each of its sectors that was written."""

    entry: int
    sectors: int = _WHOLE


@dataclass(frozen=True, slots=True)
class Cut:
    """A state after a power cut: all before the window, and these writes of it, in their order."""

    window: int
    picks: tuple[Pick, ...]

    def __str__(self) -> str:
        """Say which, so that it can be made again."""
        picks = " ".join(f"{entry}" if sectors == _WHOLE else f"{entry}:{sectors:x}" for entry, sectors in self.picks)
        return f"window {self.window} with [{picks}]"


@dataclass(slots=True)
class Window:
    """What lies between two flushes: entries `begin` to `end` of the log, the writes among them."""

    begin: int
    end: int
    writes: list[int] = field(default_factory=list)


class Replay:
    """The states that a log allows, on an image as it was when the log began."""

    def __init__(self, kind: str, image: Path, log: list[Entry], directory: Path) -> None:
        self.kind, self.log = kind, log
        self.windows = list(_windows(log))
        self.marks = [(position, int(entry.data)) for position, entry in enumerate(log) if entry.kind == blocklog.MARK]
        self._positions = [position for position, _ in self.marks]
        self._size = image.stat().st_size
        self._image = list(_chunks(image))
        self._base = mmap.mmap(-1, self._size)
        self._used: set[int] = set()
        """The chunks of the base that are not all zero."""
        self._done = 0
        """The window before which the base is."""
        self._scratch, self._place = directory / "scratch", directory / "again"
        self._place.mkdir()
        self.rewind()

    def cuts(self, subsets: int, torn: int, seed: int) -> Iterator[Cut]:
        """Yield each state once: nothing, all prefixes, and of each window some subsets, and some with a torn write."""
        for number, window in enumerate(self.windows):
            if window.end < self._positions[0]:
                continue  # the mount that is logged
            chosen = random.Random(f"{seed} {number}")
            seen: set[tuple[Pick, ...]] = set()
            last = number == len(self.windows) - 1
            # A window's whole is the next one's nothing.
            wanted = [tuple(map(Pick, window.writes[:n])) for n in range(len(window.writes) + last)]
            if window.writes:
                wanted += [tuple(map(Pick, _subset(window.writes, chosen))) for _ in range(subsets)]
                wanted += [self._torn(window.writes, chosen) for _ in range(torn)]
            else:
                wanted = wanted or [()]
            for picks in wanted:
                if picks not in seen and (last or len(picks) < len(window.writes) or _is_torn(picks)):
                    seen.add(picks)
                    yield Cut(number, picks)

    def _torn(self, writes: list[int], chosen: random.Random) -> tuple[Pick, ...]:
        """Return a subset of which the last was under way, its first or last half done, or any of its sectors."""
        last = chosen.randrange(len(writes))
        sectors = self.log[writes[last]].size // _SECTOR
        half = (1 << sectors // 2) - 1
        mask = chosen.choice([half, ~half & (1 << sectors) - 1, chosen.getrandbits(max(sectors, 1))])
        before = writes[:last] if chosen.random() < 0.5 else _subset(writes[:last], chosen)
        return (*map(Pick, before), Pick(writes[last], mask))

    def moments(self, cut: Cut) -> list[int]:
        """Return the marks at which the power may have gone and left this state: the numbers that they bear.

        They are the last one before the last write that was done, and all from there to the end of the window.
        """
        window = self.windows[cut.window]
        last = cut.picks[-1].entry if cut.picks else self._last_write(cut.window)
        first = max(bisect_right(self._positions, last) - 1, 0)
        return [number for _, number in self.marks[first : bisect_right(self._positions, window.end)]]

    def _last_write(self, window: int) -> int:
        """Return the last write before a window."""
        before = (earlier.writes[-1] for earlier in reversed(self.windows[:window]) if earlier.writes)
        return next(before, 0)

    # --- making them: in the order of the log ---

    def rewind(self) -> None:
        """Go back to the beginning of the log."""
        for chunk in self._used:
            self._base[chunk * _CHUNK : (chunk + 1) * _CHUNK] = bytes(min(_CHUNK, self._size - chunk * _CHUNK))
        self._used.clear()
        self._done = 0
        for offset, data in self._image:
            self._store(offset, data)

    def _store(self, offset: int, data: bytes) -> None:
        self._base[offset : offset + len(data)] = data
        if data.count(0) == len(data):
            return
        self._used.update(range(offset // _CHUNK, (offset + len(data) - 1) // _CHUNK + 1))

    def _advance(self, window: int) -> None:
        """Bring the base to where this window begins."""
        assert window >= self._done, "states come in the order of the log"
        for done in self.windows[self._done : window]:
            for number in done.writes:
                self._store(self.log[number].offset, _octets(self.log[number]))
        self._done = window

    def _write(self, cut: Cut) -> None:
        """Make the scratch image that state."""
        self._advance(cut.window)
        descriptor = os.open(self._scratch, os.O_RDWR)
        try:
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, self._size)
            view = memoryview(self._base)
            for first, last in _runs(sorted(self._used)):
                os.pwrite(descriptor, view[first * _CHUNK : last * _CHUNK], first * _CHUNK)
            view.release()
            for number, sectors in cut.picks:
                for offset, octets in _pieces(self.log[number], sectors):
                    os.pwrite(descriptor, octets, offset)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def device(self) -> Iterator[str]:
        """The loop device for the states."""
        with self._scratch.open("wb") as file:
            file.truncate(self._size)
        with blocklog.loop_device(self._scratch) as device:
            yield device

    @contextlib.contextmanager
    def mounted(self, cut: Cut, device: str) -> Iterator[Path]:
        """The file system after that cut, mounted as a start of the machine would. Raises `OSError`."""
        self._write(cut)
        with blocklog.mounted(device, self.kind, self._place, blocklog.AGAIN[self.kind]) as place:
            yield place


def _windows(log: list[Entry]) -> Iterator[Window]:
    begin, writes = 0, list[int]()
    for number, entry in enumerate(log):
        if entry.kind == blocklog.FLUSH:
            yield Window(begin, number, writes)
            begin, writes = number + 1, []
        elif entry.kind != blocklog.MARK:
            writes.append(number)
    yield Window(begin, len(log), writes)


def _chunks(image: Path) -> Iterator[tuple[int, bytes]]:
    """Yield what an image has, and where, without its holes."""
    with image.open("rb") as file:
        offset = 0
        while data := file.read(_CHUNK):
            if data.count(0) != len(data):
                yield offset, data
            offset += len(data)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the beginnings and ends of what lies together in sorted numbers."""
    begin = end = -1
    for number in numbers:
        if number != end:
            if end > begin:
                yield begin, end
            begin = number
        end = number + 1
    if end > begin:
        yield begin, end


def _octets(entry: Entry) -> bytes:
    return entry.data if entry.kind == blocklog.WRITE else bytes(entry.size)


def _pieces(entry: Entry, sectors: int) -> Iterator[tuple[int, bytes]]:
    octets = _octets(entry)
    if sectors == _WHOLE:
        yield entry.offset, octets
        return
    for number in range(entry.size // _SECTOR):
        if sectors >> number & 1:
            yield entry.offset + number * _SECTOR, octets[number * _SECTOR : (number + 1) * _SECTOR]


def _subset(writes: list[int], chosen: random.Random) -> list[int]:
    return [number for number in writes if chosen.random() < 0.5]


def _is_torn(picks: tuple[Pick, ...]) -> bool:
    return any(sectors != _WHOLE for _, sectors in picks)


# --- what was told when ---


@dataclass(slots=True)
class Marked(Ledger):
    """A ledger that puts a mark into the log at each entry, and keeps a copy of itself for each mark."""

    disk: Disk | None = None
    copies: list[Ledger] = field(default_factory=list)

    def entered(self, told: str = "") -> None:  # noqa: ARG002 - any entry counts
        """Put a mark."""
        assert self.disk is not None
        self.copies.append(self.copy())
        self.disk.mark(str(len(self.copies) - 1))


# --- the run ---


def run_ext4(extent: Extent) -> Result:
    """Cut the power at every moment of the script, on ext4."""
    return _run("ext4", extent)


def run_xfs(extent: Extent) -> Result:
    """Cut the power at every moment of the script, on xfs."""
    return _run("xfs", extent)


def control(which: str, extent: Extent) -> Result:
    """Do the same with a service that is broken on purpose: there must be violations.

    `which` is one of `BROKEN`, on ext4, or with ` on xfs` behind it. `eatmydata` is a service whose fsync does nothing.
    """
    what, _, kind = which.partition(" on ")
    environment = {"LD_PRELOAD": EATMYDATA} if what == "eatmydata" else planted(_IN_THE_PROGRAM[what])
    return _run(kind or "ext4", extent, **environment)


def missing() -> str:
    """Return what this machine lacks, or nothing."""
    lacking = blocklog.missing() + ([] if Path(EATMYDATA).exists() else ["libeatmydata1"])
    return f"it needs {', '.join(lacking)}" if lacking else ""


def directory() -> "tempfile.TemporaryDirectory[str]":
    """Make a directory for images: in memory, where there is the room, for a loop device's flushes are real."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM
    return tempfile.TemporaryDirectory(prefix="winpop-blocks-", dir=memory if roomy else None)


def images(kind: str, place: Path) -> tuple[Path, Path]:
    """Make an image with an empty file system, and one that stays as it is."""
    image, before = place / "image", place / "before"
    blocklog.make_file_system(kind, image)
    subprocess.run(["cp", "--sparse=always", image, before], timeout=60, check=True)
    return image, before


def _run(kind: str, extent: Extent, **environment: str) -> Result:
    began = time.monotonic()
    result = Result(f"power cut, block log on {kind}")
    with directory() as name:
        place = Path(name)
        image, before = images(kind, place)
        ledger = _record(kind, place, result, environment)
        image.unlink()
        log = until_the_end(place / "log", len(ledger.copies))
        replay = Replay(kind, before, log, place)
        _judge(replay, ledger.copies, extent, result)
    result.seconds = time.monotonic() - began
    return result


def _record(kind: str, place: Path, result: Result, environment: dict[str, str]) -> Marked:
    """Let the service live through the script on a disk with a log."""
    (place / "mnt").mkdir()
    with (
        blocklog.logged_disk(place / "image", place) as disk,
        blocklog.loop_device(disk.file) as device,
        blocklog.mounted(device, kind, place / "mnt", blocklog.LIVE[kind]) as mnt,
    ):
        home = Home(mnt / "home")
        ledger = Marked(disk=disk)
        ledger.entered()
        for address in ACCOUNTS:
            ledger.mailbox(address, None)
        fill(home, dict.fromkeys(ACCOUNTS, b"secret"))
        for address in ACCOUNTS:
            ledger.mailbox(address, True)
        service = Service(home.path, prefix=(), **environment)
        try:
            story = Story(home.path, service.ports, ledger, environment)
            for _ in story.all():
                pass
            with ThreadPoolExecutor(len(ACCOUNTS)) as pool:
                list(pool.map(lambda address: _crowd(story, address), ACCOUNTS))
        finally:
            service.kill()
        disk.mark(str(len(ledger.copies)))
    undone = [f"{name} was not done" for name, outcome in story.said if outcome != DONE]
    result.violated("without any fault", [*story.wrong, *undone])
    return ledger


def _crowd(story: Story, mailbox: str) -> None:
    """Deliver, fetch and delete in one mailbox, while others do in theirs, until the database's log begins anew."""
    for n in range(_CROWD):
        token, size = f"c-{mailbox.partition('@')[0]}-{n}", _SIZES[n % len(_SIZES)]
        story.step(token, partial(story.deliver, token, size, mailbox))
        if n % _FETCH == _FETCH - 1:
            story.step(f"fetch after {token}", partial(story.fetch, mailbox, delete=_DELETE))


def until_the_end(log: Path, last: int) -> list[Entry]:
    """Return the log up to the end of the script: what the unmount wrote is not of it."""
    taken: list[Entry] = []
    for entry in blocklog.entries(log):
        if entry.kind == blocklog.MARK and int(entry.data) == last:
            return taken
        taken.append(entry)
    raise AssertionError("a log without its end")


def _judge(replay: Replay, copies: list[Ledger], extent: Extent, result: Result) -> None:
    cuts = list(replay.cuts(_SUBSETS[extent.full], _TORN[extent.full], extent.seed))
    chosen = extent.some(list(range(len(cuts))), _STATES[replay.kind])
    served = set(extent.random.sample(chosen, min(len(chosen), _SERVED[extent.full])))
    result.of = len(cuts)
    extent.random.shuffle(chosen)
    moments = services = 0
    with replay.device() as device:
        for number in _in_passes(replay, chosen, _PASSES[extent.full]):
            if extent.over():
                result.notes.append(f"out of time after {result.states} of {len(chosen)} states")
                break
            cut, serve = cuts[number], number in served
            ledgers = [copies[moment] for moment in replay.moments(cut)]
            result.points += 1
            result.states += 1
            moments += len(ledgers)
            services += serve
            result.violated(str(cut), list(dict.fromkeys(_look(replay, cut, device, ledgers, serve=serve))))
    writes = sum(len(window.writes) for window in replay.windows)
    result.notes.append(
        f"{writes} writes, {len(replay.windows) - 1} flushes, {len(replay.marks)} marks; {moments} judgements, "
        f"{services} states served"
    )


def _in_passes(replay: Replay, chosen: list[int], passes: int) -> Iterator[int]:
    for begin in range(passes):
        replay.rewind()
        yield from sorted(chosen[begin::passes])


def _look(replay: Replay, cut: Cut, device: str, ledgers: list[Ledger], *, serve: bool) -> list[str]:
    """Return what is wrong after that cut, with whichever of these ledgers."""
    try:
        with replay.mounted(cut, device) as place:
            home = Home(place / "home")
            state = look_inside(home) if home.exists() else State({}, frozenset())
            wrong = [sentence for ledger in ledgers for sentence in ledger.copy().violations(state)]
            if serve and state.mail:
                wrong += _serve(home, state)
            return wrong
    except Exception as error:  # noqa: BLE001 - whatever it is, a hand would be needed
        return [f"it does not open: {type(error).__name__}: {error}"]


def _serve(home: Home, state: State) -> list[str]:
    """Start the real service; return where it gives out something else than what lies there."""
    wrong = []
    with Service(home.path, "--workers", "0") as service:
        for address, found in state.mail.items():
            if not {address, address.partition("@")[2]} & state.locked:
                client = service.log_on(address)
                unique_ids = [line.split()[1].decode() for line in client.uidl()[1]]
                bodies = [b"".join(line + b"\r\n" for line in client.retr(n + 1)[1]) for n in range(len(unique_ids))]
                client.quit()
                if [Found(*pair) for pair in zip(unique_ids, bodies, strict=True)] != found:
                    wrong.append(f"{address}: the service gives out something else")
    return wrong
