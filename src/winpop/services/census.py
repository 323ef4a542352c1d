"""How many connections are open, in all and from each address, in all workers together.

A file that the workers map: a header with a key and a flag, then a row of counters for each worker, which it alone
writes. The first counter of a row is the number of its connections, the others belong to addresses by a keyed hash, so
that nobody can choose to share another's. Invariant: the counters of a worker that died are zero before its row is
used again; so no connection is counted that is not there.
"""

import hashlib
import mmap
import os
import secrets
from pathlib import Path

from winpop.terms.endpoints import IPAddress

ROWS = 128
"""Workers at one time: the most there can be, and as many again while they are replaced."""
_BUCKETS = 1 << 12
_ROW = 1 + _BUCKETS
_KEY = 16
_WIDTH = 4
_HEADER = _KEY + _WIDTH


class Census:
    """The counters, as the worker with the row `row` sees them."""

    def __init__(self, path: Path, row: int) -> None:
        """Map the file that `make` has made, and begin this row with zeros."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _HEADER + ROWS * _ROW * _WIDTH)
        self._key = self._map[:_KEY]
        self._flag = memoryview(self._map)[_KEY:_HEADER].cast("I")
        self._counters = memoryview(self._map)[_HEADER:].cast("I")
        self._first = row * _ROW
        self.clear(row)

    @staticmethod
    def make(path: Path) -> None:
        """Make the file anew, all zero, for a service that starts."""
        path.unlink(missing_ok=True)  # workers whose master was killed may still have the old one mapped
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            # Written, not only made long: a page that has no place on a full disk would kill who touches it.
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(secrets.token_bytes(_KEY) + bytes(_WIDTH + ROWS * _ROW * _WIDTH))
        finally:
            os.close(descriptor)

    def clear(self, row: int) -> None:
        """Forget what the worker that had this row counted."""
        first = row * _ROW
        for index in range(first, first + _ROW):
            if self._counters[index]:
                self._counters[index] = 0

    def enter(self, address: IPAddress | None) -> None:
        """Count a connection; `address` is None for one that only counts in all."""
        self._counters[self._first] += 1
        if address is not None:
            self._counters[self._first + self._bucket(address)] += 1

    def leave(self, address: IPAddress | None) -> None:
        """Count it no more."""
        self._counters[self._first] -= 1
        if address is not None:
            self._counters[self._first + self._bucket(address)] -= 1

    def total(self) -> int:
        """Return how many connections there are."""
        return sum(self._counters[row * _ROW] for row in range(ROWS))

    def of(self, address: IPAddress) -> int:
        """Return how many of them come from this address; IPv6 addresses count by their network of 64 bits."""
        bucket = self._bucket(address)
        return sum(self._counters[row * _ROW + bucket] for row in range(ROWS))

    @property
    def full(self) -> bool:
        """Whether connections wait, in every worker, until enough others have ended."""
        return bool(self._flag[0])

    @full.setter
    def full(self, full: bool) -> None:
        self._flag[0] = int(full)

    def close(self) -> None:
        """Give the file back."""
        self._flag.release()
        self._counters.release()
        self._map.close()

    def _bucket(self, address: IPAddress) -> int:
        digest = hashlib.blake2b(address.packed[:8], digest_size=4, key=self._key).digest()
        return 1 + int.from_bytes(digest, "little") % _BUCKETS
