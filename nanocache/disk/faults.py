"""A disk that fails, is full, or is cleared by hand in the middle of a call: what becomes of the call.

Not the file calls (`files`). Invariants: an error of the disk says where it was met; a full disk is NoSpace, whatever
was being written; what is deleted by hand meanwhile is made again, a bounded number of times.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import NanocacheError, NoSpace
from . import files

__all__ = ["check_room", "named", "no_space", "persistently", "too_large"]

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GONE = (errno.ENOENT, errno.ESTALE)  # deleted here, or by another client of an NFS server
TRIES = 16  # of a step whose files were deleted meanwhile


def no_space(error: OSError, base: str, needed: int | None = None) -> NoSpace | None:
    """What an error becomes that says that the disk of `base` is full; None for any other one.

    `needed`: bytes that were still to be written, as far as that is known.
    """
    if error.errno not in FULL:
        return None
    return NoSpace(path=base, needed=needed, available=files.available(base))


def check_room(base: str, needed: int) -> None:
    """Raise NoSpace if `needed` bytes do not fit; a mount that does not know its size is not asked."""
    room = files.available(base)
    if room is not None and needed > room:
        raise NoSpace(path=base, needed=needed, available=room)


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
                if e.errno not in GONE:
                    raise
                gone = e
        raise gone
