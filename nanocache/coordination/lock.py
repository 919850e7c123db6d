"""The lock of a key: one attempt, no waiting. The only module that knows filelock.

How long a waiter waits, and for which holder, is `waiting`'s. Invariants: one FileLock instance per attempt, because a
shared one nests instead of excluding; no fallback to a soft lock, whose orphaned marker blocks for ever; a lock file is
never unlinked here. Correctness never rests on a lock: where it lets every process in, only bandwidth is lost.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import NamedTuple

from ..disk import files

__all__ = ["Lock", "LockPlace", "try_lock"]

logger = logging.getLogger("nanocache")


class LockPlace(NamedTuple):
    """Where a key is locked. The folder of `path` exists."""

    path: str  # locks-v1/9f/<key>.lock
    record: str  # locks-v1/9f/<key>.json: the holder's
    scratch: str  # a folder on the same file system, for files on their way to `record`
    mode: int  # of both files


class Lock:
    """A lock that this thread holds; `Lock(None)` stands in on file systems without locks."""

    def __init__(self, held: object | None) -> None:
        self._held = held

    def release(self) -> None:
        if self._held is None:
            return
        try:
            self._held.release()  # type: ignore[attr-defined]
        except OSError as e:  # EIO on close in some bind mounts: the descriptor is closed all the same
            logger.debug("releasing a lock: %s", e)


def try_lock(path: str, *, mode: int) -> Lock | None:
    """The lock at `path` if it is free, else None. The file is made with `mode`; its folder must exist.

    Raises UnsafeCache if something other than a regular file stands there, and OSError where locks can't be had
    (ENOSYS, ENOLCK, EOPNOTSUPP...). EACCES from flock(2) reads as "not free": filelock takes it for contention.
    """
    files.check_regular(path)
    if os.stat(os.path.dirname(path)).st_mode & stat.S_ISVTX:
        from .flock import try_flock

        held = try_flock(path, mode=mode)
        return None if held is None else Lock(held)
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=mode | 0o600, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
        return Lock(lock)
    except Timeout:
        return None
    except RuntimeError:
        # filelock's own deadlock check: this thread holds it already, through another instance.
        return None
    except BaseException:  # Ctrl-C just now: a notebook keeps the traceback, and with it a lock without an owner
        lock.release()
        raise
