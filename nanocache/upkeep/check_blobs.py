"""The blobs: each is read again, once for all its names that are one file.

Invariants: nothing is deleted; a wrong blob loses its seal, so that no hit gives it, and stays until a right one
replaces it (`Store.publish`); right bytes without a seal are sealed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ..callers import let_pass
from ..cancel import Cancel
from ..disk import files
from ..retention import walk
from ..store.blobs import Store
from .findings import Suspicion
from .origins import Origins
from .rebuild import rebuild_manifest

__all__ = ["BlobChecker"]


@dataclass
class BlobChecker:
    """Reads blobs, from several threads at once, and counts."""

    store: Store
    origins: Origins
    cancel: Cancel
    checked: int = 0
    size: int = 0  # bytes
    healed: int = 0
    findings: list[Suspicion] = field(default_factory=list)

    def check(self, digest: str) -> None:
        """Read what is published for `digest`."""
        folder = self.store.blob_folder(digest)
        entries = walk.scan(folder)
        if not entries:
            self._add(digest, folder, "the file is gone", partial(self._is_empty, digest, folder))
        seen: dict[int, str | None] = {}  # inode -> what is wrong with it
        for entry in entries:
            inode = entry.inode()
            if inode not in seen:
                seen[inode] = self._fault(digest, entry)
            if (reason := seen[inode]) is not None:
                self._add(digest, entry.path, reason, partial(self._is_wrong, digest, entry.path))

    def _fault(self, digest: str, entry: os.DirEntry[str]) -> str | None:
        """What is wrong with one file."""
        if not entry.is_file(follow_symlinks=False):
            return "something other than a file stands there: remove it"
        try:
            sealed = self.store.intact(digest, entry.path)
            size = entry.stat(follow_symlinks=False).st_size
            right = self.store.judge(digest, entry.path, self.cancel)
        except FileNotFoundError:
            return None
        except OSError as e:
            let_pass(e)
            return f"it cannot be used: {e.strerror or e}"
        self.checked += 1
        self.size += size
        self.healed += right is True and not sealed
        return "its bytes are not those of its digest" if right is False else None

    def _add(self, digest: str, path: str, reason: str, stays: Callable[[], bool]) -> None:
        self.findings.append(Suspicion(path, reason, stays, partial(self._mend, digest, path)))

    def _is_empty(self, digest: str, folder: str) -> bool:
        # A first download makes its folder before its file, and remembers its URL after both.
        return self.origins.knows(digest) and os.path.isdir(folder) and not os.listdir(folder)

    def _is_wrong(self, digest: str, path: str) -> bool:
        try:
            return os.path.lexists(path) and not self.store.intact(digest, path)
        except OSError as e:  # UnsafeCache
            let_pass(e)
            return True

    def _mend(self, digest: str, path: str) -> bool:
        is_file = path != self.store.blob_folder(digest)
        if is_file and files.check_regular(path) is None:
            return False
        if rebuild_manifest(self.store, digest, self.cancel):
            return True
        return self.origins.bring(digest, os.path.basename(path) if is_file else None)
