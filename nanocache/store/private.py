"""A private folder for a hook: what it builds there is seen by no other process until it is published.

    partials-v1/<key>/<random>/private      where the hook builds
    partials-v1/<key>/<random>/state.json   whose it is, and which digest it is built from
    partials-v1/<key>/<random>/lock         held by the owner

Invariant: locked and recorded like a partial, so that no sweep takes a living one, however old the times in it are,
and no eviction what it is built from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..coordination.lock import Lock
from ..disk import files
from ..room import UNLIMITED, Room
from .layout import BaseDirectory
from .partials import STATE, lock_own, owner_record

__all__ = ["private_folder"]

INNER = "private"  # what a hook builds in, so that no name of its choice meets one of ours


@contextmanager
def private_folder(
    directory: BaseDirectory, key: str, room: Room = UNLIMITED, *, source: str | None = None
) -> Iterator[str]:
    """A folder of this process's own, filed under `key`. It is deleted after the block, and `room` settled.

    `source`: the digest of what is built from. Locked and recorded like a partial: what a hook builds in it may carry
    old times, and a sweep must not take it.
    """
    folder = os.path.join(directory.partials(key), files.random_name())
    inner = os.path.join(folder, INNER)
    lock: Lock | None = None
    pid = os.getpid()
    try:
        room.of_folder(folder)
        directory.folder(folder)
        lock = lock_own(folder, directory)
        files.create(os.path.join(folder, STATE), owner_record({"source": source}, left=False), 0o600)
        directory.folder(inner)
        yield inner
    finally:
        try:
            if os.getpid() == pid:  # not by a forked child that unwinds through it
                files.remove(folder)
                files.remove_empty(os.path.dirname(folder))
        finally:
            try:
                if lock is not None:
                    lock.release()
            finally:
                room.settle()
