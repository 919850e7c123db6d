"""What could be evicted, and how much each thing takes: the books of one prune.

Bytes are counted as the cap counts them: blobs-, products-, trees- and partials-v1, each inode once, at the smaller of
size and what is on the disk. A blob that a tree shows too frees nothing as long as the tree stays. Nothing is changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..store.blobs import Store
from ..store.layout import PARTIALS, PRODUCTS, TREES
from . import walk

__all__ = ["Candidate", "Survey", "in_order"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that goes by one rename."""

    kind: str  # partial, product, tree, blob
    path: str
    digest: str  # "" of a partial
    used: float  # seconds since the epoch: the mtime of `path`
    inodes: tuple[tuple[int, int], ...]  # (inode, bytes)

    @classmethod
    def of(cls, kind: str, path: str, digest: str = "") -> Candidate | None:
        """What is at `path`; None if it is gone."""
        try:
            used = os.lstat(path).st_mtime
        except FileNotFoundError:
            return None
        inodes = {st.st_ino: walk.occupied(st) for _, st in walk.tree_files(path, blind=kind == "partial")}
        return cls(kind, path, digest, used, tuple(inodes.items()))


class Survey:
    """Everything of one base directory, as it is now."""

    def __init__(self, store: Store) -> None:
        self.partials = list(_partials(store))
        self.products = list(_built(store, "product", PRODUCTS))
        self.trees = list(_built(store, "tree", TREES))
        self.blobs = list(_blobs(store))
        self._standing = {candidate.digest for candidate in self.trees}
        # inode -> how many of these have a name of it; what is in no tree has one, and is not kept count of
        self._in_trees = Counter(inode for tree in self.trees for inode, _ in tree.inodes)
        self._in_blobs = {inode for blob in self.blobs for inode, _ in blob.inodes}
        everything = (*self.partials, *self.products, *self.trees, *self.blobs)
        self.size = sum(dict(inode for candidate in everything for inode in candidate.inodes).values())

    def is_shown(self, blob: Candidate) -> bool:
        """Whether a tree that stays has a name of it, or needs it as its manifest."""
        return blob.digest in self._standing or any(self._in_trees[inode] for inode, _ in blob.inodes)

    def freed_by(self, candidate: Candidate) -> int:
        """Bytes that go with it now."""
        if candidate.kind != "tree":
            return sum(size for inode, size in candidate.inodes if not self._in_trees[inode])
        own = (size for inode, size in candidate.inodes if inode not in self._in_blobs and self._in_trees[inode] == 1)
        return sum(own)

    def went(self, candidate: Candidate) -> None:
        """Strike it off."""
        self.size -= self.freed_by(candidate)
        if candidate.kind == "tree":
            self._standing.discard(candidate.digest)
            self._in_trees.subtract(inode for inode, _ in candidate.inodes)


def in_order(survey: Survey) -> Iterator[Candidate]:
    """As things go. Each kind only once the one before it has gone as far as it can: blobs of trees are free then."""
    yield from sorted(survey.partials, key=_age)
    yield from sorted([*survey.products, *survey.trees], key=_age)
    yield from sorted(survey.blobs, key=_age)


def _age(candidate: Candidate) -> tuple[float, str]:
    return candidate.used, candidate.path


def _built(store: Store, kind: str, top: str) -> Iterator[Candidate]:
    for digest in walk.digests_in(walk.top(store, top)):
        if (found := Candidate.of(kind, f"{store.top(top)}/{digest}", digest)) is not None:
            yield found


def _blobs(store: Store) -> Iterator[Candidate]:
    for digest, folder in walk.blob_folders(store):
        try:
            used = os.lstat(folder).st_mtime
        except FileNotFoundError:
            continue
        inodes = {st.st_ino: walk.occupied(st) for _, st in walk.files_in(folder)}
        yield Candidate("blob", folder, digest, used, tuple(inodes.items()))


def _partials(store: Store) -> Iterator[Candidate]:
    for key in walk.scan(walk.top(store, PARTIALS)):
        if key.name.startswith("new-"):
            paths = [key.path]
        else:
            paths = [entry.path for entry in walk.scan(key.path)] if key.is_dir(follow_symlinks=False) else []
        for path in paths:
            if (found := Candidate.of("partial", path)) is not None:
                yield found
