"""Pruning: what goes, in which order, and why the rest stays.

First dead partials, then what hooks and snapshots made, then blobs; of each kind the longest unused first. Nothing goes
that is pinned, held, listed, or was used within two hours. One prune at a time, beside any number of fetches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..callers import suppress
from ..cancel import Cancel, ambient
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import files
from ..events import Evict, tell
from ..store.blobs import Store
from ..store.layout import TRASH, product_lock_key
from ..store.sweep import DAY, is_mark
from . import walk
from .alone import alone
from .eviction import check_writable, evict
from .reasons import Keepers, disk_time
from .survey import Candidate, Survey, in_order

__all__ = ["Limits", "Ruling", "Pruned", "one_at_a_time", "prune"]

JUST_NOW = 60.0  # seconds for which what is in the trash is left to the process that put it there


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of one thing, and why."""

    kind: str  # trash, partial, product, tree, blob
    path: str
    size: int  # bytes that went, or would go, with it
    used: float  # seconds since the epoch
    reason: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, what stayed, and why. Sizes in bytes, as the cap counts them."""

    removed: tuple[Ruling, ...]
    kept: tuple[Ruling, ...]
    size: int  # what is left
    dry_run: bool

    @property
    def freed(self) -> int:
        return sum(one.size for one in self.removed)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may stay. None: no limit."""

    max_size: int | None  # bytes
    older_than: float | None  # seconds since the last use


def prune(store: Store, limits: Limits, *, keep: Collection[str], dry_run: bool) -> Pruned:
    """Evict what is beyond `limits`, and what has no owner any more. Raises OSError where nothing may be changed."""
    if dry_run:
        return _Prune(store, limits, keep, time.time(), dry_run=True).run()
    check_writable(store)
    with one_at_a_time(store, ambient()):
        return _Prune(store, limits, keep, disk_time(store), dry_run=False).run()


@contextmanager
def one_at_a_time(store: Store, cancel: Cancel) -> Iterator[None]:
    """Evict alone while the block runs. Raises Cancelled."""
    place = store.lock_place(product_lock_key("prune"))
    with hold_lock(place, WaitOptions(lambda: False, ("prune", os.getpid()), cancel, None, lambda *_: None)):
        yield


class _Prune:
    """One run."""

    def __init__(self, store: Store, limits: Limits, keep: Collection[str], now: float, *, dry_run: bool) -> None:
        self._store = store
        self._limits = limits
        self._now = now
        self._dry_run = dry_run
        self._keepers = Keepers(store, keep, now)
        self._removed: list[Ruling] = []
        self._kept: list[Ruling] = []

    def run(self) -> Pruned:
        self._empty_trash()
        survey = Survey(self._store)
        for candidate in in_order(survey):
            self._decide(candidate, survey)
        if not self._dry_run:
            self._remove_empty(survey)
            self._keepers.clear_dead()
        return Pruned(tuple(self._removed), tuple(self._kept), survey.size, self._dry_run)

    def _empty_trash(self) -> None:
        for entry in walk.scan(walk.top(self._store, TRASH)):
            st = _lstat(entry)
            if st is None:
                continue
            young = DAY if entry.name.startswith(files.NEW) else JUST_NOW
            if is_mark(entry.name) or self._now - max(st.st_ctime, st.st_mtime) < young:
                continue
            size = sum(walk.occupied(one) for _, one in walk.tree_files(entry.path))
            if not self._dry_run:
                files.remove(entry.path)
            self._went(Ruling("trash", entry.path, size, st.st_mtime, "left by a process that was killed"))

    def _remove_empty(self, survey: Survey) -> None:
        """Remove folders of blobs in which a killed process published nothing. What is in one keeps it."""
        for blob in survey.blobs:
            if not blob.inodes and self._keepers.reason(blob, survey) is None:
                with suppress(OSError), alone(self._store, blob.digest) as mine:
                    if mine:
                        os.rmdir(blob.path)

    def _decide(self, candidate: Candidate, survey: Survey) -> None:
        size = survey.freed_by(candidate)
        stays = self._keepers.reason(candidate, survey)
        goes = "" if stays is not None else self._reason_to_go(candidate, survey)
        if stays is None and goes and not self._dry_run:
            stays = evict(self._store, candidate, self._keepers)
        if stays is None and goes:
            survey.went(candidate)
            self._went(Ruling(candidate.kind, candidate.path, size, candidate.used, goes))
        else:
            reason = stays or "there is room for it"
            self._kept.append(Ruling(candidate.kind, candidate.path, size, candidate.used, reason))

    def _went(self, ruling: Ruling) -> None:
        self._removed.append(ruling)
        if not self._dry_run:
            tell(Evict(ruling.kind, ruling.path, ruling.size, ruling.reason))

    def _reason_to_go(self, candidate: Candidate, survey: Survey) -> str:
        """Why it goes; "" if it need not."""
        if candidate.kind == "partial":
            return "its process is gone"
        unused = self._now - candidate.used
        if self._limits.older_than is not None and unused > self._limits.older_than:
            return f"unused for {unused / DAY:.1f} days"
        if self._limits.max_size is not None and survey.size > self._limits.max_size:
            return f"to make room: unused for {unused / DAY:.1f} days"
        return ""


def _lstat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for what another process has moved on, or deleted, meanwhile."""
    try:
        return entry.stat(follow_symlinks=False)
    except walk.MISSING:
        return None
