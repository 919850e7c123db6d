"""An artifact under its name in a folder of the caller's, beside its place in the cache.

What becomes of each file is `placed_file`'s. Invariants: what a hook built is never linked, because the caller may
write to it: its blocks are shared, or it is copied; of a folder each file is placed by itself, and what else lies
there stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..artifact import hooks
from ..artifact.artifact import Artifact
from ..cancel import Cancel
from ..disk import faults
from ..store import tiers, trees
from ..store.blobs import Store
from ..store.layout import FOLDERS
from .placed_file import PlacedFile

__all__ = ["CallersFolder"]


@dataclass(frozen=True, slots=True)
class CallersFolder:
    """The folder that a caller named by `into`."""

    store: Store
    path: str

    @classmethod
    def of(cls, store: Store, into: object) -> CallersFolder:
        """Nothing is made yet. Raises ValueError."""
        path = config.expand(into, "into")
        inside = os.path.relpath(path, store.base).split(os.sep)[0]
        if inside in FOLDERS:
            raise ValueError(f"into must stay out of the cache's own folder {inside}, got {path!r}")
        return cls(store, path)

    def find(self, source: Path, artifact: Artifact) -> Path | None:
        """Where the blob at `source` is already, as far as two lstats tell. Never for what a hook built."""
        one = PlacedFile.of(self.store, str(source), os.path.join(self.path, _name(artifact)))
        return Path(one.target) if one.digest is not None and one.stands() else None

    def check(self, artifacts: Sequence[Artifact]) -> None:
        """Raise ValueError if two of them would have one name here."""
        claimed: dict[str, Artifact] = {}
        for artifact in artifacts:
            name = _name(artifact)
            if claimed.setdefault(name, artifact) != artifact:
                raise ValueError(f"two artifacts would be {name} in {self.path}: give one of them a filename")

    def bring(
        self, path: Path, artifact: Artifact, fetch: Callable[[], Path], cancel: Cancel, *, rehash: bool = False
    ) -> Path:
        """Have `artifact` here, which was at `path` in the cache a moment ago; `fetch` has it there again.

        `rehash`: read what stands here already. Raises NoSpace, Cancelled, OSError and what `fetch` raises.
        """
        name = _name(artifact)
        try:
            return self._put(path, name, cancel, rehash=rehash)
        except FileNotFoundError:  # the cache was cleared meanwhile
            return faults.persistently(self.store.base, lambda: self._put(fetch(), name, cancel))

    def bring_tree(self, make: Callable[[], Path], cancel: Cancel) -> Path:
        """Have all files of the tree that `make` gives here, under their paths in it. Raises as `bring`."""
        return faults.persistently(self.store.base, lambda: self._put_tree(make(), cancel))

    def _put(self, source: Path, name: str, cancel: Cancel, *, rehash: bool = False) -> Path:
        target = os.path.join(self.path, name)
        whole = PlacedFile.of(self.store, str(source), target, rehash=rehash)
        if whole.digest is not None:
            whole.put(cancel)
            return Path(target)
        for found, place in _files(str(source), target):
            PlacedFile.of(self.store, found, place).put_product(cancel)
        return Path(target)

    def _put_tree(self, tree: Path, cancel: Cancel) -> Path | None:
        holder = self.store if self.store.holds(tree) else tiers.opened(str(tree.parents[2]))
        manifest = trees.read_manifest(holder, tree.parent.name)
        if manifest is None:
            return None
        for file in manifest.files:
            source, target = os.path.join(tree, file.path), os.path.join(self.path, file.path)
            PlacedFile(self.store, source, target, file.sha256).put(cancel)
        return Path(self.path)


def _name(artifact: Artifact) -> str:
    hook = artifact.postprocess
    return artifact.name if hook is None else hooks.identify(hook).product_name(artifact.name)


def _files(source: str, target: str) -> Iterator[tuple[str, str]]:
    """Each file of a product, and where it is to be; the folders on the way are made."""
    if not os.path.isdir(source):
        yield source, target
        return
    for folder, _, names in os.walk(source):
        place = os.path.normpath(os.path.join(target, os.path.relpath(folder, source)))
        os.makedirs(place, exist_ok=True)
        for name in names:
            yield os.path.join(folder, name), os.path.join(place, name)
