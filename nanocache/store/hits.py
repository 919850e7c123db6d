"""The hit that a data loader asks for millions of times: one stat, and a dictionary.

A memory and not a truth: what it knows is checked against the disk at each call. Invariants: a hit does no network, no
lock and no read; that one stat notices a blob that was written to, replaced or deleted; a remembered URL costs a
second stat, of its ref, since another process may have moved it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable
from itertools import islice
from pathlib import Path

from ..callers import from_handler, let_pass
from ..config import READONLY_DIRS
from ..disk import files
from . import seal
from .recency import Recency

__all__ = ["Hits", "RefStamp"]

RefStamp = tuple[str, tuple[int, int] | None]  # the path of a ref, and its stamp

WATCHED_FOLDERS = 16  # of a product; their mtimes are looked at at each hit, and move when a file in them is purged
MOST_REMEMBERED = 1 << 13  # hits remembered, of 1.5 KB each: a loader may walk over a million files


class _Hit:
    """One answer, and what must still be so for it to be the answer again."""

    __slots__ = ("digest", "folders", "instant", "kind", "marked", "path", "ref", "spelled", "stamp", "tiers")

    def __init__(self, path: Path, digest: str, marked: str | None, kind: int, ref: RefStamp | None, *, product: bool):
        self.path = path
        self.digest = digest
        self.spelled = str(path)
        self.marked = marked  # the folder that says when it was last used; None in a read-only cache
        self.tiers = os.environ.get(READONLY_DIRS)  # which it is an answer of
        self.kind = kind
        self.instant = None if product else seal.of(digest)  # a product has no seal
        self.folders = _folders(self.spelled) if product and stat.S_ISDIR(kind) else ()
        self.ref = None if ref is None else ref[0]
        self.stamp = None if ref is None else ref[1]

    def holds(self, st: os.stat_result) -> bool:
        if stat.S_IFMT(st.st_mode) != self.kind:
            return False
        return self.instant is None or self.instant == st.st_mtime_ns % seal.DAY_NS

    def moved(self) -> bool:
        """Whether the URL's ref is another one by now, or a folder of the product lost or gained a name."""
        if self.ref is not None and files.stamp(self.ref) != self.stamp:
            return True
        return any(files.stamp(folder) != stamp for folder, stamp in self.folders)


def _folders(product: str) -> tuple[tuple[str, tuple[int, int] | None], ...]:
    found = (folder for folder, _, _ in os.walk(product))
    return tuple((folder, files.stamp(folder)) for folder in islice(found, WATCHED_FOLDERS))


class Hits:
    """What one store answered, by what was asked."""

    def __init__(self, recency: Recency) -> None:
        self._recency = recency
        # Two generations stand in for an order: what is asked for again moves to the younger one, which once it is
        # full takes the place of the older one.
        self._known: dict[Hashable, _Hit] = {}
        self._older: dict[Hashable, _Hit] = {}

    def recall(self, asked: Hashable) -> Path | None:
        """The path if what was asked was answered before and is still what it was."""
        hit = self._known.get(asked) or self._renewed(asked)
        if hit is None:
            return None
        try:
            st = os.lstat(hit.spelled)
        except OSError as e:
            if from_handler(e):
                raise
            return None
        # `holds` and `moved`, without a call: each costs a tenth of the whole hit.
        if stat.S_IFMT(st.st_mode) != hit.kind or hit.instant not in (None, st.st_mtime_ns % seal.DAY_NS):
            return None
        if hit.ref is not None and hit.moved():
            return None
        if hit.marked is None:
            return hit.path if os.environ.get(READONLY_DIRS) == hit.tiers else None
        return hit.path if self._recency.mark(hit.marked) else None

    def digest(self, asked: Hashable) -> str:
        """Of the answer to what was asked; "" once it is forgotten."""
        hit = self._known.get(asked) or self._older.get(asked)
        return "" if hit is None else hit.digest

    def remember(
        self, asked: Hashable, path: Path, digest: str, marked: str | None, *, product: bool, ref: RefStamp | None
    ) -> None:
        """Remember an answer that was just found on disk. A blob without its seal is not remembered.

        `ref` is the stamp from before the answer was found: taken afterwards, it could be of a later one.
        """
        if ref is not None and ref[1] is None and marked is not None:  # there was no ref, but a tier's
            return
        try:
            st = os.lstat(path)
        except OSError as e:
            let_pass(e)
            return
        hit = _Hit(path, digest, marked, stat.S_IFMT(st.st_mode), ref, product=product)
        if not hit.holds(st) or hit.moved():
            return
        self._keep(asked, hit)

    def _renewed(self, asked: Hashable) -> _Hit | None:
        hit = self._older.get(asked)
        if hit is not None:
            self._keep(asked, hit)
        return hit

    def _keep(self, asked: Hashable, hit: _Hit) -> None:
        if len(self._known) >= MOST_REMEMBERED // 2:
            self._older = self._known
            self._known = {}
        self._known[asked] = hit

    def forget(self) -> None:
        """Forget everything: a blob behind an intact seal turned out to be wrong."""
        self._known.clear()
        self._older.clear()
