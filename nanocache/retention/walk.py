"""What lies in the folders of a base directory: names and sizes, as one walk finds them.

Not what it means (`entries`). Invariants: only our own folders are walked, and no symlink is followed; what disappears
meanwhile was never there; nothing is written, opened or parsed. A folder that may not be read is an OSError, since
what is not seen must not be taken for absent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..callers import let_pass
from ..errors import UnsafeCache
from ..store.layout import BLOBS, REFS, BaseDirectory

__all__ = [
    "blob_folders",
    "digests_in",
    "files_in",
    "is_digest",
    "is_folder",
    "occupied",
    "ref_files",
    "scan",
    "top",
    "tree_files",
]

MISSING = (FileNotFoundError, NotADirectoryError)
HEXADECIMAL = frozenset("0123456789abcdef")
SECTOR = 512  # bytes; what st_blocks counts in


def scan(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except MISSING:
        return []


def top(directory: BaseDirectory, name: str) -> str:
    """One of our folders in the base directory. Raises UnsafeCache for a symlink: it would lead the walk elsewhere."""
    return _itself(directory.top(name))


def _itself(folder: str) -> str:
    if os.path.islink(folder):
        raise UnsafeCache(path=folder, reason="a folder of the cache should be there, not a symlink")
    return folder


def is_folder(path: str) -> bool:
    """Whether it is a folder, and no symlink to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except MISSING:
        return False


def is_digest(name: str) -> bool:
    return len(name) == 64 and HEXADECIMAL.issuperset(name)


def digests_in(folder: str) -> set[str]:
    """The digests that the folders in a folder are called by."""
    entries = scan(folder)
    return {entry.name for entry in entries if is_digest(entry.name) and entry.is_dir(follow_symlinks=False)}


def blob_folders(directory: BaseDirectory) -> Iterator[tuple[str, str]]:
    """(digest, folder) of all that is in `blobs-v1`."""
    for shard in scan(_itself(f"{top(directory, BLOBS)}/sha256")):
        for folder in scan(shard.path) if shard.is_dir(follow_symlinks=False) else ():
            if is_digest(folder.name) and folder.is_dir(follow_symlinks=False):
                yield folder.name, folder.path


def ref_files(directory: BaseDirectory) -> Iterator[str]:
    """The paths of all refs."""
    for shard in scan(top(directory, REFS)):
        for file in scan(shard.path) if shard.is_dir(follow_symlinks=False) else ():
            if is_digest(file.name.removesuffix(".json")) and file.is_file(follow_symlinks=False):
                yield file.path


def files_in(folder: str) -> list[tuple[str, os.stat_result]]:
    """(name, lstat) of the regular files in a folder, and of no folder below it."""
    found = []
    for entry in scan(folder):
        try:
            st = entry.stat(follow_symlinks=False)
        except MISSING:
            continue
        if stat.S_ISREG(st.st_mode):
            found.append((entry.name, st))
    return found


def tree_files(path: str, *, blind: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """(path, lstat) of each file at or below `path`; of a symlink its own.

    `blind`: a folder that may not be read is passed over: another user's hook may build in one.
    """
    try:
        st = os.lstat(path)
    except MISSING:
        return
    if not stat.S_ISDIR(st.st_mode):
        yield path, st
        return
    for entry in _seen(path) if blind else scan(path):
        if entry.is_dir(follow_symlinks=False):
            yield from tree_files(entry.path, blind=blind)
            continue
        try:
            yield entry.path, entry.stat(follow_symlinks=False)
        except MISSING:
            continue


def _seen(folder: str) -> list[os.DirEntry[str]]:
    try:
        return scan(folder)
    except PermissionError as e:
        let_pass(e)
        return []


def occupied(st: os.stat_result) -> int:
    """Bytes that a file takes: of a sparse or compressed one, those that are on the disk."""
    return min(st.st_size, st.st_blocks * SECTOR)
