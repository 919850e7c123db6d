"""What goes into a bundle: the blobs that a lock file or targets mean, and what is remembered of their URLs.

Not the bundle (`bundle`). Invariants: the same targets give the same bundle, whenever and wherever; what a hook built
is not carried, since it is built again from what is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import config
from ..artifact import arguments, hub, urls
from ..artifact.artifact import Artifact
from ..bundle import loading
from ..bundle.contents import BundleContents, BundledBlob, BundledRef
from ..bundle.loading import Loaded
from ..bundle.packing import pack
from ..callers import callers_errors
from ..cancel import ambient
from ..disk import faults
from ..engine.ticking import ticking
from ..lockfile.named import NamedArtifacts, names_lock_file
from ..progress import Display, ProgressOption
from ..retention import walk
from ..sizes import read_size
from ..store import refs, trees
from ..store.blobs import Store
from ..store.refs import Ref
from ..store.trees import MANIFEST
from ..upkeep.targets import digests_of, several, unknown

__all__ = ["export", "load"]

LEAST_SPLIT = 512  # bytes

FetchMany = Callable[[list[Artifact]], list[Path]]


def export(
    store: Store,
    fetch: FetchMany,
    lock_or_targets: object,
    path: str | os.PathLike[str],
    *,
    split: int | str | None,
    progress: ProgressOption,
) -> list[Path]:
    """`Cache.export`. `fetch` has artifacts here."""
    arguments.progress(progress)
    target = config.expand(path, "path")
    part = None if split is None else read_size("split", split, os.path.dirname(target))
    if part is not None:
        arguments.whole("split", part, "bytes", LEAST_SPLIT)
    cargo = _Cargo(store, fetch)
    for one in [lock_or_targets] if isinstance(lock_or_targets, NamedArtifacts) else several(lock_or_targets):
        cargo.take(one)
    contents = BundleContents.of(cargo.blobs, cargo.refs)
    name = os.path.basename(target)
    with (
        callers_errors(),
        faults.named(os.path.dirname(target)),
        closing(Display(progress, name)) as display,
        ticking(display),
    ):
        written = pack(contents, cargo.paths, target, split=part, cancel=ambient(), report=display.report)
    return [Path(one) for one in written]


def load(store: Store, path: str | os.PathLike[str], *, progress: ProgressOption) -> Loaded:
    """`Cache.load`."""
    arguments.progress(progress)
    source = config.expand(path, "path")
    name = os.path.basename(source)
    with (
        callers_errors(),
        faults.named(store.base),
        closing(Display(progress, name)) as display,
        ticking(display),
    ):
        return loading.load(store, source, shown=name, cancel=ambient(), report=display.report)


@dataclass(slots=True)
class _Cargo:
    """What is to be carried, as it is gathered."""

    store: Store
    fetch: FetchMany
    blobs: list[BundledBlob] = field(default_factory=list)
    refs: list[BundledRef] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)  # digest -> where its blob is

    def take(self, target: object) -> None:
        """Raises ValueError, NotCached, and what fetching what is missing raises."""
        if names_lock_file(target):
            target = NamedArtifacts.read(config.expand(target, "the lock file"))
        if isinstance(target, NamedArtifacts):
            self._lock(target)
        elif isinstance(target, Artifact):
            self._artifacts([target])
        elif isinstance(target, str) and hub.is_repository(target):
            self._repository(target)
        elif isinstance(target, str) and "://" in target:
            self._artifacts([Artifact(target)])
        else:
            for digest in digests_of(self.store, target):
                self._cached(digest, target)

    def _lock(self, lock: NamedArtifacts) -> None:
        paths = self._artifacts(list(lock.values()))
        for name, path in zip(lock, paths, strict=True):
            for url in lock.urls(name):
                self._remember(urls.url_key(url), url, path.parent.name, path.stat().st_size)

    def _artifacts(self, artifacts: list[Artifact]) -> list[Path]:
        """Have them here, and carry them under their names."""
        plain = [replace(artifact, postprocess=None) for artifact in artifacts]
        paths = self.fetch(plain)
        for artifact, path in zip(plain, paths, strict=True):
            size = self._blob(path.parent.name, path, artifact.name)
            self._remember(urls.url_key(artifact.url, artifact.headers), artifact.url, path.parent.name, size)
        return paths

    def _blob(self, digest: str, path: Path | str, name: str) -> int:
        size = os.stat(path).st_size
        self.blobs.append(BundledBlob(digest, size, (name,)))
        self.paths[digest] = str(path)
        return size

    def _remember(self, key: str, url: str, digest: str, size: int) -> None:
        self.refs.append(BundledRef(key, urls.redact(url), digest, size))

    def _cached(self, digest: str, target: object, name: str | None = None) -> None:
        """Carry what is here of a digest; of a snapshot, its files."""
        path = self.store.any_intact(digest, name or "")
        if path is None:
            raise unknown(self.store, target)
        self._blob(digest, path, name or os.path.basename(path))
        # Only of what is called like one: it is read whole, and weights are no manifest.
        manifest = trees.read_manifest(self.store, digest) if MANIFEST in self.store.names(digest) else None
        for file in () if manifest is None else manifest.files:
            self._cached(file.sha256, target, os.path.basename(file.path))

    def _repository(self, url: str) -> None:
        """Carry what snapshots of a repository need: its listings, their answers, and all files of these."""
        found = list(self._refs_of(urls.redact(url)))
        if not found:
            raise unknown(self.store, url)
        for key, ref in found:
            self._cached(ref.digest, url)
            self._remember(key, ref.url, ref.digest, ref.size)

    def _refs_of(self, shown: str) -> Iterator[tuple[str, Ref]]:
        for path in walk.ref_files(self.store):
            key = os.path.basename(path).removesuffix(".json")
            ref = refs.read(self.store, key)
            if ref is not None and ref.url == shown and self.store.any_intact(ref.digest, "") is not None:
                yield key, ref
