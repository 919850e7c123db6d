"""A disk that fails, is full, or is cleared by hand in the middle of it: what becomes of the call.

Not the file calls (`files`). Invariants: an error of the disk says where it was met; a full one is NoSpace, whatever
was being written; what somebody deletes under our feet is made again, a bounded number of times.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import NanocacheError, NoSpace
from . import files

__all__ = ["named", "persistently"]

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GONE = (errno.ENOENT, errno.ESTALE)  # deleted here, or by another client of an NFS server
TRIES = 16


@contextmanager
def named(base: str) -> Iterator[None]:
    """Have every error of the disk that `base` is on say so."""
    try:
        yield
    except (NanocacheError, ConnectionError):
        raise
    except OSError as e:
        if e.errno in FULL:
            raise NoSpace(path=base, available=files.available(base)) from e
        if e.errno is not None and e.filename is None:
            e.filename = base
        raise


def persistently(base: str, step: Callable[[], T | None]) -> T:
    """What `step` gives, however often somebody deletes by hand what it made a moment ago: None from it, or ENOENT."""
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
