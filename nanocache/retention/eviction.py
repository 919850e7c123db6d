"""Evicting one thing: a rename into the trash, a last look, and then it is deleted or put back.

A hit takes no lock, so no look before the rename is the last word. A caller marks what it is given before it is
returned (`store.recency`), by the path; so once the folder has gone from its path it is looked at again: a mark that
came before the rename shows, and one that comes after fails, which makes the caller's hit a miss. Pins and leases are
made in the same way. Invariant: killed anywhere, what is at the path is whole or gone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ..callers import let_pass
from ..disk import files
from ..store import orphans
from ..store.blobs import Store
from . import pins, walk
from .alone import alone
from .leases import Leases
from .reasons import AT_WORK, Keepers
from .survey import Candidate

__all__ = ["check_writable", "evict", "evict_artifact", "has_names_outside"]

USED = "used meanwhile"


def check_writable(store: Store) -> None:
    """Raise OSError if this user can change nothing here."""
    if not store.prepare():
        raise PermissionError(errno.EACCES, "this user may not change the cache", store.base)


def evict(store: Store, candidate: Candidate, keepers: Keepers) -> str | None:
    """Take it away; why it stays if it does."""
    try:
        if candidate.kind == "partial":
            return _evict_partial(store, candidate)
        with alone(store, candidate.digest) as mine:
            aside = _take(store, candidate, keepers) if mine else None
    except OSError as e:
        let_pass(e)
        return "it is in an image layer" if e.errno == errno.EXDEV else f"it may not be removed: {e.strerror}"
    if not mine:
        return AT_WORK
    if aside is None:
        return USED
    files.remove(aside)  # outside the lock: it may be large
    return None


def evict_artifact(store: Store, digest: str, gone: Callable[[int], object] = lambda _: None) -> bool:
    """Take the blob of `digest` away, and what was built of it, and tell whether it is gone.

    Not what is pinned, held, or shown elsewhere. `gone` is told how many bytes that were. What remembers it stays: a
    ref is a hint. It costs two looks at the leases, and no walk. Raises OSError.
    """
    if _is_kept(store, digest) or has_names_outside(store, digest):
        return False
    store.folder(store.trash)
    taken = {
        folder: aside
        for folder in (store.product_folder(digest), store.blob_folder(digest))  # the one that can be built again first
        if (aside := _taken(store, folder)) is not None
    }
    if _is_kept(store, digest):
        for folder, aside in taken.items():
            _put_back(aside, folder)
        return False
    found = [one for aside in taken.values() for one in walk.tree_files(aside)]
    freed = sum({st.st_ino: walk.occupied(st) for _, st in found}.values())
    for aside in taken.values():
        files.remove(aside)
    gone(freed)
    return True


def _taken(store: Store, folder: str) -> str | None:
    """Where it lies out of sight now; None if it was not there."""
    aside = os.path.join(store.trash, files.random_name())
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return None
    return aside


def _is_kept(store: Store, digest: str) -> bool:
    return pins.is_pinned(store, digest) or digest in Leases(store).held()


def has_names_outside(store: Store, digest: str) -> bool:
    found = walk.files_in(store.blob_folder(digest))
    inodes = {st.st_ino: st.st_nlink for _, st in found}
    return sum(inodes.values()) > len(found)


def _take(store: Store, candidate: Candidate, keepers: Keepers) -> str | None:
    """Rename it into the trash; None if it is wanted after all."""
    if _is_wanted(candidate, candidate.path, keepers):
        return None
    store.folder(store.trash)
    aside = os.path.join(store.trash, files.random_name())
    os.rename(candidate.path, aside)
    if _is_wanted(candidate, aside, keepers):
        _put_back(aside, candidate.path)
        return None
    return aside


def _is_wanted(candidate: Candidate, path: str, keepers: Keepers) -> bool:
    try:
        used = os.lstat(path).st_mtime
    except FileNotFoundError:
        return True  # taken by another one
    return used != candidate.used or keepers.claim_on(candidate.digest) is not None


def _put_back(aside: str, path: str) -> None:
    try:
        os.rename(aside, path)
        return
    except OSError as e:  # it was published again meanwhile: what is missing there joins it
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    for name in os.listdir(aside):
        if not os.path.lexists(f"{path}/{name}"):
            os.rename(f"{aside}/{name}", f"{path}/{name}")
    files.remove(aside)


def _evict_partial(store: Store, candidate: Candidate) -> str | None:
    if not orphans.is_dead(candidate.path, store):
        return AT_WORK
    store.set_aside(candidate.path)
    files.remove_empty(os.path.dirname(candidate.path))
    return None
