"""The SHA-256 of what lies on disk, followed while it grows.

One design for one stream, many ranges and a resume: the contiguous bytes are read back once they are written, so the
digest is that of the file and not of what we believe to have written. They come from the page cache. Invariant: nothing
is hashed before it was written, nothing twice.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import sys
from collections.abc import Callable

from ..cancel import Cancel

__all__ = ["HASH_BLOCK", "FileHasher", "Vanished", "git_sha1", "hash_file"]

HASH_BLOCK = 1 << 20  # bytes; hashlib lets other threads run while it hashes that much, 0.5 ms with SHA instructions
WRITEBACK = 8 << 20  # bytes between two nudges to the disk
SYNC_FILE_RANGE_WRITE = 2  # the flag of sync_file_range(2)


@functools.cache
def _nudge() -> Callable[[int, int, int, int], int] | None:
    """sync_file_range(2), which has the disk begin to write and waits for nothing; None if the system has none.

    The kernel leaves a GiB in memory, and the fsync before publication then waits for all of it: a sixth of the time.
    """
    if sys.platform != "linux":
        return None
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi: it only costs time
        return None
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


class Vanished(OSError):
    """The file ends before bytes that were written to it."""


class FileHasher:
    """Hashes the file behind `fd` from its first byte on."""

    def __init__(self, fd: int) -> None:
        self.hashed = 0  # bytes
        self._fd = fd
        self._hasher = hashlib.sha256()
        self._buffer = memoryview(bytearray(0))
        self._nudged = 0  # bytes that the disk was told to begin to write

    def follow(self, end: int) -> bool:
        """Hash a block more, at most up to `end`; False if there was nothing to do."""
        want = min(end - self.hashed, HASH_BLOCK)
        if want <= 0:
            return False
        if want > len(self._buffer):
            self._buffer = memoryview(bytearray(want))
        count = os.preadv(self._fd, [self._buffer[:want]], self.hashed)
        if not count:
            raise Vanished(errno.EIO, "bytes that were written are gone from the disk")
        self._hasher.update(self._buffer[:count])
        self.hashed += count
        if self.hashed - self._nudged >= WRITEBACK:
            self._begin_writing()
        return True

    def _begin_writing(self) -> None:
        if (nudge := _nudge()) is not None:  # its errors are those of a file system that doesn't know it
            nudge(self._fd, self._nudged, self.hashed - self._nudged, SYNC_FILE_RANGE_WRITE)
        self._nudged = self.hashed

    def digest(self) -> str:
        """64 hex digits, of what was hashed so far."""
        return self._hasher.hexdigest()


def hash_file(fd: int, cancel: Cancel | None = None) -> str:
    """The SHA-256 of the whole file behind `fd`; its offset stays. Raises Cancelled, OSError."""
    return _feed(hashlib.sha256(), fd, cancel)


def git_sha1(fd: int, size: int, cancel: Cancel) -> str:
    """What git calls a file of these bytes. Raises Cancelled, OSError."""
    return _feed(hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False), fd, cancel)


def _feed(hasher: hashlib._Hash, fd: int, cancel: Cancel | None) -> str:
    offset = 0
    size = os.fstat(fd).st_size
    buffer = memoryview(bytearray(min(HASH_BLOCK, size + 1)))  # 1 MiB of zeros costs more than hashing a small file
    while count := os.preadv(fd, [buffer], offset):
        if cancel is not None:
            cancel.check()
        hasher.update(buffer[:count])
        offset += count
    return hasher.hexdigest()
