"""Looking again at the bodies that a backup has: a disk changes what nobody reads.

Invariant: nothing is changed, and a body that is not told of was what came in when it was looked at. Of every file is
seen that it is there in its length; of each run's share of all bodies, or of all of them, every octet.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from winpop.store.backup_format import Archive
from winpop.store.blobs import PIECE, checksum

_RUNS = 30
"""Runs in which every body is looked at once."""
_OCTETS = 64 * 1024 * 1024
"""Octets that a run looks at, unless it shall look at all; of a share that is larger, some, taken by chance."""


@dataclass(slots=True)
class Verified:
    """What was found. `bad` are bodies that are no longer what came in."""

    bodies: int = 0
    bad: set[int] = field(default_factory=set)


def verify(archive: Archive, tell: Callable[[str], None], *, every: bool) -> Verified:
    """Look at all bodies, or at this run's share. What the installation still has is copied again."""
    verified = Verified(bad=set(_lost(archive)))
    for body in list(_all(archive) if every else _share(archive)):
        verified.bodies += 1
        if body not in verified.bad and not _is_whole(archive, body):
            verified.bad.add(body)
        tell(f"Verifying bodies: {verified.bodies:,}".replace(",", " "))
    return verified


def messages(archive: Archive, bodies: set[int]) -> Iterator[tuple[str, str]]:
    """Yield mailbox and unique-id of the messages that have these bodies."""
    sql = (
        "SELECT mailbox.name || '@' || mailbox.domain, message.unique_id FROM message "
        "LEFT JOIN mailbox ON mailbox.source = message.mailbox WHERE message.body = :body GROUP BY message.id"
    )
    for body in sorted(bodies):
        for mailbox, unique_id in archive.rows(sql, body=body):
            yield str(mailbox), str(unique_id)


def _lost(archive: Archive) -> Iterator[int]:
    """Yield the bodies whose files are missing or cut short."""
    for body, name, size in archive.rows("SELECT id, blob, size FROM body WHERE blob IS NOT NULL"):
        try:
            if archive.blobs.path(name).stat().st_size == size:
                continue
        except FileNotFoundError:
            pass
        yield body


def _all(archive: Archive) -> Iterator[int]:
    return (body for (body,) in archive.rows("SELECT id FROM body"))


def _share(archive: Archive) -> Iterator[int]:
    turn = archive.number("SELECT max(id) FROM snapshot") % _RUNS
    left = _OCTETS
    sql = "SELECT id, size FROM body WHERE id % :runs = :turn ORDER BY random()"
    for body, size in archive.rows(sql, runs=_RUNS, turn=turn):
        left -= size
        if left < 0:
            return
        yield body


def _is_whole(archive: Archive, body: int) -> bool:
    row = archive.one("SELECT checksum, size, prefix, blob, content FROM body WHERE id = :id", id=body)
    assert row is not None
    key, size, prefix, name, octets = row
    if octets is not None:
        return bool(len(octets) == size and checksum(prefix, octets) == key)
    whole = hashlib.sha256()
    try:
        with archive.blobs.path(name).open("rb", buffering=0) as file:
            while piece := file.read(PIECE):
                whole.update(piece)
    except OSError:
        return False
    whole.update(prefix)
    return whole.digest() == bytes(key)
