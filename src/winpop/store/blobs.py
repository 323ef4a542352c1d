"""Large message bodies as files under the mail root, and the drafts from which bodies are made.

    ROOT/tmp/NAME      being written
    ROOT/ab/NAME       complete, synchronised, never changed; NAME is 128 random bits in hex, `ab` its first two

Invariant: a file outside `tmp` is complete and on disk, its directory entry included. A failed synchronisation is
never tried again: the draft is dropped (see the durability rule in `store`).
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from winpop.db.home import synchronise, synchronise_above
from winpop.protocol.downgrade import header_of
from winpop.terms.refusals import Refusal, out_of_reach, readable

_MOST_PIECES = 64
"""Pieces of a body in memory: each costs 40 octets besides, and a client may send few octets at a time."""
SMALL = 128 * 1024
"""Octets up to which a body lies in its database row, and in memory while it comes in. Measured as row / blob at 64,
128, 256 KiB and 1 MiB: deliver, 64 a commit, 0.3/1.3, 0.55/1.35, 1.1/1.5, 4.2/2.2 ms each; read 21/21, 36/23, 66/30,
250/65 µs. A row is delivered sooner at 256 KiB too; reading it in the event loop, and memory, set the bound lower."""

_NAME = re.compile("[0-9a-f]{32}")
PIECE = 128 * 1024
"""Octets that are read from a blob at once."""

_ALWAYS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _ALWAYS
_READ = os.O_RDONLY | _ALWAYS


@dataclass(frozen=True, slots=True)
class Content:
    """A finished body: its size, and either its octets or the name of its blob and what was hashed of it so far.

    `downgraded` is its size for clients without UTF8, where `downgrades.reckon` has found that to be another body.
    """

    size: int
    octets: bytes | None
    blob: str | None
    hashed: "hashlib._Hash | None" = None
    downgraded: int | None = None

    def checksum(self, prefix: bytes) -> bytes | None:
        """Return the checksum of a message with this body and this prefix; None where the body was not hashed."""
        if self.octets is not None:
            return checksum(prefix, self.octets)
        if self.hashed is None:
            return None
        whole = self.hashed.copy()
        whole.update(prefix)
        return whole.digest()


def checksum(prefix: bytes, octets: bytes) -> bytes:
    """Return the checksum of a message: SHA-256 of the body and then the prefix, which is known last."""
    whole = hashlib.sha256(octets)
    whole.update(prefix)
    return whole.digest()


class Blobs:
    """The files of one mail root."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which `make` has made."""
        self.root = root
        self.tmp = root / "tmp"

    def is_there(self) -> bool:
        """Tell whether this is a mail root; else it was never made, or its disk is not mounted."""
        return (self.root / "00").is_dir()

    def is_made(self) -> bool:
        """Tell whether all directories are there; a crash may have taken the last, `tmp`."""
        return self.tmp.is_dir()

    def make(self) -> None:
        """Make the directories, once. Raises `Refusal` (`mailroot-unusable`)."""
        try:
            if self.is_made():
                return
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for n in range(256):
                (self.root / f"{n:02x}").mkdir(mode=0o700, exist_ok=True)
            synchronise(self.root)
            synchronise_above(self.root)
            self.tmp.mkdir(mode=0o700, exist_ok=True)  # last: where it is, the others are on disk
        except OSError as error:
            raise unusable(self.root, error) from None

    def path(self, name: str) -> Path:
        """Return where the blob `name` lies."""
        return self.root / name[:2] / name

    def open(self, name: str) -> int:
        """Open a blob for reading; return its descriptor."""
        return os.open(self.path(name), _READ)

    def has(self, name: str) -> bool:
        """Tell whether there is such a blob."""
        return self.path(name).exists()

    def unlink(self, name: str) -> None:
        """Remove a blob that no row names; a missing one is as good as removed."""
        with contextlib.suppress(FileNotFoundError):
            self.path(name).unlink()

    def names(self) -> Iterator[tuple[str, float]]:
        """Yield the name of each blob and when it was written (seconds since 1970)."""
        for n in range(256):
            with os.scandir(self.root / f"{n:02x}") as entries:
                for entry in entries:
                    if _NAME.fullmatch(entry.name):  # what else lies there is not ours
                        with contextlib.suppress(FileNotFoundError):
                            yield entry.name, entry.stat().st_mtime


class Draft:
    """A body that is coming in: in memory while it is small, in a file of its own when it grows."""

    __slots__ = ("_blobs", "_descriptor", "_hashed", "_name", "_pieces", "size")

    def __init__(self, blobs: Blobs) -> None:
        """Begin with nothing."""
        self._blobs = blobs
        self._pieces: list[bytes] = []
        self._descriptor = -1
        self._name = ""
        self._hashed: hashlib._Hash | None = None
        """Of what is in the file."""
        self.size = 0

    @property
    def in_memory(self) -> bool:
        """Tell whether the draft has no file."""
        return self._descriptor < 0

    @property
    def is_simple(self) -> bool:
        """Tell whether there is no file, and nothing that has to be reckoned for clients without UTF8."""
        if not self.in_memory:
            return False
        octets = self._octets()
        return octets.isascii() or header_of(octets).isascii()

    def _octets(self) -> bytes:
        """Return what is in memory, as one piece from now on."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    def keep(self, data: bytes) -> bool:
        """Append in memory, if it fits; tell whether it did."""
        size = self.size + len(data)
        if self._descriptor >= 0 or size > SMALL:
            return False
        self._pieces.append(data)
        if len(self._pieces) > _MOST_PIECES:
            self._octets()
        self.size = size
        return True

    def write(self, data: bytes) -> None:
        """Append, in a file where it does not fit. Raises `Refusal` (`disk-full`, `mailroot-unusable`)."""
        if not self.keep(data):
            try:
                if self._descriptor < 0:
                    self._name = secrets.token_hex(16)
                    self._descriptor = os.open(self._blobs.tmp / self._name, _CREATE, 0o600)
                    self._hashed = hashlib.sha256()
                    for piece in self._pieces:
                        self._write_out(piece)
                    self._pieces.clear()
                self._write_out(data)
            except OSError as error:
                self.discard()
                raise unusable(self._blobs.root, error) from error
            self.size += len(data)

    def _write_out(self, data: bytes) -> None:
        assert self._hashed is not None
        self._hashed.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self) -> Content:
        """Put the body where it stays, durably if it is a file. Raises `Refusal` as `write` does."""
        if self._descriptor < 0:
            return Content(self.size, self._octets(), None)
        try:
            os.fsync(self._descriptor)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)  # once, whatever it says: the number may be another file's already
            place = self._blobs.path(self._name)
            (self._blobs.tmp / self._name).rename(place)
            synchronise(place.parent)
        except OSError as error:
            self.discard()
            raise unusable(self._blobs.root, error) from error
        content = Content(self.size, None, self._name, self._hashed)
        self._name = ""
        return content

    def discard(self) -> None:
        """Drop what there is; harmless when there is nothing."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
        if self._name:
            for path in (self._blobs.tmp / self._name, self._blobs.path(self._name)):
                with contextlib.suppress(OSError):
                    path.unlink()
            self._name = ""
        self._pieces.clear()


def unusable(root: Path, error: OSError) -> Refusal:
    """Make the refusal for a mail root that cannot be written."""
    import errno  # here: only failures need it

    place = readable(str(root))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return out_of_reach("disk-full", f"The disk that holds {place} is full; nothing was changed.")
    return out_of_reach("mailroot-unusable", f"The mail root {place} cannot be used: {error.strerror}.")
