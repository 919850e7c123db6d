"""The listing of a repository in a frozen process: what nanocache.lock has of it, and no Hub is asked.

Not the lock file (`lockfile`), and not how a snapshot is made of a listing. Invariant: the same lock file gives the
same listing, byte for byte, so that its snapshot is a hit.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..artifact import hub
from ..artifact.artifact import Artifact
from ..cancel import ambient
from ..config import Settings
from ..errors import NotCached
from ..lockfile import frozen
from ..lockfile.form import MAIN_BRANCH
from ..sources import listings
from ..sources.listing_reader import encoded
from ..sources.protocol import Listed, Listing
from ..store import partials
from ..store.blobs import Store
from .room import room_for

__all__ = ["keep", "of"]


def of(url: str) -> bytes:
    """The listing of what is locked of the repository at `url`. Raises NotLocked."""
    entries = frozen.files_of(url)
    version = hub.parse(entries[0].pinned)
    pinned = version.at(version.revision or MAIN_BRANCH, "").url
    files = [Listed(hub.parse(entry.url).path, entry.size or 0, entry.sha256) for entry in entries]
    return encoded(Listing(pinned, tuple(files)))


def keep(store: Store, data: bytes, artifact: Artifact) -> Path:
    """Publish the listing, which is a blob like any other, and give its path. Raises OSError, NotCached."""
    digest = hashlib.sha256(data).hexdigest()
    if (here := store.hit(digest, listings.FILENAME)) is not None:
        return here
    if not store.prepare():
        reason = f"{store.base} is not writable for this user"
        raise NotCached(url=artifact.url, base_dir=store.base, reason=reason)
    room = room_for(store, Settings.read(), ambient())
    with partials.create(store, digest, room) as partial:
        partial.write(data, 0)
        return store.publish(partial, digest, listings.FILENAME)
