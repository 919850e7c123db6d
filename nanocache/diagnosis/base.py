"""The base directory itself: what stands there, who may write in it, who did, and how much room is left.

Looks only, so that a read-only cache has these answers too. Invariants: only our own folders are listed, and of them so
many names that a slow disk answers within the second.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice

from ..callers import suppress
from ..disk import absence, files
from ..store.layout import FOLDERS, LATER, BaseDirectory
from . import mounts
from .findings import FINE, LOSSES, UNUSABLE, Finding
from .site import Site

__all__ = ["probe_absence", "probe_owners", "probe_permissions", "probe_place"]

PLACE = "base directory"
PERMISSIONS = "who may write"
OWNERS = "who did write"
ABSENCE = "names that are absent"
MOST_SEEN = 256  # names that are looked at


def probe_place(site: Site) -> Iterator[Finding]:
    """Is it a folder of one file system, and are ours in it what they should be?"""
    base = site.base
    trouble = list(_planted(site.directory))
    for path, what in trouble:
        remedy = f"remove {path}, or set NANOCACHE_DIR elsewhere"
        yield Finding(PLACE, UNUSABLE, f"{what} stands at {path}, where a folder should be", "each call fails", remedy)
    for point in mounts.below(os.path.realpath(base)):
        lost = "nothing can be published: a file cannot be renamed from one mount into another"
        yield Finding(
            PLACE, UNUSABLE, f"{point} is a mount of its own", lost, "mount it over the base directory, or not"
        )
        return
    if not trouble:
        leads = f", a symlink to {os.path.realpath(base)}" if os.path.islink(base) else ""
        there = "" if os.path.isdir(base) else ", which is not there yet"
        yield Finding(PLACE, FINE, f"{base}{leads}{there}")


def _planted(directory: BaseDirectory) -> Iterator[tuple[str, str]]:
    """What stands where the base or a folder of ours should be: its path, and what it is."""
    if os.path.lexists(directory.base) and not os.path.isdir(directory.base):
        yield directory.base, files.what_is(directory.base)
        return
    for name in (*FOLDERS, *LATER):
        path = directory.top(name)
        with suppress(FileNotFoundError, NotADirectoryError):
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                yield path, files.what_is(path)


def probe_permissions(site: Site) -> Iterator[Finding]:
    st = os.stat(site.base)
    mode = stat.S_IMODE(st.st_mode)
    seen = f"mode {mode:04o}, of user {st.st_uid} and group {st.st_gid}; this is user {os.geteuid()}"
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        lost = "every user of this machine can replace what is cached by files of any content"
        yield Finding(PERMISSIONS, LOSSES, seen, lost, f"chmod o-w {site.base}; for a group: chmod 2775")
    elif mode & stat.S_IWGRP and not mode & stat.S_ISGID and st.st_gid != os.getegid():
        lost = f"what this user makes there is of group {os.getegid()}: others of group {st.st_gid} cannot write to it"
        yield Finding(PERMISSIONS, LOSSES, seen, lost, f"chmod 2775 {site.base}")
    else:
        note = "; every user may add files, and they are used" if mode & stat.S_IWOTH else ""
        yield Finding(PERMISSIONS, FINE, seen + note)


def probe_owners(site: Site) -> Iterator[Finding]:
    """Which users' files are there, and are they used?"""
    stats = list(islice(_stats(site.directory), MOST_SEEN))
    owners = sorted({st.st_uid for st in stats})
    strangers = sorted({st.st_uid for st in stats if not site.directory.trusts(st)})
    seen = f"user{'s' if len(owners) > 1 else ''} {', '.join(map(str, owners))}" if owners else "no user yet"
    if strangers:
        named = ", ".join(map(str, strangers))
        lost = f"files of user {named} are not used: UnsafeCache"
        remedy = f"chown them, remove them, or trust all of a group: chmod 2775 {site.base}"
        yield Finding(OWNERS, LOSSES, seen, lost, remedy)
    else:
        yield Finding(OWNERS, FINE, f"{seen}; their files are used" if owners else seen)


def _stats(directory: BaseDirectory) -> Iterator[os.stat_result]:
    for top in FOLDERS:
        for folder, _, names in os.walk(directory.top(top)):
            for name in names:
                with suppress(FileNotFoundError, PermissionError):
                    yield os.lstat(f"{folder}/{name}")


def probe_absence(site: Site) -> Iterator[Finding]:
    """May the kernel take for absent what another host has made? By the kind of the mount: no second host is asked."""
    if not absence.is_doubtful(os.stat(site.base)):
        yield Finding(ABSENCE, FINE, "they are looked up anew")
        return
    yield Finding(ABSENCE, FINE, "this mount may remember them for a while; the holder of a lock looks again")
