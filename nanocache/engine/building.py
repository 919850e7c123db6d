"""What a function builds without an artifact to build it from: once for all processes, and kept under the caller's key.

    products-v1/<hash of the key>/<hash of the name>/<name>

A product like a hook's, and under the same invariants (`products`): one build under contention, visible only when
complete and synced, built again where files were purged from it. Invariant: the key alone decides: what the function
reads, or is, is the caller's to put into it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifact.hooks import check_built, failing_as
from ..cancel import Cancel, ambient, within
from ..config import Settings
from ..coordination.flights import share
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import faults
from ..store.blobs import Store
from ..store.layout import product_lock_key
from ..store.private import private_folder
from . import products
from .room import room_for

__all__ = ["Build"]

LABEL = "build"


@dataclass(frozen=True, slots=True)
class Build:
    """One question for what `fn` builds under `key`."""

    store: Store
    key: str
    name: str
    fn: Callable[[Path], object]
    settings: Settings
    stale: int | None = None  # the inode of what is to be replaced

    def run(self) -> Path:
        """The path. Raises PostprocessFailed, LockTimeout, UnsafeCache, Cancelled, OSError."""
        with faults.named(self.store.base):
            found = products.find_at(self.store, self.path)
            if found is not None and self.store.recency.mark(os.path.dirname(found.parent)):
                return found
        return faults.persistently(self.store.base, self._miss)

    @property
    def path(self) -> str:
        digest = hashlib.sha256(f"build {self.key}".encode()).hexdigest()
        return self.store.product(digest, hashlib.sha256(self.name.encode()).hexdigest()[:16], self.name)

    @property
    def _lock_key(self) -> str:
        return product_lock_key(os.path.relpath(self.path, self.store.base))

    @property
    def _identity(self) -> tuple[object, ...]:
        return LABEL, self.key, self.name, *self.settings

    def _miss(self) -> Path | None:
        if not self.store.prepare():
            raise PermissionError(f"{self.store.base} is not writable for this user, and holds no {self.name!r} yet")
        leader = replace(self, stale=products.inode_of(self.path))
        return share((LABEL, self.store.base, self._lock_key), self._identity, leader._lead, ambient())

    def _lead(self, cancel: Cancel) -> Path | None:
        options = WaitOptions(self._published, self._identity, cancel, self.settings.lock_timeout, lambda *_: None)
        with hold_lock(self.store.lock_place(self._lock_key), options) as writer:
            self.store.look_again(self.path)
            there = products.find_at(self.store, self.path)
            if there is not None or writer is None:
                return there
            room = room_for(self.store, self.settings, cancel)
            with private_folder(self.store, self._lock_key, room) as folder:
                built = Path(folder, self.name)
                self._run(built, cancel)
                products.publish(self.store, str(built), self.path, self.stale, room)
        return Path(self.path)

    def _published(self) -> bool:
        return products.inode_of(self.path) not in (None, self.stale)

    def _run(self, dst: Path, cancel: Cancel) -> None:
        label = getattr(self.fn, "__qualname__", type(self.fn).__qualname__)
        with failing_as(label, self.key), within(cancel):
            self.fn(dst)
        check_built(dst, label, self.key)
