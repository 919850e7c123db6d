"""Paths that a mount may only remember to be absent: how to look again, and how to leave no such memory.

NFS clients and FUSE mounts keep answers of "no such file" for up to a minute, so a path that another host has made
stays absent for the process that looked before. Not a poll. Invariant: nothing is created, in no folder.

A file system with a major device number is not doubtful: it lies on a block device of this host, or is a cluster's that
calls its memories back (Lustre, GPFS). NFS and FUSE have none; nor have tmpfs, overlays and btrfs, where to look again
is cheap.

Sources: Linux, fs/nfs/dir.c (`nfs_neg_need_reval`, close-to-open of folders) and fs/fuse/dir.c
(`fuse_dentry_revalidate`, LOOKUP_EXCL).
"""

from __future__ import annotations

import os
import stat
import sys

from ..callers import let_pass, suppress

__all__ = ["is_doubtful", "listed", "look_again"]


def is_doubtful(st: os.stat_result) -> bool:
    """Whether the kernel may take for absent what another host has made, on the file system of this file."""
    return sys.platform != "linux" or os.major(st.st_dev) == 0


def look_again(path: str, *, below: str) -> None:
    """Have the kernel ask anew for `path`, and for each folder above it up to `below`, that it takes for absent."""
    parent = below
    for name in path[len(below) + 1 :].split("/"):
        child = f"{parent}/{name}"
        if _mode(child) is None:
            _forget_absence(parent, child)
        if not stat.S_ISDIR(_mode(child) or 0):  # absent after all, or the end
            return
        parent = child


def listed(path: str, *, below: str) -> bool:
    """Whether the folders above `path`, from `below` on, list it. Unlike a look at it, this is remembered nowhere."""
    folder = below
    for name in path[len(below) + 1 :].split("/"):
        try:
            names = os.listdir(folder)
        except OSError as e:
            let_pass(e)
            return False
        if name not in names:
            return False
        folder = f"{folder}/{name}"
    return True


def _mode(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode
    except OSError as e:
        let_pass(e)
        return None


def _forget_absence(parent: str, child: str) -> None:
    with suppress(OSError):
        os.close(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))  # NFS: close-to-open asks for its change
    with suppress(OSError):
        os.utime(parent)  # NFS mounted with nocto: its absences are as old as the folder's change
    if sys.platform == "linux":
        # FUSE: an exclusive creation asks anew. A folder can have no second link, so this one is always refused.
        with suppress(OSError):
            os.link(f"{parent}/.", child)
