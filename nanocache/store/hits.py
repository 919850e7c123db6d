"""The hit that a data loader asks for millions of times: one stat, and a dictionary.

A memory and not a truth: what it knows is checked against the disk at each call. Invariants: a hit does no network, no
lock and no read; a blob that was written to, replaced or deleted is noticed by that one stat; a remembered URL costs a
second stat, of its ref, since another process may have moved it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable
from pathlib import Path

from ..disk import files
from . import seal
from .blobs import Store

__all__ = ["Hits"]

Ref = tuple[str, tuple[int, int] | None]  # the path of a ref, and its stamp

LIMIT = 1 << 16  # hits remembered; beyond it the memory starts anew rather than keep an order


class _Hit:
    __slots__ = ("digest", "instant", "kind", "path", "ref", "sealed", "spelled", "stamp")

    def __init__(self, path: Path, digest: str, *, product: bool, ref: Ref | None) -> None:
        self.path, self.spelled, self.digest = path, str(path), digest
        st = os.lstat(path)
        self.kind = stat.S_IFMT(st.st_mode)
        self.instant = None if product else seal.of(digest)
        self.sealed = product or seal.holds(st, digest)
        self.ref = None if ref is None else ref[0]
        self.stamp = None if ref is None else ref[1]


class Hits:
    """What one store answered, by what was asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Hashable, _Hit] = {}

    def recall(self, asked: Hashable) -> Path | None:
        """The path if what was asked was answered before and is still what it was."""
        hit = self._known.get(asked)
        if hit is None:
            return None
        try:
            st = os.lstat(hit.spelled)
        except OSError:
            return None
        if stat.S_IFMT(st.st_mode) != hit.kind or hit.instant not in (None, st.st_mtime_ns % seal.DAY_NS):
            return None
        if hit.ref is not None and files.stamp(hit.ref) != hit.stamp:
            return None
        self._store.mark_recent(hit.digest)
        return hit.path

    def remember(self, asked: Hashable, path: Path, digest: str, *, product: bool, ref: Ref | None) -> None:
        """Remember an answer that was just found on disk; one that no seal tells from another is not remembered.

        `ref` is the stamp from before the answer was found: taken afterwards, it could be of a later one.
        """
        try:
            hit = _Hit(path, digest, product=product, ref=ref)
        except OSError:
            return
        if not hit.sealed or (hit.ref is not None and (hit.stamp is None or files.stamp(hit.ref) != hit.stamp)):
            return
        if len(self._known) >= LIMIT:
            self._known.clear()
        self._known[asked] = hit
