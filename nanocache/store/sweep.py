"""Sweeping: what was orphaned by kills and power cuts goes, now and then.

After a download and never on a hit, at most once a day per base directory: partials whose owner is gone and that are a
week old, and trash. Invariants: nothing outside our own folders is touched; what a living process writes is not.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from ..disk import files
from . import orphans
from .blobs import PARTIALS, TRASH, Store
from .partials import NEW

__all__ = ["daily"]

DAY = 86_400.0
WEEK = 7 * DAY  # seconds a partial is kept for whoever resumes it
_KEPT = frozenset({"CACHEDIR.TAG", ".gitignore", "swept"})


def daily(store: Store) -> None:
    """Sweep, unless somebody did within a day. Errors are left for the next time."""
    mark = f"{store.base}/{TRASH}/swept"
    try:
        if time.time() - os.lstat(mark).st_mtime < DAY:
            return
        os.utime(mark, follow_symlinks=False)
    except FileNotFoundError:
        with suppress(OSError):
            files.create(mark, b"", store.modes.lock)
    except OSError:
        return
    _sweep(store)


def _sweep(store: Store) -> None:
    for entry in _scan(f"{store.base}/{TRASH}"):
        if entry.name not in _KEPT and not (entry.name.startswith(NEW) and _young(entry)):
            files.remove(entry.path)
    for key in _scan(f"{store.base}/{PARTIALS}"):
        if key.name.startswith(NEW) and not _young(key):
            files.remove(key.path)
        elif key.is_dir(follow_symlinks=False):
            for partial in _scan(key.path):
                with suppress(OSError):  # not ours to remove, or not what it should be: no reason to fail a fetch
                    if orphans.gone(partial.path, modes=store.modes, age=WEEK):
                        store.set_aside(partial.path)
            files.remove_empty(key.path)


def _young(entry: os.DirEntry[str]) -> bool:
    # A record on its way to its place, in the trash so that a kill leaves nothing that isn't swept; or the bytes of a
    # transfer that has saved nothing yet.
    with suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime < DAY
    return True


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
