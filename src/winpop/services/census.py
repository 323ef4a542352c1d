"""How many connections are open, in all and from each address, in all workers together.

Memory that the workers share: a header with a key and a flag, then a row of counters for each worker, which it alone
writes. The first counter of a row is the number of its connections, the others belong to addresses by a keyed hash, so
that nobody can choose to share another's. Invariant: the counters of a worker that died are zero before its row is
used again; so no connection is counted that is not there. No disk is needed for it, be it full or not.
"""

import hashlib
import mmap
import os
import secrets
import sys
import tempfile

from winpop.terms.endpoints import IPAddress

ROWS = 128
"""Workers at one time: the most there can be, and as many again while they are replaced."""
_BUCKETS = 1 << 12
_ROW = 1 + _BUCKETS
_KEY = 16
_WIDTH = 4
_HEADER = _KEY + _WIDTH
_SIZE = _HEADER + ROWS * _ROW * _WIDTH


class Census:
    """The counters, as the worker with the row `row` sees them."""

    def __init__(self, descriptor: int, row: int) -> None:
        """Map what `make` has made, and begin this row with zeros."""
        self._map = mmap.mmap(descriptor, _SIZE)
        self._key = self._map[:_KEY]
        self._flag = memoryview(self._map)[_KEY:_HEADER].cast("I")
        self._counters = memoryview(self._map)[_HEADER:].cast("I")
        self._first = row * _ROW
        self.clear(row)

    @staticmethod
    def make() -> int:
        """Make the shared memory for a service that starts, all zero; return its descriptor."""
        if sys.platform == "linux":
            descriptor = os.memfd_create("winpop-census")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.write(descriptor, secrets.token_bytes(_KEY))
        # Written, not only made long: a page of a file that has no place on a full disk would kill who touches it.
        os.write(descriptor, bytes(_SIZE - _KEY))
        return descriptor

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
        return sum(self._counters[::_ROW])

    def of(self, address: IPAddress) -> int:
        """Return how many of them come from this address; IPv6 addresses count by their network of 64 bits."""
        bucket = self._bucket(address)
        return sum(self._counters[bucket::_ROW])

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
