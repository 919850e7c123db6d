"""The manifest of a tree, made again from the tree itself: no server has it.

Invariant: what is published is what the tree's name says, or nothing.
"""

from __future__ import annotations

import os
import stat

from ..callers import let_pass
from ..cancel import Cancel
from ..disk import files, hashing
from ..retention import walk
from ..store import trees
from ..store.blobs import Store
from ..store.layout import TREES
from ..store.manifest import Manifest, TreeFile

__all__ = ["rebuild_manifest"]


def rebuild_manifest(store: Store, digest: str, cancel: Cancel) -> bool:
    """Whether the manifest of this digest is here, made from one of its trees if need be. Reads all files of it."""
    roots = walk.scan(f"{walk.top(store, TREES)}/{digest}")
    return bool(roots) and (
        trees.read_manifest(store, digest) is not None or any(_from(store, root.path, digest, cancel) for root in roots)
    )


def _from(store: Store, root: str, digest: str, cancel: Cancel) -> bool:
    try:
        manifest = Manifest.of(_file(root, path, st, cancel) for path, st in walk.tree_files(root))
        if manifest.digest == digest:
            trees.keep_manifest(store, manifest)
    except OSError as e:
        let_pass(e)
        return False
    return manifest.digest == digest


def _file(root: str, path: str, st: os.stat_result, cancel: Cancel) -> TreeFile:
    fd = files.open_private(path, os.O_RDONLY)
    try:
        sha256 = hashing.hash_file(fd, cancel)
    finally:
        os.close(fd)
    return TreeFile(os.path.relpath(path, root), sha256, st.st_size, bool(st.st_mode & stat.S_IXUSR))
