"""Reading a blob again: are these the bytes that its digest names?

Changes nothing on disk. Invariants: the verdict is about one inode, the one whose bytes were hashed; right bytes are
right whatever became of their times, links or mode meanwhile; what could not be read gets no verdict but its OSError.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Self

from ..callers import let_pass
from ..cancel import Cancel
from ..disk import files, hashing
from . import seal

__all__ = ["Reading", "read"]

READ_TRIES = 3  # of a read that fails, and of a file that is written to while it is read
# A soft NFS mount says EIO when its server is slow, and ESTALE when another client replaced the file.
PASSING = (errno.EIO, errno.ESTALE)
PAUSE = 0.1  # seconds before a read that failed is tried again


class Reading:
    """A blob that was read: its verdict, and the descriptor that it is about. A context manager that closes it."""

    def __init__(self, fd: int, *, right: bool) -> None:
        self.fd = fd
        self.right = right

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


def read(path: str, digest: str, cancel: Cancel) -> Reading:
    """Hash the file at `path`. Raises FileNotFoundError, UnsafeCache, Cancelled, and OSError if it can't be read."""
    for left in reversed(range(READ_TRIES)):
        try:
            return _read(path, digest, cancel)
        except OSError as e:
            let_pass(e)
            if e.errno not in PASSING or not left:
                raise
        cancel.sleep(PAUSE)
    raise AssertionError("the last try returns or raises")


def _read(path: str, digest: str, cancel: Cancel) -> Reading:
    fd = files.open_private(path, os.O_RDONLY)
    try:
        return Reading(fd, right=_is_right(fd, digest, cancel))
    except BaseException:  # Ctrl-C, too
        os.close(fd)
        raise


def _is_right(fd: int, digest: str, cancel: Cancel) -> bool:
    for _ in range(READ_TRIES):
        before = os.fstat(fd)
        if hashing.hash_file(fd, cancel) != digest:
            return False
        # A link(2) or chmod moves the ctime alone; another process that seals the blob moves the mtime to the seal.
        after = os.fstat(fd)
        if after.st_mtime_ns == before.st_mtime_ns or seal.holds(after, digest):
            return True
    return False  # a writer is at it
