"""How much room is left for this user: bytes, inodes, and what a quota leaves of them.

Not what the cache takes of it (`nanocache du`). A quota is asked of the kernel, which knows that of local file systems;
a file server's own shows only when it is used up. Source: Linux, quotactl(2) and quotactl_fd.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from .findings import FINE, LOSSES, UNUSABLE, Finding
from .site import Site

__all__ = ["probe"]

SPACE = "room"
QUOTA = "quota"
FEW_BYTES = 10**9  # left, below which it is said; of a small disk a hundredth
FEW_FILES = 10_000
QUOTACTL_FD = 443  # the system call, on all architectures
GET_USERS_QUOTA = 0x800007 << 8  # Q_GETQUOTA of USRQUOTA
QUOTA_BLOCK = 1024  # bytes that its limits are counted in
REMEDY = "nanocache prune, delete other files there, or set NANOCACHE_DIR elsewhere"


def probe(site: Site) -> Iterator[Finding]:
    disk = os.statvfs(site.base)
    room = _Left(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
    yield _judge(SPACE, room, _Left(disk.f_favail, disk.f_files), "not counted by this mount")
    yield _judge(QUOTA, *_quota(site.base), "the kernel knows of none; a file server may have its own")


class _Left:
    """How much of something is left; of no whole where the disk keeps no count."""

    def __init__(self, left: int, whole: int) -> None:
        self.left = max(0, left)
        self.whole = whole

    def is_few(self, few: int) -> bool:
        return bool(self.whole) and self.left < min(few, self.whole // 100 + 1)

    @property
    def is_none(self) -> bool:
        return bool(self.whole) and not self.left


def _judge(name: str, room: _Left, files: _Left, uncounted: str) -> Finding:
    seen = [f"{_size(room.left)} of {_size(room.whole)} free"] if room.whole else []
    seen += [f"{files.left:,} of {files.whole:,} files may still be made"] if files.whole else []
    few = [what for what, is_few in (("bytes", room.is_few(FEW_BYTES)), ("inodes", files.is_few(FEW_FILES))) if is_few]
    text = "; ".join(seen) or uncounted
    if not few:
        return Finding(name, FINE, text)
    level = UNUSABLE if room.is_none or files.is_none else LOSSES
    return Finding(name, level, text, f"few {' and '.join(few)} are left: a fetch may be NoSpace", REMEDY)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _quota(path: str) -> tuple[_Left, _Left]:
    """What the quota of this user leaves: bytes, and files."""
    blocks, used, files, made = _limits(path)
    return _Left(blocks * QUOTA_BLOCK - used, blocks * QUOTA_BLOCK), _Left(files - made, files)


def _limits(path: str) -> tuple[int, int, int, int]:
    """The hard limits and the usage of this user: blocks, bytes, files, files. A limit of 0 is none."""
    if sys.platform != "linux":
        return 0, 0, 0, 0
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi
        return 0, 0, 0, 0
    # struct dqblk: hard and soft limit, usage; the same of inodes; two grace times; which of them are valid
    told = (ctypes.c_uint64 * 9)()
    syscall = ctypes.CDLL(None).syscall
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        known = syscall(ctypes.c_long(QUOTACTL_FD), fd, GET_USERS_QUOTA, os.geteuid(), told) == 0
    finally:
        os.close(fd)
    return (told[0], told[2], told[3], told[5]) if known else (0, 0, 0, 0)
