"""Which digest a file had that its Hub names by git's SHA-1 alone: so that the next version does not fetch it again.

Invariant: remembered for the file's own repository, since SHA-1 can be made to collide, and a repository can only harm
itself by that.
"""

from __future__ import annotations

import hashlib
import time

from ..artifact import urls
from ..sources import listings
from ..sources.protocol import Listed, Listing
from ..store import refs
from ..store.blobs import Store
from ..store.refs import Ref

__all__ = ["digest_of", "remember"]


def digest_of(store: Store, listing: Listing, file: Listed) -> str | None:
    """The SHA-256 of a small file, if the same file of its repository is here."""
    ref = None if file.git_sha1 is None else refs.read(store, _key(listing, file.git_sha1))
    if ref is None or ref.size != file.size or store.any_intact(ref.digest, "") is None:
        return None
    return ref.digest


def remember(store: Store, listing: Listing, file: Listed, digest: str) -> None:
    """Remember a small file that was fetched, and is what its Hub said."""
    if file.git_sha1 is None or digest_of(store, listing, file) == digest:
        return
    url = urls.redact(listings.url_of(listing, file.path))
    ref = Ref(url, digest, file.size, None, None, fetched_at=time.time(), version=file.git_sha1)
    refs.remember(store, _key(listing, file.git_sha1), ref)


def _key(listing: Listing, sha1: str) -> str:
    repository = listing.pinned.rpartition("@")[0]
    return hashlib.sha256(f"git blob of {repository} {sha1}".encode()).hexdigest()
