"""Why something stays, whatever it takes: it is pinned, held, listed, was used just now, or another thing needs it.

What is pinned and held is read once, to plan, and again at the moment of an eviction (`claim_on`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection

from ..disk import files
from ..store import orphans
from ..store.blobs import Store
from ..store.layout import PARTIALS, PRODUCT_PREFIX
from . import pins, walk
from .leases import Leases
from .survey import Candidate, Survey

__all__ = ["GRACE", "Keepers", "disk_time"]

GRACE = 7200.0  # seconds after its last use in which nothing is evicted: a mark may be an hour old
PINNED = "pinned"
HELD = "held by a process"
AT_WORK = "a process may be at work on it"
USED_LATELY = "used less than 2 h ago"
SHOWN = "a snapshot that stays shows it"


class Keepers:
    """What keeps things in one base directory. `listed`: digests that the caller wants kept."""

    def __init__(self, store: Store, listed: Collection[str], now: float) -> None:
        self._store = store
        self._listed = listed
        self._leases = Leases(store)
        self._held = self._leases.held() | _sources(store)
        self._pinned = pins.pinned(store)
        self._now = now

    def reason(self, candidate: Candidate, survey: Survey) -> str | None:
        """Why it stays; None if it may go."""
        if candidate.kind == "partial":
            return None if orphans.is_dead(candidate.path, self._store) else AT_WORK
        for digests, why in ((self._pinned, PINNED), (self._held, HELD), (self._listed, "kept, as asked")):
            if candidate.digest in digests:
                return why
        unused = self._now - candidate.used
        if unused < GRACE:
            return USED_LATELY
        if candidate.kind == "blob" and survey.is_shown(candidate):
            return SHOWN
        return None

    def claim_on(self, digest: str) -> str | None:
        """Why it is wanted at this moment; asked once it was taken."""
        if pins.is_pinned(self._store, digest):
            return PINNED
        return HELD if digest in self._leases.held() else None

    def clear_dead(self) -> None:
        """Delete the leases of processes that are gone."""
        self._leases.clear_dead()


def _sources(store: Store) -> frozenset[str]:
    """What hooks build from now: one may take longer than the grace, and marks what it reads but once."""
    keys = [key.path for key in walk.scan(walk.top(store, PARTIALS)) if key.name.startswith(PRODUCT_PREFIX)]
    return frozenset(filter(None, (orphans.source_of(one.path, store) for key in keys for one in walk.scan(key))))


def disk_time(store: Store) -> float:
    """Seconds since the epoch by the clock that marks uses: a file server has its own. The earlier of two is safe."""
    fresh = os.path.join(store.trash, files.new_name())
    files.create(fresh, b"", store.modes.lock)
    try:
        return min(time.time(), os.lstat(fresh).st_mtime)
    finally:
        files.remove(fresh)
