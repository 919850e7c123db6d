"""What is cached, one entry for each digest: its names, sizes and times, and what keeps it.

A look and not an index: everything is read from the folders at each call. Invariants: nothing is written; a ref is
parsed only when a URL is asked for; what disappears meanwhile is left out.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..retention import pins, walk
from ..retention.leases import Leases
from ..store import refs, seal
from ..store.layout import PRODUCTS, TREES, BaseDirectory
from ..store.sweep import VERIFIED

__all__ = ["Catalogue", "Entry", "all_refs"]


@dataclass(frozen=True)
class Entry:
    """One digest: the artifact under all its names, and what was built of it. Times in seconds since the epoch."""

    digest: str
    size: int  # bytes of the artifact; 0 where only what was built of it is left
    names: tuple[str, ...]
    created: float
    used: float  # to the hour
    verified: float | None  # when its bytes were last known to be right, to the day; None: they were written to
    pinned: bool
    held: bool  # by a living process
    products: tuple[str, ...]  # what hooks and snapshots made of it: paths
    paths: tuple[str, ...]  # the artifact's, one for each name
    links: int  # further names that it has outside: in snapshots, and in folders of the caller's
    _catalogue: Catalogue = field(repr=False, compare=False)

    @cached_property
    def urls(self) -> tuple[str, ...]:
        """Where it came from, as far as that is remembered; without credentials."""
        return self._catalogue.urls.get(self.digest, ())

    @property
    def is_snapshot(self) -> bool:
        """Whether it is the list of a snapshot's files; the snapshot's folders are its `products`."""
        return any(f"/{TREES}/" in path for path in self.products)

    @property
    def note(self) -> str | None:
        """Why it is pinned."""
        pin = self._catalogue.pin_of(self.digest)
        return None if pin is None else pin.note

    @cached_property
    def holders(self) -> tuple[str, ...]:
        """The processes that hold it, each as "pid 4711 on node7"."""
        return self._catalogue.holders_of(self.digest) if self.held else ()

    @cached_property
    def snapshots(self) -> tuple[str, ...]:
        """The folders of snapshots that show it: if it has further names, all their files are looked at."""
        return self._catalogue.trees_that_show(self.paths) if self.links else ()

    def to_json(self) -> dict[str, Any]:
        """The entry's facts, all of them values that JSON can carry."""
        names = [*self.__dataclass_fields__, "urls", "note"]
        return {name: getattr(self, name) for name in names if not name.startswith("_")}


class Catalogue:
    """What one base directory holds."""

    def __init__(self, directory: BaseDirectory) -> None:
        self._directory = directory
        self._products = walk.digests_in(walk.top(directory, PRODUCTS))
        self._trees = walk.digests_in(walk.top(directory, TREES))
        self._pinned = pins.pinned(directory)
        self._held = Leases(directory).held()
        self._verified = _mtime(os.path.join(directory.trash, VERIFIED))  # when all was read

    def entries(self) -> Iterator[Entry]:
        """All of them, in no order. Raises OSError where a folder can't be read."""
        only_built = self._products | self._trees
        for digest, folder in walk.blob_folders(self._directory):
            only_built.discard(digest)
            yield from self._entry(digest, folder, walk.files_in(folder))
        for digest in only_built:
            yield from self.of(digest)

    def of(self, digest: str) -> Iterator[Entry]:
        """The entry of one digest, if there is one."""
        folder = self._directory.blob_folder(digest)
        yield from self._entry(digest, folder, walk.files_in(folder) if walk.is_folder(folder) else [])

    def _entry(self, digest: str, folder: str, files: list[tuple[str, os.stat_result]]) -> Iterator[Entry]:
        files.sort(key=lambda file: file[0])
        products = self._built_of(digest)
        if not files and not products:
            return
        stats = [st for _, st in files]
        inodes = {st.st_ino: st for st in stats}
        used = self._used(digest, folder)
        yield Entry(
            digest=digest,
            size=max((st.st_size for st in stats), default=0),
            names=tuple(name for name, _ in files),
            created=min((_created(st) for st in stats), default=used),
            used=used,
            verified=self._when_verified(digest, stats),
            pinned=digest in self._pinned,
            held=digest in self._held,
            products=products,
            paths=tuple(f"{folder}/{name}" for name, _ in files),
            links=sum(st.st_nlink for st in inodes.values()) - len(files),
            _catalogue=self,
        )

    def _built_of(self, digest: str) -> tuple[str, ...]:
        found: list[str] = []
        if digest in self._products:
            for hook in walk.scan(self._directory.product_folder(digest)):
                if hook.is_dir(follow_symlinks=False):  # beside it stands the record of what is in it
                    found += [entry.path for entry in walk.scan(hook.path)]
        if digest in self._trees:
            found += [entry.path for entry in walk.scan(self._directory.tree_folder(digest))]
        return tuple(sorted(found))

    def _used(self, digest: str, folder: str) -> float:
        """When the artifact or what was built of it was last marked as used."""
        marked = [folder]
        if digest in self._products:
            marked.append(self._directory.product_folder(digest))
        if digest in self._trees:
            marked.append(self._directory.tree_folder(digest))
        return max(map(_mtime, marked))

    def _when_verified(self, digest: str, stats: list[os.stat_result]) -> float | None:
        if not stats or not all(seal.holds(st, digest) for st in stats):
            return None
        return max(self._verified, min(map(_created, stats)))  # it was verified when it was published, or healed

    def holders_of(self, digest: str) -> tuple[str, ...]:
        return tuple(Leases(self._directory).holders(digest))

    def trees_that_show(self, paths: Collection[str]) -> tuple[str, ...]:
        inodes = {st.st_ino for path in paths for _, st in walk.tree_files(path)}
        trees = [entry.path for digest in self._trees for entry in walk.scan(self._directory.tree_folder(digest))]
        return tuple(sorted(tree for tree in trees if any(st.st_ino in inodes for _, st in walk.tree_files(tree))))

    def pin_of(self, digest: str) -> pins.Pin | None:
        return pins.read(self._directory, digest) if digest in self._pinned else None

    @cached_property
    def urls(self) -> dict[str, tuple[str, ...]]:
        """digest -> the URLs that gave it."""
        found: dict[str, list[str]] = defaultdict(list)
        for ref in all_refs(self._directory):
            found[ref.digest].append(ref.url)
        return {digest: tuple(sorted(set(urls))) for digest, urls in found.items()}


def all_refs(directory: BaseDirectory) -> Iterator[refs.Ref]:
    """All that URLs gave. One that can't be read or parsed is none."""
    for path in walk.ref_files(directory):
        ref = refs.read(directory, os.path.basename(path).removesuffix(".json"))
        if ref is not None:
            yield ref


def _mtime(folder: str) -> float:
    try:
        return os.lstat(folder).st_mtime
    except OSError:
        return 0.0


def _created(st: os.stat_result) -> float:
    # The seal is at most a day older than the publication; a later link or chmod moves the ctime.
    return min(st.st_ctime, st.st_mtime + seal.DAY_SECONDS)
