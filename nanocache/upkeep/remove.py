"""Removing what a person names: the artifact, what was built of it, and what remembers it.

Not eviction (`prune`), which chooses by itself. Invariants: what is pinned or held by a process is refused before
anything goes; each digest goes by one rename; a file that another snapshot shows stays.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from ..retention import pins, walk
from ..retention.eviction import check_writable, has_names_outside
from ..retention.leases import Leases
from ..store import refs, trees
from ..store.blobs import Store
from .targets import folders_of

__all__ = ["remove"]


def remove(store: Store, digests: list[str]) -> list[str]:
    """Remove `digests`, and the files of their snapshots that no other one shows; the digests that went."""
    check_writable(store)
    _check_free(store, digests)
    shown = list(_shown(store, digests))
    for digest in digests:
        _take(store, digest)
    held = Leases(store).held() | pins.pinned(store)
    alone = [digest for digest in shown if digest not in held and not has_names_outside(store, digest)]
    for digest in alone:
        _take(store, digest)
    went = [*digests, *alone]
    _forget(store, set(went))
    return went


def _check_free(store: Store, digests: Iterable[str]) -> None:
    held = Leases(store).held()
    for digest in digests:
        if pins.is_pinned(store, digest):
            raise PermissionError(errno.EPERM, "it is pinned: `nanocache unpin` it first", digest)
        if digest in held:
            raise PermissionError(errno.EBUSY, "a process holds it: end that first", digest)


def _shown(store: Store, digests: list[str]) -> Iterator[str]:
    """The blobs that the trees among `digests` show."""
    for digest in digests:
        manifest = trees.read_manifest(store, digest) if walk.is_folder(store.tree_folder(digest)) else None
        for sha256 in {file.sha256 for file in manifest.files} if manifest is not None else ():
            if sha256 not in digests:
                yield sha256


def _take(store: Store, digest: str) -> None:
    for folder in folders_of(store, digest):
        if os.path.lexists(folder):
            store.set_aside(folder)


def _forget(store: Store, digests: set[str]) -> None:
    """Delete the refs that lead to what is gone: a URL is asked anew, and not for the version that it was pinned to."""
    for path in list(walk.ref_files(store)):
        ref = refs.read(store, os.path.basename(path).removesuffix(".json"))
        if ref is not None and ref.digest in digests:
            store.set_aside(path)
