"""What the workers remember together about logons: tables of a fixed size in memory that all of them map.

A header with the random key of this start, then tables. A table is buckets of eight entries; an entry is found by a
keyed digest, so nobody outside can choose which entries meet in a bucket. In a full bucket the entry that would be
worth nothing soonest makes room, for a newcomer too: what weighs little pushes out what weighs little.

Reads take no lock. Invariant: an entry that is half written is no entry. Each ends in a keyed checksum of all the
rest, its table included, so octets of two writes, or of a writer that died between two of them, match with the
probability 2^-64. A reader that meets such an entry under its own key looks again under the lock, so that a penalty
that is just being written is not overlooked.

Whoever writes locks the bucket: one byte of the file, a POSIX lock, for some microseconds. The kernel frees it when its
holder dies. For one that was stopped in the middle nobody waits longer than `_PATIENCE`: then an update of another may
be lost, and no more than that. A POSIX lock is its process's: one thread of a process uses these tables, and the
descriptor is opened by `make` and closed by the end of the process alone. On Windows one process serves, and no lock
is needed.
"""

import contextlib
import hashlib
import mmap
import os
import secrets
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from winpop.terms.refusals import out_of_reach

PAIRS, NETWORKS, REMEMBERED, LOGGED_ON = b"pairs", b"networks", b"remembered", b"logged on"
_TABLES = {PAIRS: (12_500, 40), NETWORKS: (4_096, 24), REMEMBERED: (12_500, 0), LOGGED_ON: (12_500, 0)}
"""Of each table the buckets, and the octets of a value: 100 000 entries, of `NETWORKS` 32 768; 15 MiB in all."""
_WAYS = 8
_HEADER = 32
"""Octets of the key."""
_DIGEST, _CHECK = 16, 8
_UNTIL = struct.Struct("=d")
_PATIENCE, _PAUSE = 1.0, 0.0001
"""Seconds for a lock in all, and between two tries."""


@dataclass(slots=True)
class Entry:
    """What a table keeps for a digest; one that it does not have is all zero.

    `until` is the moment, in seconds of the clock that the machine's processes share, from which on it is worth
    nothing; 0 takes it out. `value` has the length that is the table's.
    """

    until: float
    value: bytes


class Shared:
    """The tables, as one worker sees them."""

    def __init__(self, descriptor: int) -> None:
        """Map what `make` has made. The descriptor stays open for the locks."""
        self._map = mmap.mmap(descriptor, _SIZE)
        self._descriptor = descriptor

    @staticmethod
    def make() -> int:
        """Make the shared memory for a service that starts; return its descriptor. Raises `Refusal` (`no-memory`)."""
        try:
            if sys.platform == "linux":
                descriptor = os.memfd_create("winpop-logons")
            else:
                with tempfile.TemporaryFile() as file:
                    descriptor = os.dup(file.fileno())
            # Written, not only made long: a page of a file that has no place on a full disk would kill who touches it.
            with open(descriptor, "wb", closefd=False) as file:
                file.write(secrets.token_bytes(_HEADER))
                file.write(bytes(_SIZE - _HEADER))
        except OSError as error:
            raise out_of_reach(
                "no-memory",
                f"The memory in which workers remember logons cannot be made: {error.strerror}; "
                f"free {_SIZE >> 20} MiB of memory (where temporary files stand for it, of disk).",
            ) from error
        return descriptor

    def table(self, name: bytes) -> "Table":
        """Return the table of that name, one of the constants above."""
        return Table(self._map, self._descriptor, name)

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()


class Table:
    """Entries by their digest."""

    def __init__(self, memory: mmap.mmap, descriptor: int, name: bytes) -> None:
        self._map, self._descriptor = memory, descriptor
        self._first, self._buckets, self._value = _PLACES[name], *_TABLES[name]
        self._width = _width(self._value)
        self._size = self._width * _WAYS
        key = memory[:_HEADER]
        # Copies of these are quicker than new ones.
        self._keyed = hashlib.blake2b(key=key, person=name, salt=b"digest", digest_size=_DIGEST)
        self._checks = hashlib.blake2b(key=key, person=name, salt=b"check", digest_size=_CHECK)

    def digest(self, *parts: bytes) -> bytes:
        """Return the keyed digest of these parts, each with its length, so that no others have the same."""
        keyed = self._keyed.copy()
        keyed.update(b"".join([len(part).to_bytes(4, "big") + part for part in parts]))
        return keyed.digest()

    def get(self, digest: bytes) -> Entry:
        """Return the entry of this digest."""
        place = self._place(digest)
        at, entry = self._find(place, digest)
        if entry is not None:
            return entry
        if at is None:
            return self._nothing()
        with self._locked(place):  # somebody is writing it, or died while writing
            return self._find(place, digest)[1] or self._nothing()

    @contextlib.contextmanager
    def edit(self, digest: bytes) -> Iterator[Entry]:
        """Give the entry of this digest to be changed; it is written at the end, unless there was an exception.

        Nobody else changes it meanwhile, in any process. Not to be nested: `digest`s may share a lock.
        """
        place = self._place(digest)
        with self._locked(place):
            at, entry = self._find(place, digest)
            entry = entry or self._nothing()
            before = (entry.until, entry.value)
            yield entry
            if (entry.until, entry.value) != before:
                if at is None:
                    at = self._least(place)
                self._map[at : at + self._width] = self._packed(digest, entry) if entry.until else bytes(self._width)

    def _place(self, digest: bytes) -> int:
        """Return where the bucket of this digest begins."""
        return self._first + int.from_bytes(digest[:8], "big") % self._buckets * self._size

    def _nothing(self) -> Entry:
        return Entry(0.0, bytes(self._value))

    def _find(self, place: int, digest: bytes) -> tuple[int | None, Entry | None]:
        """Return where in the file this digest's entry is, and what it is if it is whole."""
        bucket = self._map[place : place + self._size]
        at = bucket.find(digest)
        while at % self._width and at >= 0:  # it stands inside of an entry, by chance
            at = bucket.find(digest, at + 1)
        return (None, None) if at < 0 else (place + at, self._whole(bucket[at : at + self._width]))

    def _whole(self, octets: bytes) -> Entry | None:
        """Return the entry that these octets are, or None."""
        if self._check(octets[:-_CHECK]) != octets[-_CHECK:]:
            return None
        return Entry(_UNTIL.unpack_from(octets, _DIGEST)[0], octets[_DIGEST + _UNTIL.size : -_CHECK])

    def _packed(self, digest: bytes, entry: Entry) -> bytes:
        octets = digest + _UNTIL.pack(entry.until) + entry.value
        return octets + self._check(octets)

    def _check(self, octets: bytes) -> bytes:
        check = self._checks.copy()
        check.update(octets)
        return check.digest()

    def _least(self, place: int) -> int:
        """Return where in this bucket the entry is that makes room: one that is none, or is worth nothing soonest."""
        least, soonest = place, float("inf")
        for at in range(place, place + self._size, self._width):
            entry = self._whole(self._map[at : at + self._width])
            if entry is None:
                return at
            if entry.until < soonest:
                least, soonest = at, entry.until
        return least

    @contextlib.contextmanager
    def _locked(self, place: int) -> Iterator[None]:
        held = _lock(self._descriptor, place)
        try:
            yield
        finally:
            if held:
                _unlock(self._descriptor, place)


def _width(value: int) -> int:
    """Return the octets of an entry with a value of so many octets."""
    return _DIGEST + _UNTIL.size + value + _CHECK


def _places() -> tuple[dict[bytes, int], int]:
    """Return where each table begins, and the size of all."""
    places, size = {}, _HEADER
    for name, (buckets, value) in _TABLES.items():
        places[name] = size
        size += buckets * _WAYS * _width(value)
    return places, size


_PLACES, _SIZE = _places()

if sys.platform == "win32":

    def _lock(_descriptor: int, _place: int) -> bool:
        return False

    def _unlock(_descriptor: int, _place: int) -> None: ...

else:
    import fcntl

    def _lock(descriptor: int, place: int) -> bool:
        """Lock the bucket that begins at `place`; tell whether that was possible in time."""
        until = None
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                now = time.monotonic()
                until = until or now + _PATIENCE
                if now >= until:
                    return False
                time.sleep(_PAUSE)
            else:
                return True

    def _unlock(descriptor: int, place: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, place)
