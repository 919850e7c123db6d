"""A disk that fails, is full, or is cleared by hand in the middle of a call: what becomes of the call.

Not the file calls (`files`). Invariants: an error of the disk says where it was met; a full disk is NoSpace, whatever
was being written; what is deleted by hand meanwhile is made again, a bounded number of times.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..callers import let_pass
from ..errors import NanocacheError, NoSpace

__all__ = ["check_room", "lacking", "named", "no_space", "persistently", "too_large"]

T = TypeVar("T")

logger = logging.getLogger("nanocache")

# Errors of a disk that is full: why, and what to do.
FULL = {
    errno.ENOSPC: ("no space left", "free some or set NANOCACHE_DIR elsewhere"),
    errno.EDQUOT: ("the disk quota is used up", "free some of it or set NANOCACHE_DIR elsewhere"),
    errno.EFBIG: (
        "a file grew larger than the file system, or `ulimit -f`, allows",
        "raise that limit or set NANOCACHE_DIR to another file system",
    ),
}
NO_INODES = ("no inodes left", "delete files there (df -i counts them) or set NANOCACHE_DIR elsewhere")
OF_DISK = (FULL[errno.ENOSPC][0], FULL[errno.EDQUOT][0], NO_INODES[0])  # why a file that is too large is no full disk
FEW_INODES = 16  # left at most where inodes were what was missing: the call that failed has deleted its own files
MUCH_ROOM = 1 << 20  # bytes left at least then
GONE = (errno.ENOENT, errno.ESTALE)  # deleted here, or by another client of an NFS server
TRIES = 16  # of a step whose files were deleted meanwhile


def _available(path: str) -> int | None:
    """Bytes that this user may still write there; None where the mount does not know: some report no blocks at all."""
    try:
        st = os.statvfs(path)
    except OSError as e:
        let_pass(e)
        return None
    return st.f_bavail * st.f_frsize if st.f_blocks else None


def _free_inodes(path: str) -> int | None:
    """Files that this user may still make there; None where the file system does not count them."""
    try:
        st = os.statvfs(path)
    except OSError as e:
        let_pass(e)
        return None
    return st.f_favail if st.f_files else None


def no_space(error: OSError, base: str, needed: int | None = None) -> NoSpace | None:
    """What an error becomes that says that the disk of `base` is full; None for any other one.

    `needed`: bytes that were still to be written, as far as that is known.
    """
    if error.errno not in FULL:
        return None
    room = _available(base)
    reason, remedy = FULL[error.errno]
    if error.errno == errno.ENOSPC and _inodes_are_missing(base, room, needed):
        reason, remedy = NO_INODES
    return NoSpace(path=base, needed=needed, available=room, reason=reason, remedy=remedy)


def _inodes_are_missing(base: str, room: int | None, needed: int | None) -> bool:
    inodes = _free_inodes(base)
    if inodes is None or room is None:
        return False
    return inodes <= FEW_INODES and room >= max(MUCH_ROOM, needed or 0)


def check_room(base: str, needed: int) -> None:
    """Raise NoSpace if `needed` bytes do not fit. A mount that does not know its room, or says 0, is tried."""
    room = _available(base)
    if room == 0:
        warn_of_no_room(base)
    elif room is not None and needed > room:
        raise NoSpace(path=base, needed=needed, available=room)


@functools.cache
def warn_of_no_room(base: str) -> None:
    """Once in a process."""
    logger.warning(
        "the disk of %s says that 0 bytes are free, as some mounts always do: it is tried all the same", base
    )


def lacking(error: OSError) -> int | None:
    """Bytes that a disk lacks which is full, as far as `error` tells; None for any other error, and for any limit."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    if not isinstance(error, NoSpace):
        return MUCH_ROOM
    if error.reason not in OF_DISK:
        return None
    return max(MUCH_ROOM, (error.needed or 0) - (error.available or 0))


def too_large(base: str, limit: int | None, size: int | None = None) -> NoSpace:
    """The error for an artifact above NANOCACHE_MAX_ARTIFACT, `limit` bytes. `size`: as far as that is known."""
    return NoSpace(
        path=base,
        needed=size,
        available=limit,
        reason="larger than NANOCACHE_MAX_ARTIFACT allows",
        remedy="raise or unset NANOCACHE_MAX_ARTIFACT",
    )


@contextmanager
def named(base: str) -> Iterator[None]:
    """Every error of the disk in the block names `base`, and a full disk is NoSpace."""
    try:
        yield
    except (NanocacheError, ConnectionError):
        raise
    except OSError as e:
        let_pass(e)
        if (full := no_space(e, base)) is not None:
            raise full from e
        if e.errno is not None and e.filename is None:
            e.filename = base
        raise


def persistently(base: str, step: Callable[[], T | None]) -> T:
    """Run `step` until it returns a value. None or ENOENT means that its files were deleted meanwhile."""
    gone: OSError = FileNotFoundError(errno.ENOENT, "what is fetched keeps disappearing", base)
    with named(base):
        for _ in range(TRIES):
            try:
                if (done := step()) is not None:
                    return done
            except OSError as e:
                let_pass(e)
                if e.errno not in GONE:
                    raise
                gone = e
        raise gone
