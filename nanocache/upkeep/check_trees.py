"""Trees: a folder that lacks files, or has wrong ones, or whose manifest is lost.

After the blobs: a file of a tree is a further name of a blob, and a wrong blob has no seal by then. Only what is a copy
is read here. Invariant: a file is put back by a rename of its own, so that no path vanishes (`store.trees`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..callers import let_pass, suppress
from ..cancel import Cancel
from ..disk import files
from ..retention import walk
from ..retention.alone import alone
from ..store import reading, trees
from ..store.blobs import Store
from ..store.layout import TREES
from ..store.manifest import Manifest, TreeFile
from .findings import Suspicion
from .origins import Origins
from .rebuild import rebuild_manifest

__all__ = ["TreeChecker"]


@dataclass(frozen=True)
class TreeChecker:
    store: Store
    origins: Origins
    cancel: Cancel

    def check(self, digests: Iterable[str]) -> Iterator[Suspicion]:
        for digest in digests:
            for root in walk.scan(f"{walk.top(self.store, TREES)}/{digest}"):
                yield from self._check(digest, root.name, root.path)

    def _check(self, digest: str, name: str, root: str) -> Iterator[Suspicion]:
        manifest = trees.read_manifest(self.store, digest)
        if manifest is None:
            mend = partial(rebuild_manifest, self.store, digest, self.cancel)
            yield Suspicion(root, "its manifest is gone or wrong", partial(self._has_no_manifest, digest, root), mend)
            return
        self._read_copies(manifest, root)
        for file in trees.lacking(self.store, manifest, name):
            stays = partial(self._is_lacking, root, file)
            reason = "it is gone from its folder, or was written to"
            yield Suspicion(f"{root}/{file.path}", reason, stays, partial(self._mend, manifest, name))

    def _has_no_manifest(self, digest: str, root: str) -> bool:
        return trees.read_manifest(self.store, digest) is None and os.path.isdir(root)

    def _is_lacking(self, root: str, file: TreeFile) -> bool:
        return os.path.isdir(root) and not trees.stands(self.store, f"{root}/{file.path}", file)

    def _read_copies(self, manifest: Manifest, root: str) -> None:
        """Take the seal off copies that are wrong."""
        for file in manifest.files:
            path = f"{root}/{file.path}"
            if self._is_copy(file, path) and not self._is_right(file, path):
                with suppress(OSError):
                    os.utime(path)

    def _is_copy(self, file: TreeFile, path: str) -> bool:
        try:
            st = files.check_regular(path)
        except OSError as e:  # UnsafeCache: it counts as lacking
            let_pass(e)
            return False
        return st is not None and not any(files.same_file(st, blob) for blob in self.store.paths(file.sha256))

    def _is_right(self, file: TreeFile, path: str) -> bool:
        try:
            with reading.read(path, file.sha256, self.cancel) as read:
                return read.right
        except OSError as e:
            let_pass(e)
            return False

    def _mend(self, manifest: Manifest, name: str) -> bool:
        with alone(self.store, trees.lock_key_of(manifest, name)) as mine:
            lost = trees.lacking(self.store, manifest, name) if mine else []
            blobs = {file.sha256: self._blob(file) for file in lost}
            there = {digest: path for digest, path in blobs.items() if path is not None}
            trees.repair(self.store, manifest, name, there, [file for file in lost if file.sha256 in there])
        return bool(lost)

    def _blob(self, file: TreeFile) -> Path | None:
        name = os.path.basename(file.path)
        here = self.store.any_intact(file.sha256, name)
        if here is None and self.origins.bring(file.sha256, name):
            here = self.store.any_intact(file.sha256, name)
        return None if here is None else Path(here)
