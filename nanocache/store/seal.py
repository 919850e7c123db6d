"""The seal: how one stat tells that a published blob is still the one that was verified.

At publication a blob's mtime is set to the latest instant, not after now, whose UTC second of the day is the digest's
own. A later write moves the mtime, so a hit needs no record and no read.

- Whole even seconds, because tar, Lustre and FAT keep no finer ones.
- At most a day old, because cleaners that go by mtime delete what looks old.
- Different for different content, because servers make ETags from mtime and size.

Not a proof. Bit rot goes unnoticed, and so do a writer that puts the mtime back and stores through a mapping on tmpfs.
"""

from __future__ import annotations

import os
import stat
import time

from ..disk import files

__all__ = ["DAY_NS", "DAY_SECONDS", "STEP_NS", "changed", "holds", "of", "put"]

DAY_SECONDS = 86_400
DAY_NS = DAY_SECONDS * 1_000_000_000
STEP_NS = 2_000_000_000  # every seal's mtime is a multiple of it


def of(digest: str) -> int:
    """The digest's own instant of the day, in nanoseconds after midnight UTC."""
    return 2 * (int(digest[:8], 16) % (DAY_SECONDS // 2)) * 1_000_000_000


def holds(st: os.stat_result, digest: str) -> bool:
    """Whether a file with this lstat is a regular one that carries the seal of `digest`."""
    return stat.S_ISREG(st.st_mode) and st.st_mtime_ns % DAY_NS == of(digest)


def changed(st: os.stat_result) -> float:
    """Seconds since the epoch when a file was written or sealed at the latest: a seal is up to a day behind."""
    return st.st_mtime + (DAY_SECONDS if st.st_mtime_ns % STEP_NS == 0 else 0)


def put(fd: int, digest: str) -> bool:
    """Seal the file behind `fd`, whose bytes were just hashed; False where the seal can't be set or kept."""
    now = time.time_ns()
    instant = now - (now - of(digest)) % DAY_NS
    try:
        os.utime(fd, ns=(now, instant))
    except OSError as e:
        if e.errno not in files.REFUSED:  # another user's file, or a mount that keeps no times
            raise
        return False
    return holds(os.fstat(fd), digest)
