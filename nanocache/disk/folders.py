"""Folders of ours: made, listed, and checked on the way down.

Invariant: a symlink or a file where a folder of ours should be is UnsafeCache, since everything that is written later
would land where it points.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from ..callers import suppress
from ..errors import UnsafeCache
from . import files

__all__ = ["check_way", "make_folder", "names"]

MOST_CHECKED = 1 << 12  # folders remembered: those above blobs, refs and locks are 768


def make_folder(path: str, *, below: str, mode: int, checked: set[str], new: bool = False) -> list[str]:
    """Make `path` and what is missing above it, the base directory `below` included. Returns the folders that now
    have a new one in them, innermost first.

    Top down, and each step is checked. The folders above `path` are checked once and then stand in `checked`. The base
    directory itself is made with the umask. `new`: `path` is probably not there, and is made before it is looked at.
    """
    grown: list[str] = []
    for _ in range(files.RACES):
        try:
            for folder in _way_down(path, below, checked):
                if _make_one(folder, mode, new=new and folder == path):
                    grown.insert(0, os.path.dirname(folder))
            return grown
        except FileNotFoundError:  # the parent, or the base directory, was removed by hand meanwhile
            checked.clear()
            os.makedirs(below, exist_ok=True)
    raise FileNotFoundError(errno.ENOENT, "its parent folder keeps disappearing", path)


def check_way(path: str, *, below: str, checked: set[str]) -> None:
    """UnsafeCache if `path` or a folder above it is a symlink, up to `below`, which may be one. Raises OSError."""
    for folder in _way_down(path, below, checked):
        _check_folder(folder)


def _way_down(path: str, below: str, checked: set[str]) -> Iterator[str]:
    """The folders on the way to `path`, itself included, that have to be looked at."""
    parent = os.path.dirname(path)
    if parent not in checked and parent.rstrip("/") != below.rstrip("/"):  # of a base directory that is the root
        yield from _way_down(parent, below, checked)
        if len(checked) >= MOST_CHECKED:
            checked.clear()
        checked.add(parent)
    yield path


def _make_one(path: str, mode: int, *, new: bool) -> bool:
    """Whether it was made."""
    if not new and _is_folder(path):
        return False
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        _check_folder(path)
        return False
    with suppress(FileNotFoundError):  # the base directory was cleared by hand meanwhile
        files.set_mode(path, mode)
    return True


def _is_folder(path: str) -> bool:
    """Whether it is there. Raises UnsafeCache if something else is."""
    try:
        _check_folder(path)
    except FileNotFoundError:
        return False
    return True


def _check_folder(path: str) -> None:
    mode = os.lstat(path).st_mode
    if not stat.S_ISDIR(mode):
        raise UnsafeCache(path=path, reason=f"a folder of the cache should be there, not {files.kind(mode)}")


def names(folder: str) -> list[str]:
    """The names in a folder of ours; none if it is not there. Raises UnsafeCache, OSError."""
    try:
        _check_folder(folder)
        return os.listdir(folder)
    except FileNotFoundError:
        return []
