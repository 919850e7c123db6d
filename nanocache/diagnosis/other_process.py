"""The other process of the probe of locks: it tries each kind of lock once, and says a word for each.

Run as a script (`locks`), with the paths of two files. Stands on nothing of ours: it must start within milliseconds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable

__all__ = ["GOT", "KEPT_OUT", "try_each"]

GOT = "got"
KEPT_OUT = "refused"


def try_each(flock_path: str, posix_path: str) -> list[str]:
    """What came of a flock(2) on the one and a POSIX lock on the other file."""
    return [_try(fcntl.flock, flock_path), _try(fcntl.lockf, posix_path)]


def _try(take: Callable[[int, int], object], path: str) -> str:
    fd = os.open(path, os.O_RDWR)
    try:
        take(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return KEPT_OUT if e.errno in (errno.EAGAIN, errno.EACCES) else str(e.strerror)
    finally:
        os.close(fd)
    return GOT


if __name__ == "__main__":
    sys.stdout.write("\n".join(try_each(*sys.argv[1:3])))
