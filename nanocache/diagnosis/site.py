"""Where the probes work: a base directory, its mount, and a private folder in its trash.

    trash-v1/new-<random>/      deleted after the probes; after a kill by the sweep, once it is a day old

Invariants: nothing is written but in that folder; a sweep takes no younger one, and no fetch looks at it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..disk import files
from ..store.layout import BaseDirectory
from .mounts import Mount, mount_of

__all__ = ["SOME_BYTES", "Site", "bench"]

SOME_BYTES = bytes(range(256)) * 256  # 64 KiB: more than what file systems keep in an inode


@dataclass(frozen=True, slots=True)
class Site:
    """One base directory, and where on its mount may be written."""

    directory: BaseDirectory
    mount: Mount | None
    bench: str = ""  # the private folder

    @classmethod
    def of(cls, base: str) -> Site:
        return cls(BaseDirectory(base), mount_of(os.path.realpath(base)))

    @property
    def base(self) -> str:
        return self.directory.base

    def path(self, name: str) -> str:
        """The path of something in the private folder."""
        return f"{self.bench}/{name}"

    def new_file(self, name: str, data: bytes = b"") -> str:
        """Write a file there. Raises OSError."""
        path = self.path(name)
        files.create(path, data, 0o600)
        return path


@contextmanager
def bench(directory: BaseDirectory) -> Iterator[str]:
    """A private folder on the base directory's disk, deleted after the block. Raises OSError, UnsafeCache."""
    directory.folder(directory.trash)
    path = os.path.join(directory.trash, files.new_name())
    os.mkdir(path, 0o700)
    try:
        files.create(f"{path}/room", SOME_BYTES, 0o600)  # a full disk may still make folders
        yield path
    finally:
        files.remove(path)
