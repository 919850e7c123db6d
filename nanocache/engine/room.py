"""The room that a fetch has in its cache: all of the disk, or what a cap leaves.

Without NANOCACHE_MAX_SIZE nothing of `retention` is imported, and no file is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..callers import let_pass
from ..cancel import Cancel
from ..config import Settings
from ..disk import faults
from ..room import UNLIMITED, Room
from ..store.blobs import Store

__all__ = ["clear_disk", "deleting", "room_for"]


def room_for(store: Store, settings: Settings, cancel: Cancel) -> Room:
    """Room for one piece of work after the other."""
    if settings.max_size is None:
        return UNLIMITED
    from ..retention.reserved import Reserved

    return Reserved(store, settings.max_size.on(store.base), cancel)


def deleting(store: Store, settings: Settings) -> Callable[[int], object]:
    """What is to be told how many bytes were deleted from now on, so that no later fetch has to walk for them."""
    if settings.max_size is None:
        return lambda _: None
    from ..retention.books import Books

    books = Books(store, settings.max_size.on(store.base))
    return partial(books.went, since=books.walked())


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
