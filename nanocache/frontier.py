"""The SHA-256 of what lies on disk, followed while it grows.

One design for one stream, many ranges and a resume: the bytes are read back behind the contiguous frontier, so the
digest is that of the file and not of what we believe to have written. They come from the page cache. Invariant: nothing
is hashed before it was written, nothing twice.
"""

from __future__ import annotations

import hashlib
import os

from .answers import StartOver

__all__ = ["Frontier"]

BLOCK = (
    1 << 20
)  # bytes; hashlib lets other threads run while it hashes that much, 0.5 ms on a CPU with SHA instructions


class Frontier:
    """Hashes the file behind `fd` from its first byte on."""

    def __init__(self, fd: int) -> None:
        self._fd, self._hasher, self._buffer = fd, hashlib.sha256(), memoryview(bytearray(0))
        self.hashed = 0  # bytes

    def follow(self, end: int) -> bool:
        """Hash a block more, at most up to `end`; False if there was nothing to do."""
        want = min(end - self.hashed, BLOCK)
        if want <= 0:
            return False
        if want > len(self._buffer):
            self._buffer = memoryview(bytearray(want))
        count = os.preadv(self._fd, [self._buffer[:want]], self.hashed)
        if not count:
            raise StartOver("bytes that were written are gone from the disk")
        self._hasher.update(self._buffer[:count])
        self.hashed += count
        return True

    def digest(self) -> str:
        """64 hex digits, of what was hashed so far."""
        return self._hasher.hexdigest()
