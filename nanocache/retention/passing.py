"""The blobs that a reader holds until it has passed them, and that go once every reader beside it has.

    hold      from the moment that one is here
    passed    let go; evicted if it came for this reader, or for one that held it when this one took it

Not which blobs a reader wants (`engine.window`). Invariants: what was here before any of them is not evicted; what a
reader of another process still holds stays, and goes with the last of them; a reader that is killed holds nothing, and
what it leaves is a blob like any other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ..callers import suppress
from ..store.blobs import Store
from . import walk
from .eviction import evict_artifact
from .leases import Leases, lease

__all__ = ["PassingBlobs"]

Gone = Callable[[int], object]


class PassingBlobs:
    """Those of one reader. `deleting` gives what is told how many bytes an eviction freed."""

    def __init__(self, store: Store, deleting: Callable[[], Gone]) -> None:
        self._store = store
        self._deleting = deleting
        self._closed = False
        self._held: dict[Path, ExitStack] = {}
        self._to_evict: set[str] = set()  # digests of those that came for this reader, or for one beside it
        self._passed: set[str] = set()  # those of them that other readers still held

    def hold(self, path: Path, came: bool) -> bool:
        """Whether it is still there, and stays until it was passed. `came`: nothing of it was here before."""
        if not self._store.holds(path):
            return True
        digest = _digest(path)
        passing = came or Leases(self._store).passing(digest)
        held = ExitStack()
        with suppress(OSError):  # a cache that may not be written: nothing is evicted there, either
            held.enter_context(lease(self._store, [digest], passing=passing))
        if not os.path.lexists(path):  # a reader beside this one passed it a moment ago
            held.close()
            return False
        self._let_go(path)
        self._held[path] = held
        if passing:
            self._to_evict.add(digest)
        if self._closed:  # while this thread was fetching
            self._let_go(path)
        return True

    def passed(self, path: Path) -> None:
        """Let go of it, and evict what no reader holds any more."""
        self._let_go(path)
        digest = _digest(path)
        if digest in self._to_evict:
            self._to_evict.discard(digest)
            self._passed.add(digest)
        for one in list(self._passed):
            with suppress(OSError):
                if evict_artifact(self._store, one, self._deleting()):
                    self._passed.discard(one)

    def close(self) -> None:
        """Let go of all. What was not passed stays here."""
        self._closed = True
        for path in list(self._held):
            self._let_go(path)

    def _let_go(self, path: Path) -> None:
        held = self._held.pop(path, None)
        if held is not None:
            held.close()


def _digest(path: Path) -> str:
    """Of the artifact that a path of ours is of: the name of a folder above it."""
    return next((part for part in reversed(path.parts) if walk.is_digest(part)), "")
