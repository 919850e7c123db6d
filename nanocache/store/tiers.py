"""Other caches that are looked into before the network, and never written: a site's, a colleague's, an image's.

    first       the first answer that one of them has
    Tier        one of them: a store, of which only what looks is left

What is found there stays there, and its path is what the caller gets. Invariants: nothing is made, marked or linked in
a tier; one that cannot be used, or a file in it that is wrong, costs one warning and the time to look; only the tier
itself may be a symlink, nothing below it.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ..callers import let_pass, suppress
from ..cancel import Cancel
from ..disk import files, folders
from . import reading
from .blobs import Store, witness
from .recency import Recency

__all__ = ["Tier", "first", "opened"]

logger = logging.getLogger("nanocache")

T = TypeVar("T")


def first(folders: Sequence[str], question: Callable[[Tier], T | None], *, beside: str) -> T | None:
    """What the first of the caches in `folders` answers that has an answer. `beside`: the base directory itself."""
    for folder in folders:
        tier = opened(folder)
        if folder == beside or not tier.is_there():
            continue
        try:
            if (answer := question(tier)) is not None:
                return answer
        except OSError as e:  # UnsafeCache, too: it is not this user's to repair
            let_pass(e)
            tier.pass_over(e)
    return None


@functools.cache
def opened(folder: str) -> Tier:
    """The cache in `folder`, and what this process knows of it."""
    return Tier(folder)


class Tier(Store):
    """A cache of nanocache's that this process only reads."""

    def __init__(self, base: str) -> None:
        super().__init__(base)
        self.recency = _NoMarks()
        self._warned = False

    def is_there(self) -> bool:
        """Whether it may be looked into. A folder that is not there is none, and may appear at any time."""
        mode = self._known().mode
        if mode & stat.S_IWOTH:
            self.pass_over(PermissionError(0, f"every user can replace files in it (mode {stat.S_IMODE(mode):04o})"))
            return False
        return bool(mode)

    def pass_over(self, error: OSError) -> None:
        """Say once that what it has is not used."""
        if not self._warned:
            self._warned = True
            logger.warning("the read-only cache %s is passed over: %s", self.base, error.strerror or error)

    def prepare(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def check_trusted(self, path: str, st: os.stat_result) -> None:
        super().check_trusted(path, st)
        folders.check_way(os.path.dirname(path), below=self.base, checked=self._checked)

    def _link(self, source: str, target: str, digest: str) -> Path:
        return Path(source)  # under whatever name it has there

    def read(self, digest: str, name: str, cancel: Cancel) -> Path | None:
        """The blob if its bytes, read now, are right: sealed or not. Raises Cancelled, UnsafeCache, OSError."""
        for path in self.paths(digest, name):
            st = files.check_regular(path)
            if st is None or self.is_wrong(st):
                continue
            self.check_trusted(path, st)
            with suppress(FileNotFoundError):  # evicted meanwhile
                if self._is_right(path, digest, cancel):
                    return Path(path)
        return None

    def _is_right(self, path: str, digest: str, cancel: Cancel) -> bool:
        with reading.read(path, digest, cancel) as read:
            st = os.fstat(read.fd)
            if read.right:
                self.vouch(path, st)
                return True
        self.condemn(path, st)
        return False

    def is_wrong(self, st: os.stat_result) -> bool:
        """Whether this process read the file that `st` is of, and found other bytes than its name says."""
        return self._is(self._wrong, st)

    def condemn(self, path: str, st: os.stat_result) -> None:
        self._wrong.add(witness(st))
        logger.warning("%s is damaged, and passed over: its bytes are not those of its name", path)


class _NoMarks(Recency):
    """Of a tier: its owner decides what stays there, and does not hear of its uses."""

    def mark(self, folder: str) -> bool:
        return True
