"""Another file of the same bytes: sharing its blocks where the file system can, else copied.

Knows nothing of names and blobs: both ends are open files. Invariant: a cancelled copy ends within a block.
"""

from __future__ import annotations

import errno
import os

from ..cancel import Cancel

__all__ = ["NO_LINK", "copy_bytes", "share_blocks"]

FICLONE = 0x40049409  # Linux: <linux/fs.h>
COPY_BLOCK = 1 << 20  # bytes
# What link(2) says where only a copy will do; EPERM also for another user's file, under fs.protected_hardlinks.
NO_LINK = (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EACCES)


def share_blocks(source: int, target: int) -> bool:
    """Make one file's blocks those of another (btrfs, xfs, bcachefs, some NFS); False where that can't be done."""
    import fcntl

    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


def copy_bytes(source: int, target: int, cancel: Cancel) -> None:
    """Write what `source` holds to `target`, which is empty. Raises Cancelled, OSError."""
    while block := os.read(source, COPY_BLOCK):
        cancel.check()
        while block:
            block = block[os.write(target, block) :]
