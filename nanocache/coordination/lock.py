"""The lock of a key: one attempt, no waiting. The only module that knows filelock.

How long a waiter waits, and for which holder, is `waiting`'s. filelock locks a descriptor that is opened here: its
FileLock opens the file itself, which costs 130 us instead of 10, and refuses another user's file in a folder with the
sticky bit (a base of 3775 or 1777). The two exclude each other. Invariants: a lock file is never unlinked here; a lock
is released once nothing refers to it, however Ctrl-C cut the caller short; a forked child holds nothing. Correctness
never rests on a lock: where it lets every process in, only bandwidth is lost.
"""

from __future__ import annotations

import logging
import os
from typing import NamedTuple
from weakref import WeakSet

from ..callers import let_pass, suppress
from ..disk import files

__all__ = ["Lock", "LockPlace", "is_locked", "try_lock"]

logger = logging.getLogger("nanocache")

FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # no symlink at the last step, no wait for a fifo


class LockPlace(NamedTuple):
    """Where a key is locked. The folder of `path` exists."""

    path: str  # locks-v1/9f/<key>.lock
    record: str  # locks-v1/9f/<key>.json: the holder's
    scratch: str  # a folder on the same file system, for files on their way to `record`
    mode: int  # of both files


class Lock:
    """A lock that this process holds once `acquire` said so; without, it stands in on file systems without locks."""

    def __init__(self) -> None:
        self._fd = -1
        _all.add(self)

    def acquire(self, path: str, mode: int) -> bool:
        """Whether the file at `path` was free. `release` undoes it, also half done."""
        from filelock import lock_descriptor

        with suppress(FileExistsError):  # not by O_CREAT alone: fs.protected_regular forbids it for other users' files
            self._fd = os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            files.set_mode(self._fd, mode | 0o600)
        try:
            if self._fd < 0:
                self._fd = os.open(path, FLAGS)
            if not lock_descriptor(self._fd, blocking=False):
                return False
        except (BlockingIOError, PermissionError, FileNotFoundError) as e:
            let_pass(e)
            return False
        except OSError:
            files.check_regular(path)
            raise
        st = files.check_regular(path)
        return st is not None and os.path.samestat(st, os.fstat(self._fd))  # else it was deleted meanwhile

    def release(self) -> None:
        fd = self._fd
        self._fd = -1
        if fd < 0:
            return
        from filelock import unlock_descriptor

        try:
            try:
                unlock_descriptor(fd)  # not by closing alone: a forked child may have the descriptor, too
            finally:
                os.close(fd)
        except OSError as e:  # EIO on close in some bind mounts: the descriptor is closed all the same
            let_pass(e)
            logger.debug("releasing a lock: %s", e)

    def drop(self) -> None:
        """Close the descriptor that a forked child inherited; the lock stays its parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.release()


_all: WeakSet[Lock] = WeakSet()


def _drop_all() -> None:
    for lock in list(_all):
        lock.drop()


os.register_at_fork(after_in_child=_drop_all)


def try_lock(path: str, *, mode: int) -> Lock | None:
    """The lock at `path` if it is free, else None. The file is made with `mode`; its folder must exist.

    Raises UnsafeCache if something other than a regular file stands there, and OSError where locks can't be had
    (ENOSYS, ENOLCK, EOPNOTSUPP...). EACCES reads as "not free": another user made the file just now, and not yet for
    all; and some flock(2) say it of contention.
    """
    lock = Lock()
    try:
        if lock.acquire(path, mode):
            return lock
    except BaseException:  # Ctrl-C just now: a notebook keeps the traceback, and with it a lock without an owner
        lock.release()
        raise
    lock.release()
    return None


def is_locked(path: str) -> bool:
    """Whether a process has the lock at `path`. Nothing is made or written. Raises OSError where that can't be told."""
    from filelock import lock_descriptor, unlock_descriptor

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        if not lock_descriptor(fd, blocking=False):
            return True
        unlock_descriptor(fd)
    except BlockingIOError as e:
        let_pass(e)
        return True
    finally:
        os.close(fd)
    return False
