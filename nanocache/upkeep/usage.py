"""How much a base directory takes, and for what.

A count and not a record. Invariants: a file with several names is counted once, where it is met first; of a sparse or
compressed file what is on the disk; what disappears meanwhile is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..retention import walk
from ..store.layout import BLOBS, LEASES, LOCKS, PARTIALS, PINS, PRODUCTS, REFS, TRASH, TREES, BaseDirectory

__all__ = ["Usage", "measure"]

# What a person calls it -> our folders. In this order: a tree's files are further names of blobs.
PLACES = {
    "blobs": (BLOBS,),
    "products": (PRODUCTS,),
    "trees": (TREES,),
    "partials": (PARTIALS,),
    "trash": (TRASH,),
    "records": (REFS, LOCKS, PINS, LEASES),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What one kind takes: files, each counted once, and bytes on disk."""

    kind: str
    files: int
    size: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(directory: BaseDirectory) -> list[Usage]:
    """What each kind takes. Raises OSError where a folder can't be read."""
    seen: set[tuple[int, int]] = set()
    return [_usage(directory, kind, seen) for kind in PLACES]


def _usage(directory: BaseDirectory, kind: str, seen: set[tuple[int, int]]) -> Usage:
    sizes = [size for folder in PLACES[kind] for size in _sizes(walk.top(directory, folder), seen)]
    return Usage(kind, len(sizes), sum(sizes))


def _sizes(folder: str, seen: set[tuple[int, int]]) -> Iterator[int]:
    for _, st in walk.tree_files(folder):
        if st.st_nlink > 1:
            inode = st.st_dev, st.st_ino
            if inode in seen:
                continue
            seen.add(inode)
        yield walk.occupied(st)
