"""What must survive a power cut: names in a folder, a file, a folder with all that is in it.

Not the order in which things become durable: the publisher decides that. Invariant: a failed sync is final, since the
kernel has marked the pages clean, and a second one would find nothing amiss.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from .files import warn_once

__all__ = ["sync_file", "sync_folder", "sync_tree"]

# From file systems that cannot sync files, or, more often, folders.
NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)


def sync_file(fd: int) -> None:
    """Make a file durable. A file system that can't sync files costs one warning."""
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in NO_SYNC:
            raise
        warn_once("fsync", "a power cut may lose what was just downloaded", e)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable. A file system that cannot sync folders is left alone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in NO_SYNC:
            raise
    finally:
        os.close(fd)


def sync_tree(path: str) -> None:
    """Make a file, or a folder with all that is in it, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        if not folder:
            sync_file(fd)
        elif not _sync_file_system(fd):
            _sync_each(path)
    finally:
        os.close(fd)


def _sync_file_system(fd: int) -> bool:
    # One syncfs(2) for a folder: 10,000 members with an fsync each take minutes on a disk that syncs in milliseconds.
    if sys.platform != "linux":
        return False
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi: each file is synced instead
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) == 0:
        return True
    if (code := ctypes.get_errno()) not in NO_SYNC:  # a failed sync is final: a second one would find nothing amiss
        raise OSError(code, os.strerror(code))
    return False


def _sync_each(path: str) -> None:
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                sync_tree(str(file))
        sync_folder(folder)
