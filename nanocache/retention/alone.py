"""One attempt at a key's lock, for work that another process's work on the same key would disturb.

No waiting: what is busy is left for another time. Where there are no locks the block runs all the same, since no
promise rests on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..callers import let_pass
from ..coordination.lock import try_lock
from ..errors import UnsafeCache
from ..store.layout import BaseDirectory

__all__ = ["alone"]


@contextmanager
def alone(directory: BaseDirectory, key: str) -> Iterator[bool]:
    """Whether this process has `key` for itself while the block runs."""
    place = directory.lock_place(key)
    try:
        lock = try_lock(place.path, mode=place.mode)
    except UnsafeCache:
        raise
    except OSError as e:
        let_pass(e)
        yield True
        return
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
