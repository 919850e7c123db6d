"""flock(2) itself, for lock files in a folder with the sticky bit, where filelock refuses another user's file.

A shared base may be 3775 or 1777. There another user can neither delete a lock file nor, under fs.protected_regular,
open it with O_CREAT. Excludes filelock's locks on the same file. Invariant: a forked child holds nothing.
"""

from __future__ import annotations

import fcntl
import os
from weakref import WeakSet

from ..disk import files
from ..errors import UnsafeCache

__all__ = ["Flock", "try_flock"]


class Flock:
    """A file that this process has locked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Raises OSError; the descriptor is closed all the same."""
        fd = self._fd
        self._fd = -1
        if fd < 0:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def drop(self) -> None:
        """Close the descriptor that a forked child inherited; the lock stays its parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_held: WeakSet[Flock] = WeakSet()


def _drop_all() -> None:
    for held in list(_held):
        held.drop()


os.register_at_fork(after_in_child=_drop_all)


def try_flock(path: str, *, mode: int) -> Flock | None:
    """The lock at `path` if it is free, else None. Raises UnsafeCache, and OSError where locks can't be had."""
    try:
        fd = _open(path, mode)
    except UnsafeCache:
        raise
    except PermissionError:  # made just now, and not yet for every user
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if files.same_file(os.fstat(fd), path):  # else it was deleted meanwhile
            return Flock(fd)
    except BlockingIOError:
        pass
    except BaseException:  # Ctrl-C, too
        os.close(fd)
        raise
    os.close(fd)
    return None


def _open(path: str, mode: int) -> int:
    for _ in range(files.RACES):
        try:
            return files.open_private(path, os.O_RDWR)
        except FileNotFoundError:
            pass
        try:
            fd = files.open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            continue
        files.set_mode(fd, mode | 0o600)
        return fd
    raise FileNotFoundError(f"{path} keeps disappearing")
