"""Bodies out of a backup, each proven before it is used.

Invariant: what `fetch` returns has the checksum under which the backup keeps it, and lies durably in the mail root if
it is a file; the rows that name it come after it.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from winpop.db.contract import Transaction
from winpop.store import downgrades
from winpop.store.backup_format import Archive
from winpop.store.blobs import PIECE, Blobs, Content, Draft, checksum
from winpop.store.maildrops import BlobReader, Stored


class DamagedError(Exception):
    """A body of the backup that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Body:
    """A proven body, with what belongs to it."""

    content: Content
    plain: bool
    prefix: bytes
    checksum: bytes

    def insert(self, transaction: Transaction) -> int:
        """Give it a row in an installation, and one for clients without UTF8 where it needs that; return its row."""
        place = transaction.insert(
            "INSERT INTO body (size, plain, blob, content, checksum) VALUES (?, ?, ?, ?, ?)",
            self.content.size,
            int(self.plain),
            self.content.blob,
            self.content.octets,
            self.checksum,
        )
        downgrades.insert(transaction, place, self.content)
        return place


def fetch(archive: Archive, body: int, blobs: Blobs) -> Body:
    """Return a body of the backup, placed in a mail root. Raises `DamagedError`, and `Refusal` of the mail root."""
    row = archive.one("SELECT checksum, size, plain, prefix, blob, content FROM body WHERE id = :id", id=body)
    assert row is not None
    key, size, plain, prefix, name, octets = row
    if octets is not None:
        if len(octets) != size or checksum(prefix, octets) != key:
            raise DamagedError("the checksum is wrong")
        content = Content(size, octets, None)
    else:
        content = _placed(archive.blobs.path(name), size, blobs)
        if content.checksum(prefix) != key:
            discard(blobs, content)
            raise DamagedError("the checksum is wrong")
    return Body(downgrades.reckon(content, blobs), bool(plain), prefix, key)


def discard(blobs: Blobs, content: Content) -> None:
    """Remove the file of a body that no row will name; the sweep does what fails here."""
    if content.blob is not None:
        with contextlib.suppress(OSError):
            blobs.unlink(content.blob)


def is_sound(stored: Stored, blobs: Blobs, key: bytes) -> bool:
    """Tell whether a message of an installation is what came in; `key` is its checksum in the backup.

    Bodies are never rewritten, so one from the time before there were checksums has to be the backup's.
    """
    if stored.octets is not None:
        return len(stored.octets) == stored.size and checksum(stored.prefix, stored.octets) == (stored.checksum or key)
    expected = Stored(stored.prefix, stored.plain, None, stored.blob, stored.size, stored.checksum or key)
    try:
        BlobReader(blobs, expected).close()  # opening compares all of it
    except OSError:
        return False
    return True


def _placed(path: Path, size: int, blobs: Blobs) -> Content:
    draft = Draft(blobs)
    try:
        try:
            with path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    raise DamagedError("its file was cut short")
                while piece := file.read(PIECE):
                    draft.write(piece)
        except FileNotFoundError:
            raise DamagedError("its file is missing") from None
        except OSError as error:
            raise DamagedError(error.strerror or str(error)) from None
        return draft.finish()
    except BaseException:
        draft.discard()
        raise
