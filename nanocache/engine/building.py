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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..artifact import arguments, filenames
from ..artifact.hooks import check_built, failing_as
from ..callers import suppress
from ..cancel import Cancel, ambient, within
from ..config import Settings
from ..disk import faults, folders
from ..store.blobs import Store
from ..store.layout import PRODUCTS
from . import products
from .products import Making

__all__ = ["Build", "BuiltPlace", "check"]


def check(key: object, fn: object, name: object) -> None:
    """Raises ValueError for what cannot be built, before any I/O."""
    arguments.text("key", key)
    filenames.check(name)
    arguments.hook(fn, "fn", "(dst)")


@dataclass(frozen=True, slots=True)
class BuiltPlace:
    """Where what is built under `key` lies, and whether it is there."""

    store: Store
    key: str
    name: str

    @property
    def path(self) -> str:
        digest = hashlib.sha256(f"build {self.key}".encode()).hexdigest()
        return self.store.product(digest, hashlib.sha256(self.name.encode()).hexdigest()[:16], self.name)

    def versions(self) -> list[str]:
        """The folders in which products of this name lie, under any key; its own first, then the latest first."""
        own, found = os.path.dirname(self.path), []
        for digest in folders.names(self.store.top(PRODUCTS)):
            folder = os.path.join(self.store.product_folder(digest), os.path.basename(own))
            with suppress(OSError):
                found.append((os.lstat(os.path.join(folder, self.name)).st_mtime, folder))
        return [own, *(folder for _, folder in sorted(found, reverse=True) if folder != own)]

    def find(self) -> Path | None:
        """Its path, marked as used, if all of it is there. Raises UnsafeCache, OSError."""
        with faults.named(self.store.base):
            found = products.find_at(self.store, self.path)
            if found is not None and self.store.recency.mark(os.path.dirname(found.parent)):
                return found
        return None


@dataclass(frozen=True, slots=True)
class Build:
    """One question for what `fn` builds at `place`."""

    place: BuiltPlace
    fn: Callable[[Path], object]
    settings: Settings

    def run(self) -> Path:
        """The path. Raises PostprocessFailed, LockTimeout, UnsafeCache, Cancelled, OSError."""
        return self.place.find() or faults.persistently(self.place.store.base, self._miss)

    def _miss(self) -> Path | None:
        store, name = self.place.store, self.place.name
        if not store.prepare():
            raise PermissionError(f"{store.base} is not writable for this user, and holds no {name!r} yet")
        return Making(
            store=store,
            path=self.place.path,
            identity=("build", self.place.key, name, *self.settings),
            settings=self.settings,
            make=self._make,
        ).run(ambient())

    def _make(self, dst: Path, cancel: Cancel) -> bool:
        label = getattr(self.fn, "__qualname__", type(self.fn).__qualname__)
        with failing_as(label, self.place.key):
            within(cancel, partial(self.fn, dst))
        check_built(dst, label, self.place.key)
        return True
