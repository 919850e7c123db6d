"""How much a product holds, kept beside it: so that one is noticed from which a cleaner has purged files.

    products-v1/<digest>/<hook key>-<hash of the product's name>.json

A hint. Invariants: without a record that can be read, a product counts as complete; one that has grown is complete,
since loaders write their indexes beside the data.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ..callers import let_pass, suppress
from ..disk import files
from ..store.layout import BaseDirectory

__all__ = ["Contents", "record_of", "recorded", "remember", "was_purged"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a file or folder."""

    files: int
    size: int  # bytes, of all files together

    @classmethod
    def of(cls, path: str) -> Contents:
        """Counted now. Raises OSError."""
        st = os.lstat(path)
        if not stat.S_ISDIR(st.st_mode):
            return cls(1, st.st_size)
        sizes = list(_sizes(path))
        return cls(len(sizes), sum(sizes))


def _sizes(folder: str) -> Iterator[int]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            else:
                yield entry.stat(follow_symlinks=False).st_size


def remember(directory: BaseDirectory, product: str) -> None:
    """Record what `product` holds, which was just published. A full disk is no reason to fail."""
    with suppress(OSError):
        held = Contents.of(product)
        record = {"files": held.files, "bytes": held.size}
        files.write_json(record_of(product), record, scratch=directory.trash, mode=directory.modes.lock)


def recorded(directory: BaseDirectory, product: str) -> Contents | None:
    """What `product` held when it was published; None without a record that can be read."""
    record = files.read_json(record_of(product), trusts=directory.trusts) or {}
    count, size = record.get("files"), record.get("bytes")
    return Contents(count, size) if type(count) is int and type(size) is int else None


def was_purged(directory: BaseDirectory, product: str) -> bool:
    """Whether files were taken out of `product`, or cut, since it was published."""
    published = recorded(directory, product)
    if published is None:
        return False
    try:
        held = Contents.of(product)
    except OSError as e:  # it is being deleted
        let_pass(e)
        return True
    return held.files < published.files or held.size < published.size


def record_of(product: str) -> str:
    """The path of the record of `product`."""
    folder, name = os.path.split(product)
    return f"{folder}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.json"
