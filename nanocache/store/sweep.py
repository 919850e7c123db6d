"""Sweeping: what kills and power cuts left behind is deleted now and then.

After a download and never on a hit, at most once a day per base directory: partials whose owner is gone and that are a
week old, and trash. Invariants: nothing outside our own folders is touched; nothing that a living process writes is.
"""

from __future__ import annotations

import os
import time

from ..callers import let_pass, suppress
from ..disk import files
from . import orphans, seal
from .layout import SWEPT, TAGS, BaseDirectory

__all__ = ["DAY", "VERIFIED", "daily", "is_mark"]

DAY = 86_400.0  # seconds between two sweeps, and that a file on its way to its place is kept
WEEK = 7 * DAY  # seconds that a partial is kept to be resumed
VERIFIED = "verified"  # in the trash; its mtime is when all was read the last time


def daily(directory: BaseDirectory) -> None:
    """Sweep, unless a process did within a day. Errors are left for the next time."""
    now = time.time()
    if now - directory.swept < DAY:
        return
    mark = directory.mark
    try:
        directory.swept = os.lstat(mark).st_mtime
        if now - directory.swept < DAY:
            return
        os.utime(mark, follow_symlinks=False)
    except FileNotFoundError:
        with suppress(OSError):
            files.create(mark, b"", directory.modes.lock)
    except OSError as e:
        let_pass(e)
        return
    directory.swept = now
    _sweep_trash(directory)
    _sweep_partials(directory)


def _sweep_trash(directory: BaseDirectory) -> None:
    for entry in _scan(directory.trash):
        if is_mark(entry.name) or _on_its_way(entry):
            continue
        files.remove(entry.path)


def is_mark(name: str) -> bool:
    """Whether what has that name in the trash is no trash."""
    return name in (SWEPT, VERIFIED, *TAGS)


def _sweep_partials(directory: BaseDirectory) -> None:
    for entry in _scan(directory.all_partials):
        if _on_its_way(entry):
            continue
        if entry.name.startswith(files.NEW):
            files.remove(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            _sweep_key(directory, entry.path)


def _sweep_key(directory: BaseDirectory, folder: str) -> None:
    for partial in _scan(folder):
        with suppress(OSError):  # not ours to remove, or not what it should be: no reason to fail a fetch
            if orphans.gone(partial.path, directory, age=WEEK):
                directory.set_aside(partial.path)
    files.remove_empty(folder)


def _on_its_way(entry: os.DirEntry[str]) -> bool:
    """Whether it is a young file on its way: a record to its place, or a transfer's bytes before their first save."""
    if not entry.name.startswith(files.NEW):
        return False
    with suppress(OSError):
        return time.time() - seal.changed(entry.stat(follow_symlinks=False)) < DAY
    return True


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as e:
        let_pass(e)
        return []
