"""Who reads shared shards now: the iterators of this process, and, as the store counts them, those of the others.

    shards/open                           iterators that are open
    shards/ranks, shards/rank/<rank>      the ranks that opened one

A holder of shards asks whether it is wanted. Invariants: a reader that was killed, or a rank that never reads, has it
stay `READERS_PATIENCE` seconds at most; a store that is lost means that none reads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from nanocache.cancel import Cancel

from ..coordination.visiting import JobStore
from ..errors import CoordinatorLost
from ..rank import topology

__all__ = ["Readers"]

READERS_PATIENCE = 60.0  # seconds after this process's own last iterator
READERS_LEAVING = 2.0  # seconds of them at the end of the process, as a disk that says nothing is waited for elsewhere
READERS_LINGER = 0.5  # seconds in any case
READERS_LOOK = 0.05  # seconds


class Readers:
    """Those of one disk's process, and all others."""

    def __init__(self, store: JobStore) -> None:
        self._store = store.client
        self._guard = threading.Lock()
        self._here: list[Cancel] = []  # one for each open iterator, set once it is closed
        self._idle_since = time.monotonic()
        here = topology()
        self._ranks = here.world_size
        if self._store.add(f"shards/rank/{here.rank}", 1) == 1:
            self._store.add("shards/ranks", 1)

    def opened(self, cancel: Cancel) -> None:
        """An iterator of this process, until `cancel` is set. Raises CoordinatorLost."""
        self._store.add("shards/open", 1)
        with self._guard:
            self._here.append(cancel)

    def any_here(self) -> bool:
        return any(not cancel.is_set() for cancel in self._here)

    def are_there(self) -> bool:
        """Whether any reads, or may yet begin to."""
        self._count_closed()
        if self._here:
            self._idle_since = time.monotonic()
            return True
        idle = time.monotonic() - self._idle_since
        return idle < READERS_LINGER or (idle < READERS_PATIENCE and self._others())

    def wait_for_others(self) -> None:
        """Return once none but this process reads, or after `READERS_LEAVING` seconds. Here none reads any more."""
        self._close(self._here)
        deadline = time.monotonic() + READERS_LEAVING
        while self._others() and time.monotonic() < deadline:
            time.sleep(READERS_LOOK)

    def _count_closed(self) -> None:
        self._close([cancel for cancel in self._here if cancel.is_set()])

    def _close(self, iterators: Iterable[Cancel]) -> None:
        for cancel in list(iterators):
            with self._guard:
                if cancel not in self._here:
                    continue
                self._here.remove(cancel)
            self._add("shards/open", -1)

    def _others(self) -> bool:
        return self._add("shards/open", 0) > len(self._here) or 0 < self._add("shards/ranks", 0) < self._ranks

    def _add(self, key: str, amount: int) -> int:
        try:
            return self._store.add(key, amount)
        except CoordinatorLost:
            return 0
