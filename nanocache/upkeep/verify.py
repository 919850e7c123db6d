"""Verifying: is all that is cached what it should be, and can what is not be had again?

Blobs are read, on all cores; of trees, products and refs what tells that something is missing. Invariants: no blob is
deleted before there is a right one in its place; without `repair` nothing goes, and nothing comes; what is merely on
its way is no damage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..callers import let_pass, suppress
from ..cancel import Cancel, ambient
from ..disk import files
from ..errors import NanocacheError
from ..progress import Display, ProgressOption
from ..retention import walk
from ..store import trees
from ..store.blobs import Store
from ..store.layout import PRODUCTS, TREES
from ..store.sweep import VERIFIED
from . import parallel
from .check_blobs import BlobChecker
from .check_records import check_products, check_refs
from .check_trees import TreeChecker
from .findings import Damage, Suspicion
from .origins import Origins

__all__ = ["Verified", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` counted."""

    checked: int  # files that were read
    size: int  # bytes of them
    healed: int  # that had lost their seal, and whose bytes are right
    damage: tuple[Damage, ...]

    @property
    def repaired(self) -> int:
        return sum(one.repaired for one in self.damage)

    @property
    def left(self) -> int:
        """What is damaged still."""
        return len(self.damage) - self.repaired

    @property
    def sound(self) -> bool:
        return self.left == 0


def verify(
    store: Store, digests: list[str] | None, *, repair: bool, workers: int | None, progress: ProgressOption
) -> Verified:
    """Look at all that is cached, or at what is of `digests`."""
    run = _Run(store, digests, Cancel())
    began = time.time()
    with ambient().watch(run.cancel.set):
        findings = run.find(workers or _cores(), progress)
        stayed = [finding for finding in findings if finding.stays()]
        damage = [_settle(finding, repair) for finding in stayed]
    if digests is None:
        _mark(store, began)
    return Verified(run.blobs.checked, run.blobs.size, run.blobs.healed, tuple(damage))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settle(finding: Suspicion, repair: bool) -> Damage:
    try:
        return finding.settle(repair=repair)
    except (NanocacheError, OSError) as e:  # what cannot be mended is left, and the rest goes on
        let_pass(e)
        return Damage(finding.path, f"{finding.reason}; it cannot be repaired: {e}", repaired=False)


def _mark(store: Store, began: float) -> None:
    """Remember when all was read. What is wrong has lost its seal, and is not meant."""
    mark = os.path.join(store.trash, VERIFIED)
    with suppress(OSError):
        with suppress(FileExistsError):
            files.create(mark, b"", store.modes.lock)
        os.utime(mark, (began, began), follow_symlinks=False)


class _Run:
    """One look at everything."""

    def __init__(self, store: Store, digests: list[str] | None, cancel: Cancel) -> None:
        self.store = store
        self.cancel = cancel
        self.everything = digests is None
        self.digests = self._all() if digests is None else self._with_files(digests)
        self.origins = Origins(store, cancel)
        self.blobs = BlobChecker(store, self.origins, cancel)

    def _all(self) -> list[str]:
        blobs = [digest for digest, _ in walk.blob_folders(self.store)]
        built = walk.digests_in(walk.top(self.store, PRODUCTS)) | walk.digests_in(walk.top(self.store, TREES))
        return [*blobs, *built.difference(blobs)]

    def _with_files(self, digests: Iterable[str]) -> list[str]:
        """These, and the blobs that a tree among them shows."""
        manifests = [(digest, trees.read_manifest(self.store, digest)) for digest in digests if self._has_tree(digest)]
        shown = [file.sha256 for _, manifest in manifests if manifest is not None for file in manifest.files]
        return list(dict.fromkeys([*digests, *shown]))

    def _has_tree(self, digest: str) -> bool:
        return walk.is_folder(self.store.tree_folder(digest))

    def find(self, workers: int, progress: ProgressOption) -> list[Suspicion]:
        """All that may be damage; the blobs first, since trees are made of them."""
        display = Display(progress, "verify")
        sizes = sum(st.st_size for digest in self.digests for _, st in walk.files_in(self.store.blob_folder(digest)))
        try:
            parallel.each(
                self.digests,
                self._check_blob,
                workers=workers,
                cancel=self.cancel,
                show=lambda: display.report(self.blobs.size, sizes),
            )
        finally:
            display.close()
        return [*self.blobs.findings, *self._other_findings()]

    def _check_blob(self, digest: str) -> None:
        if walk.is_folder(self.store.blob_folder(digest)):
            self.blobs.check(digest)

    def _other_findings(self) -> Iterator[Suspicion]:
        yield from TreeChecker(self.store, self.origins, self.cancel).check(self.digests)
        yield from check_products(self.store, self.digests)
        if self.everything:
            yield from check_refs(self.store)
