"""A file system in memory that forgets what was not synchronised: the power cut of the tests, as a program.

    python forgetful.py MOUNTPOINT --mode lenient|strict

`strict` is POSIX to the letter: a synchronised file has its bytes, a synchronised directory its names, and nothing else
is kept; each half of a rename between two directories is kept or lost by itself, a rename inside one is one change.
`lenient` is ext4 with its journal: names, renames and shrinkings are kept in their order, and synchronising anything
keeps all of them that came before; but bytes, and the length that they gave a file, only those of the synchronised file
(as with delayed allocation, a file that was never synchronised is there and empty). In both, owners, permissions and
times are kept at once. Byte-range locks and shared memory are the kernel's own, so they work among processes.

Orders are written to the attribute `user.forgetful` of the mount's root:

    crash, crash:SEED               what was not synchronised is gone; or a random part of it has survived
    snapshot:NAME                   note this moment, from which many crashes can be taken
    restore:NAME, restore:NAME:SEED be as after a crash in that moment
    moment:FILE                     write this moment to a file outside, for `read_moment`
    nosync, nodirsync               from now on synchronising does nothing at all, or for directories nothing
    full:OCTETS, eio:COUNT          hold so much and no more; fail the next synchronisations, which lose what waited

Of what was not synchronised a random part survives: of writes whole ones or some sectors of 512 octets, in no order; of
changes of names a subset (strict) or a beginning (lenient). Invariant: what was synchronised is in every state after a
crash, and files that were open before it belong to nothing any more.
"""

import argparse
import contextlib
import errno
import importlib
import itertools
import json
import marshal
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ATTRIBUTE = "user.forgetful"
SECTOR = 512
_ROOM = 1 << 40
_BLOCK = 4096

Write = tuple[int, int, bytes | None]
"""A change of a file: its number in the order of all changes, an offset, the bytes; None cuts the file there."""
Names = tuple[int, dict[str, int | None]]
"""A change of a directory: its number, and the inode that each name means from then on."""


class Status(NamedTuple):
    """What an inode has beside its content."""

    mode: int
    uid: int
    gid: int


@dataclass(slots=True)
class Moment:
    """What there is on the disk, and what waits for it, by inode; the root is 1."""

    lenient: bool
    files: dict[int, tuple[Status, "Content", list[Write]]]
    directories: dict[int, tuple[Status, dict[str, int], list[Names]]]

    def write(self, path: Path) -> None:
        """Write it to a file."""
        files = {
            inode: (tuple(status), bytes(kept.octets), kept.size, late)
            for inode, (status, kept, late) in self.files.items()
        }
        names = {inode: (tuple(status), kept, late) for inode, (status, kept, late) in self.directories.items()}
        path.write_bytes(marshal.dumps((self.lenient, files, names)))


def read_moment(path: Path) -> Moment:
    """Read a moment from a file."""
    lenient, files, names = marshal.loads(path.read_bytes())
    return Moment(
        lenient,
        {
            inode: (Status(*status), Content(bytearray(octets), size), late)
            for inode, (status, octets, size, late) in files.items()
        },
        {inode: (Status(*status), kept, late) for inode, (status, kept, late) in names.items()},
    )


@dataclass(slots=True)
class Tree:
    """A file or a directory as a crash left it."""

    status: Status
    content: "Content | None" = None
    entries: dict[str, "Tree"] | None = None

    def write(self, path: Path) -> None:
        """Write it to a real disk, under this name."""
        if self.content is not None:
            path.write_bytes(self.content.octets)
            os.truncate(path, self.content.size)
        if self.entries is not None:
            path.mkdir(exist_ok=True)
            for name, entry in self.entries.items():
                entry.write(path / name)
        path.chmod(stat.S_IMODE(self.status.mode))


def survivors(moment: Moment, seed: int | None) -> Tree:
    """Return what a crash in that moment leaves: without a seed only what was synchronised."""
    return _Crash(moment, seed).directory(1)


class _Crash:
    """One crash: which of the changes that waited have survived."""

    def __init__(self, moment: Moment, seed: int | None) -> None:
        self._moment = moment
        self._random = None if seed is None else random.Random(seed)
        self._journal = 0
        self._share = 0.0
        if self._random is not None:
            numbers = [late[0] for _, _, changes in moment.directories.values() for late in changes]
            numbers += [late[0] for _, _, writes in moment.files.values() for late in writes]
            first = min(numbers, default=1) - 1
            self._journal = self._random.choice([first, *numbers])
            self._share = self._random.choice([0.1, 0.5, 0.9, 1.0])
        self._seen: dict[int, Tree] = {}

    def directory(self, inode: int) -> Tree:
        """Return a directory with all that is below it."""
        if inode not in self._seen:
            status, kept, late = self._moment.directories[inode]
            tree = self._seen[inode] = Tree(status, entries={})
            names: dict[str, int | None] = dict(kept)
            for number, change in late:
                if self._name_survived(number):
                    names.update(change)
            assert tree.entries is not None
            for name, meant in names.items():
                if meant is not None:
                    tree.entries[name] = (
                        self.directory(meant) if meant in self._moment.directories else self._file(meant)
                    )
        return self._seen[inode]

    def _name_survived(self, number: int) -> bool:
        if self._random is None:
            return False
        return number <= self._journal if self._moment.lenient else self._random.random() < self._share

    def _file(self, inode: int) -> Tree:
        if inode not in self._seen:
            status, kept, late = self._moment.files[inode]
            content = kept.copy()
            for change in self._surviving(late):
                content.apply(change)
            self._seen[inode] = Tree(status, content)
        return self._seen[inode]

    def _surviving(self, late: list[Write]) -> Iterator[Write]:
        chance = self._random
        if chance is None or not late:
            return
        manner = chance.choice(["none", "all", "beginning", "some", "torn", "torn"])
        end = chance.randrange(len(late) + 1)
        for index, change in enumerate(late):
            number, _, octets = change
            if octets is None:
                if number <= self._journal if self._moment.lenient else chance.random() < self._share:
                    yield change
            elif manner == "all" or (manner == "beginning" and index < end):
                yield change
            elif manner == "beginning" and index == end:
                yield from self._torn(change, chance)  # the one that was under way
            elif manner in ("some", "torn") and chance.random() < self._share:
                yield from self._torn(change, chance) if manner == "torn" else [change]

    @staticmethod
    def _torn(change: Write, chance: random.Random) -> Iterator[Write]:
        """Yield some sectors of a write: those before or after a point, or any."""
        number, offset, octets = change
        assert octets is not None
        end = offset + len(octets)
        edges = [offset, *range((offset // SECTOR + 1) * SECTOR, end, SECTOR), end]
        sectors = list(itertools.pairwise(edges))
        cut = chance.randrange(len(sectors) + 1)
        match chance.choice(["before", "after", "any"]):
            case "before":
                sectors = sectors[:cut]
            case "after":
                sectors = sectors[cut:]
            case _:
                share = chance.choice([0.1, 0.5, 0.9])
                sectors = [sector for sector in sectors if chance.random() < share]
        for begin, stop in sectors:
            yield number, begin, octets[begin - offset : stop - offset]


@dataclass(slots=True)
class Content:
    """The bytes of a file. The zeros at its end take no room: a file of 16 MiB of them is copied in no time."""

    octets: bytearray = field(default_factory=bytearray)
    size: int = 0

    def apply(self, change: Write) -> None:
        """Change it."""
        _, offset, octets = change
        if octets is None:
            del self.octets[offset:]
            self.size = offset
            return
        end = offset + len(octets)
        if end > len(self.octets):
            octets = octets.rstrip(b"\0")
        if octets or end <= len(self.octets):
            if len(self.octets) < offset:
                self.octets.extend(bytes(offset - len(self.octets)))
            self.octets[offset : offset + len(octets)] = octets
            if end > offset + len(octets):
                del self.octets[offset + len(octets) :]
        else:
            del self.octets[offset:]
        self.size = max(self.size, end)

    def read(self, offset: int, size: int) -> bytes:
        """Return a part."""
        size = max(min(size, self.size - offset), 0)
        return bytes(self.octets[offset : offset + size]).ljust(size, b"\0")

    def copy(self) -> "Content":
        """Return another that is the same."""
        return Content(bytearray(self.octets), self.size)


@dataclass(slots=True, eq=False)
class _File:
    inode: int
    status: Status
    live: Content = field(default_factory=Content)
    kept: Content = field(default_factory=Content)
    late: list[Write] = field(default_factory=list)
    changed: int = field(default_factory=time.time_ns)

    def synchronise(self) -> None:
        """Keep the content."""
        for change in self.late:
            self.kept.apply(change)
        self.late.clear()

    def shrink(self) -> None:
        """Keep what the journal has of it: where it was cut."""
        waiting: list[Write] = []
        for change in self.late:
            _, size, octets = change
            if octets is not None:
                waiting.append(change)
            else:
                self.kept.apply(change)
                waiting = [(n, at, data[: size - at]) for n, at, data in waiting if data is not None and at < size]
        self.late = waiting


@dataclass(slots=True, eq=False)
class _Directory:
    inode: int
    status: Status
    live: dict[str, "_File | _Directory"] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    late: list[Names] = field(default_factory=list)
    changed: int = field(default_factory=time.time_ns)

    def synchronise(self) -> None:
        """Keep the names."""
        for _, change in self.late:
            for name, inode in change.items():
                if inode is None:
                    self.kept.pop(name, None)
                else:
                    self.kept[name] = inode
        self.late.clear()


class Forgetful:
    """The operations, as libfuse calls them one after another."""

    use_ns = True

    def __init__(self, *, lenient: bool, caller: Callable[[], tuple[int, int, int]]) -> None:
        self._lenient = lenient
        self._caller = caller
        self._inodes: dict[int, _File | _Directory] = {}
        self._next = 1
        self._number = 0
        self._root = self._directory(Status(0o40755, os.geteuid(), os.getegid()))
        self._handles: dict[int, _File | _Directory] = {}
        self._next_handle = 1
        self._snapshots: dict[str, Moment] = {}
        self._syncs = self._syncs_of_directories = self._eio = 0
        self._nosync = self._nodirsync = False
        self._room = _ROOM
        self._cut: set[_File] = set()
        """Files that were cut since the last commit of the journal."""
        self._renamed: set[_Directory] = set()
        """Directories whose names have changed since then."""

    # --- inodes ---

    def _directory(self, status: Status) -> _Directory:
        made = _Directory(self._take_number(), status)
        self._inodes[made.inode] = made
        return made

    def _file(self, status: Status) -> _File:
        made = _File(self._take_number(), status)
        self._inodes[made.inode] = made
        return made

    def _take_number(self) -> int:
        self._next += 1
        return self._next - 1

    def _find(self, path: str) -> _File | _Directory:
        found: _File | _Directory = self._root
        for name in path.split("/"):
            if name:
                if not isinstance(found, _Directory):
                    raise OSError(errno.ENOTDIR, path)
                below = found.live.get(name)
                if below is None:
                    raise OSError(errno.ENOENT, path)
                found = below
        return found

    def _parent(self, path: str) -> tuple[_Directory, str]:
        above, _, name = path.rpartition("/")
        found = self._find(above)
        if not isinstance(found, _Directory):
            raise OSError(errno.ENOTDIR, path)
        return found, name

    def _regular(self, path: str | None, handle: int | None) -> _File:
        if handle is None and path is None:
            raise OSError(errno.ENOENT, "a file that has no name any more is known by its handle only")
        found = self._handles[handle] if handle else self._find(path or "")
        if not isinstance(found, _File):
            raise OSError(errno.EISDIR, path)
        return found

    def _hold(self, node: _File | _Directory) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._handles[handle] = node
        return handle

    def _rename(self, *changes: tuple[_Directory, dict[str, "_File | _Directory | None"]]) -> None:
        """Change names, in one step of the journal."""
        self._number += 1
        for directory, names in changes:
            for name, node in names.items():
                if node is None:
                    directory.live.pop(name, None)
                else:
                    directory.live[name] = node
            directory.late.append((self._number, {name: node.inode if node else None for name, node in names.items()}))
            directory.changed = time.time_ns()
            self._renamed.add(directory)

    # --- what libfuse calls: inodes and names ---

    def getattr(self, path: str | None, handle: int | None = None) -> dict[str, int]:
        """Tell about an inode."""
        node = self._handles[handle] if handle else self._find(path or "")
        size = node.live.size if isinstance(node, _File) else 0
        return {
            "st_ino": node.inode,
            "st_mode": node.status.mode,
            "st_uid": node.status.uid,
            "st_gid": node.status.gid,
            "st_nlink": 1 if isinstance(node, _File) else 2,
            "st_size": size,
            "st_blocks": -(-size // SECTOR),
            "st_mtime": node.changed,
            "st_ctime": node.changed,
            "st_atime": node.changed,
        }

    def chmod(self, path: str, mode: int) -> int:
        """Change permissions."""
        node = self._find(path)
        node.status = node.status._replace(mode=stat.S_IFMT(node.status.mode) | stat.S_IMODE(mode))
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        """Change the owner; libfuse has -1, as whatever it is unsigned, for what stays."""
        node = self._find(path)
        kept = node.status
        known = range((1 << 32) - 1)
        node.status = kept._replace(uid=uid if uid in known else kept.uid, gid=gid if gid in known else kept.gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        """Change the times, of which there is one."""
        self._find(path).changed = times[1] if times else time.time_ns()
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """Make a directory."""
        parent, name = self._parent(path)
        self._rename((parent, {name: self._directory(Status(stat.S_IFDIR | stat.S_IMODE(mode), *self._caller()[:2]))}))
        return 0

    def create(self, path: str, mode: int) -> int:
        """Make a file and open it."""
        parent, name = self._parent(path)
        made = self._file(Status(stat.S_IFREG | stat.S_IMODE(mode), *self._caller()[:2]))
        self._rename((parent, {name: made}))
        return self._hold(made)

    def unlink(self, path: str) -> int:
        """Remove a name."""
        parent, name = self._parent(path)
        self._rename((parent, {name: None}))
        return 0

    def rmdir(self, path: str) -> int:
        """Remove a directory."""
        parent, name = self._parent(path)
        node = self._find(path)
        if isinstance(node, _Directory) and node.live:
            raise OSError(errno.ENOTEMPTY, path)
        self._rename((parent, {name: None}))
        return 0

    def rename(self, old: str, new: str) -> int:
        """Rename, over what there may be."""
        (source, name), (target, other) = self._parent(old), self._parent(new)
        node = self._find(old)
        if source is target:
            self._rename((source, {name: None, other: node} if name != other else {}))
        else:
            self._rename((source, {name: None}), (target, {other: node}))
        return 0

    def link(self, new: str, old: str) -> int:
        """Give a file another name. After a crash the two are files of their own."""
        parent, name = self._parent(new)
        if name in parent.live:
            raise OSError(errno.EEXIST, new)
        self._rename((parent, {name: self._find(old)}))
        return 0

    def opendir(self, path: str) -> int:
        """Open a directory."""
        return self._hold(self._find(path))

    def readdir(self, _path: str | None, handle: int) -> list[tuple[str, dict[str, int], int]]:
        """List a directory."""
        directory = self._handles[handle]
        assert isinstance(directory, _Directory)
        listed = {".": directory, "..": directory} | directory.live
        return [(name, {"st_ino": node.inode, "st_mode": node.status.mode}, 0) for name, node in listed.items()]

    # --- what libfuse calls: content ---

    def open(self, path: str, flags: int) -> int:
        """Open a file."""
        file = self._regular(path, None)
        if flags & os.O_TRUNC:
            self._resize(file, 0)
        return self._hold(file)

    def read(self, _path: str | None, size: int, offset: int, handle: int) -> bytes:
        """Read."""
        return self._regular(None, handle).live.read(offset, size)

    def write(self, _path: str | None, octets: bytes, offset: int, handle: int) -> int:
        """Write."""
        file = self._regular(None, handle)
        if self._room != _ROOM and self._used() + max(offset + len(octets) - file.live.size, 0) > self._room:
            raise OSError(errno.ENOSPC, "full")
        self._change(file, offset, octets)
        return len(octets)

    def truncate(self, path: str | None, length: int, handle: int | None = None) -> int:
        """Set the length."""
        self._resize(self._regular(path, handle), length)
        return 0

    def _resize(self, file: _File, length: int) -> None:
        if length != file.live.size:
            self._change(file, length, None)
            self._cut.add(file)

    def _change(self, file: _File, offset: int, octets: bytes | None) -> None:
        self._number += 1
        change = (self._number, offset, octets)
        file.live.apply(change)
        file.late.append(change)
        file.changed = time.time_ns()

    def release(self, _path: str | None, handle: int) -> int:
        """Close."""
        self._handles.pop(handle, None)
        return 0

    releasedir = release

    def statfs(self, _path: str) -> dict[str, int]:
        """Tell how much room there is."""
        free = max(self._room - self._used(), 0) // _BLOCK if self._room != _ROOM else _ROOM // _BLOCK
        blocks = self._room // _BLOCK
        return {
            "f_bsize": _BLOCK,
            "f_frsize": _BLOCK,
            "f_blocks": blocks,
            "f_bfree": free,
            "f_bavail": free,
            "f_namemax": 255,
        }

    def _used(self) -> int:
        used, waiting = 0, [self._root]
        while waiting:
            for node in waiting.pop().live.values():
                if isinstance(node, _Directory):
                    waiting.append(node)
                else:
                    used += node.live.size
        return used

    # --- synchronising ---

    def fsync(self, _path: str | None, _datasync: int, handle: int) -> int:
        """Synchronise a file."""
        self._syncs += 1
        self._fail_as_ordered(self._handles[handle])
        if not self._nosync:
            self._regular(None, handle).synchronise()
            self._commit()
        return 0

    def fsyncdir(self, _path: str | None, _datasync: int, handle: int) -> int:
        """Synchronise a directory."""
        self._syncs_of_directories += 1
        self._fail_as_ordered(self._handles[handle])
        if not self._nosync and not self._nodirsync:
            self._handles[handle].synchronise()
            self._commit()
        return 0

    def _commit(self) -> None:
        """Commit the journal, where there is one."""
        if self._lenient:
            for directory in self._renamed:
                directory.synchronise()
            for file in self._cut:
                file.shrink()
            self._renamed.clear()
            self._cut.clear()

    def _fail_as_ordered(self, node: "_File | _Directory") -> None:
        """Fail as a kernel does: what waited counts as written, and is not."""
        if self._eio:
            self._eio -= 1
            node.late.clear()
            raise OSError(errno.EIO, "ordered")

    # --- orders ---

    def setxattr(self, path: str, name: str, value: bytes, *_rest: int) -> int:
        """Take an order."""
        if path != "/" or name != ATTRIBUTE:
            raise OSError(errno.ENOTSUP, name)
        order, _, rest = value.decode().partition(":")
        orders: dict[str, Callable[[str], None]] = {
            "crash": lambda seed: self._be(self._moment(), seed),
            "snapshot": self._note,
            "restore": lambda words: self._be(self._snapshots[words.partition(":")[0]], words.partition(":")[2]),
            "moment": lambda file: self._moment().write(Path(file)),
            "nosync": lambda _: setattr(self, "_nosync", True),
            "nodirsync": lambda _: setattr(self, "_nodirsync", True),
            "full": lambda octets: setattr(self, "_room", int(octets) or _ROOM),
            "eio": lambda count: setattr(self, "_eio", int(count)),
        }
        try:
            orders[order](rest)
        except (KeyError, ValueError):
            raise OSError(errno.EINVAL, value.decode()) from None
        return 0

    def getxattr(self, path: str, name: str, *_rest: int) -> bytes:
        """Tell how often something was synchronised."""
        if path != "/" or name != ATTRIBUTE:
            raise OSError(errno.ENODATA, name)
        return json.dumps({"files": self._syncs, "directories": self._syncs_of_directories}).encode()

    def _note(self, name: str) -> None:
        self._snapshots[name] = self._moment()

    def _moment(self) -> Moment:
        moment = Moment(self._lenient, {}, {})
        waiting: list[int] = [1]
        while waiting:
            inode = waiting.pop()
            node = self._inodes[inode]
            if inode in moment.files or inode in moment.directories:
                continue
            if isinstance(node, _File):
                moment.files[inode] = (node.status, node.kept.copy(), list(node.late))
            else:
                moment.directories[inode] = (node.status, dict(node.kept), list(node.late))
                waiting += node.kept.values()
                waiting += [below for _, names in node.late for below in names.values() if below is not None]
        return moment

    def _be(self, moment: Moment, seed: str) -> None:
        """Be what a crash in that moment leaves. All inodes are new, so that what was open leads nowhere."""
        tree = survivors(moment, int(seed) if seed else None)
        self._inodes.clear()
        self._renamed.clear()
        self._cut.clear()
        self._root = _Directory(1, tree.status)
        self._inodes[1] = self._root
        self._fill(self._root, tree)

    def _fill(self, directory: _Directory, tree: Tree) -> None:
        for name, entry in (tree.entries or {}).items():
            if entry.content is not None:
                file = self._file(entry.status)
                file.live, file.kept = entry.content, entry.content.copy()
                directory.live[name] = file
            else:
                below = self._directory(entry.status)
                self._fill(below, entry)
                directory.live[name] = below
            directory.kept[name] = directory.live[name].inode


def main() -> None:
    """Mount, and serve until it is unmounted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mountpoint")
    parser.add_argument("--mode", choices=["lenient", "strict"], default="lenient")
    given = parser.parse_args()
    binding: Any = importlib.import_module("mfusepy")  # has no types; only this program needs it
    operations = Forgetful(lenient=given.mode == "lenient", caller=binding.fuse_get_context)
    with contextlib.suppress(KeyboardInterrupt):
        binding.FUSE(
            operations,
            given.mountpoint,
            foreground=True,
            nothreads=True,
            hard_remove=True,
            use_ino=True,
            default_permissions=True,
            attr_timeout=0,  # nothing is remembered outside: after a crash all is other than it was
            entry_timeout=0,
            negative_timeout=0,
            fsname="forgetful",
        )


if __name__ == "__main__":
    main()
