"""What the cache of a Hub's own client has, taken into the base directory: bytes that are named by their SHA-256.

    <HF_HOME>/hub/models--OWNER--NAME/blobs/<sha256>        and the same below HF_HUB_CACHE itself

Such a file is not sealed, and its owner may write to it. So it is copied (its blocks shared where the disk can),
hashed, and published like a download. Invariants: nothing is written there, and nothing linked from there; bytes that
are not those of the name cost one warning. Source: huggingface_hub, "Understand caching".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..artifact.request import Request
from ..cancel import Cancel
from ..disk import copying, faults, files, hashing
from ..room import Room
from ..store import partials, tiers
from ..store.blobs import Store
from ..store.layout import BLOBS
from ..store.tiers import Tier
from .room import room_for

__all__ = ["bring"]

REPOSITORIES = ("models--", "datasets--", "spaces--")  # how the folders of repositories begin


def bring(store: Store, request: Request, digest: str, cancel: Cancel) -> Path | None:
    """The blob of `digest`, taken from the first such cache that has it right. Raises Cancelled."""
    question = partial(_bring_from, store, request, digest, cancel)
    return tiers.first(request.settings.readonly_dirs, question, beside=store.base)


def _bring_from(store: Store, request: Request, digest: str, cancel: Cancel, tier: Tier) -> Path | None:
    room = room_for(store, request.settings, cancel)
    for path in _named(tier.base, digest):
        st = files.check_regular(path)
        if st is None or tier.is_wrong(st):
            continue
        taken = _take(store, request.name, digest, path, cancel, room)
        if taken is not None:
            return taken
        tier.condemn(path, st)
    return None


def _named(folder: str, digest: str) -> Iterator[str]:
    """Where a file of this digest may be."""
    if os.path.isdir(os.path.join(folder, BLOBS)):  # a cache of ours, which need not let itself be listed
        return
    hub = os.path.join(folder, "hub")
    repositories = hub if os.path.isdir(hub) else folder
    for name in sorted(os.listdir(repositories)):
        if name.startswith(REPOSITORIES):
            yield os.path.join(repositories, name, "blobs", digest)


def _take(store: Store, name: str, digest: str, path: str, cancel: Cancel, room: Room) -> Path | None:
    """The blob, made of the file at `path`; None if that has other bytes. Raises Cancelled, NoSpace, OSError."""
    source = files.open_private(path, os.O_RDONLY)
    try:
        with partials.create(store, digest, room) as copy:
            copy.expect(os.fstat(source).st_size)
            if not copying.share_blocks(source, copy.fd):
                faults.check_room(store.base, os.fstat(source).st_size)
                copying.copy_bytes(source, copy.fd, cancel)
            if hashing.hash_file(copy.fd, cancel) != digest:
                return None
            return store.publish(copy, digest, name, cancel)
    finally:
        os.close(source)
