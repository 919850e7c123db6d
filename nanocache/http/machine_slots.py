"""How many connections all processes of this user on this machine have open to each origin: a lock file for each.

    /dev/shm/nanocache-<uid>/connections-v1/<hash of the origin>-<n>    without /dev/shm below $TMPDIR

Not this process's own count (`slots`), and nothing of the cache's: a node's processes may use several caches, and a
cache's disk may be one that nodes share. Invariants: a slot ends with its process, and a forked child holds none of its
parent's; where the folder cannot be had, or locks do not work, there are no slots, and each process counts for itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import random
import stat
from functools import cache, lru_cache
from weakref import WeakSet

from ..callers import let_pass

__all__ = ["MachineSlot", "are_there", "take"]

logger = logging.getLogger("nanocache")

IN_MEMORY = "/dev/shm"  # noqa: S108 - of this machine alone, and gone with its boot; a container has its own
SLOT_FOLDER = "connections-v1"
NAME_DIGITS = 20  # hex, of an origin's hash

_broken = False  # locks do not work there


class MachineSlot:
    """A held slot. If Ctrl-C prevents its release, garbage collection frees it."""

    def __init__(self) -> None:
        self.fd = -1
        _held.add(self)

    def lock(self, path: str) -> bool:
        """Whether it has the lock at `path` now. Raises OSError where there can be none."""
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self.drop()
            let_pass(e)
            return False
        except BaseException:
            self.drop()
            raise
        return True

    def release(self) -> None:
        """Not by closing alone: a child that was forked past `os.fork` may have the descriptor, too."""
        if self.fd >= 0:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            self.drop()

    def drop(self) -> None:
        """Close the descriptor; a lock that a parent has stays its own."""
        fd = self.fd
        self.fd = -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.drop()


_held: WeakSet[MachineSlot] = WeakSet()


def _drop_all() -> None:
    for slot in list(_held):
        slot.drop()


os.register_at_fork(after_in_child=_drop_all)


def are_there() -> bool:
    """Whether the processes of this machine can share their slots."""
    return not _broken and _folder() is not None


def take(origin: tuple[str, str, int], count: int) -> MachineSlot | None:
    """One of the `count` slots of `origin`; None if all are taken, or if there turn out to be none (`are_there`)."""
    global _broken
    name = f"{_folder()}/{_name(origin)}"
    first = random.randrange(count)  # noqa: S311
    slot = MachineSlot()
    try:
        for n in range(count):
            if slot.lock(f"{name}-{(first + n) % count}"):
                return slot
    except OSError as e:
        let_pass(e)
        _broken = True
        logger.debug("this machine's processes count their connections each for themselves: %s", e)
    return None


@lru_cache
def _name(origin: tuple[str, str, int]) -> str:
    return hashlib.sha256(repr(origin).encode()).hexdigest()[:NAME_DIGITS]


def _folder() -> str | None:
    user = os.getuid()
    return _made(IN_MEMORY, user) or _made(os.environ.get("TMPDIR") or "/tmp", user)  # noqa: S108


@cache
def _made(temporary: str, user: int) -> str | None:
    """The folder, which no other user can write to; None if it cannot be had."""
    path = temporary
    for name in (f"nanocache-{user}", SLOT_FOLDER):
        path = f"{path}/{name}"
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except OSError as e:
            let_pass(e)
            return None
        if not _is_private(path, user):
            return None
    return path


def _is_private(path: str, user: int) -> bool:
    try:
        st = os.lstat(path)
    except OSError as e:
        let_pass(e)
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid == user and not st.st_mode & 0o022
