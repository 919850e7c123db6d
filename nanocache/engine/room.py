"""The room that a fetch has in its cache: all of the disk, or what a cap leaves.

Without NANOCACHE_MAX_SIZE nothing of `retention` is imported, and no file is touched.
"""

from __future__ import annotations

from ..callers import let_pass, suppress
from ..cancel import Cancel
from ..config import Settings
from ..disk import faults
from ..room import UNLIMITED, Room
from ..store.blobs import Store

__all__ = ["clear_disk", "room_for", "went"]


def room_for(store: Store, settings: Settings, cancel: Cancel) -> Room:
    """Room for one piece of work after the other."""
    if settings.max_size is None:
        return UNLIMITED
    from ..retention.reserved import Reserved

    return Reserved(store, settings.max_size.on(store.base), cancel)


def went(store: Store, settings: Settings, size: int) -> None:
    """So many bytes of the cache were deleted, which a later fetch need not walk to find out."""
    if settings.max_size is None:
        return
    from ..retention.books import Books

    with suppress(OSError):
        Books(store, settings.max_size.on(store.base)).went(size)


def clear_disk(store: Store, settings: Settings, error: OSError, cancel: Cancel) -> bool:
    """Whether anything was deleted because `error` says that the disk is full.

    What killed processes left; under a cap also what may be evicted. Raises Cancelled.
    """
    let_pass(error)
    lacking = faults.lacking(error)
    if lacking is None:
        return False
    from ..retention import making_room

    try:
        return making_room.clear_disk(store, None if settings.max_size is None else lacking, cancel)
    except OSError as e:  # what is raised is the disk's first error
        let_pass(e)
        return False
