"""Where a request's artifact is already: in the base directory, else in one of the read-only caches beside it.

Not what becomes of a miss (`steps`). Invariants: `find` asks no server, takes no lock and hashes nothing; the base
directory comes first; what a tier's refs say counts only where the base directory has no answer of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..artifact.request import Request
from ..cancel import Cancel
from ..coordination.flights import share
from ..store import healing, tiers
from ..store.blobs import Store
from ..store.tiers import Tier
from . import products
from .remembered import Remembered

__all__ = ["Found", "blob_in_tiers", "find", "find_blob", "find_in_tiers", "lookup", "read_own"]


class Found(NamedTuple):
    """What a fetch ends with: the path of the artifact or its product, and the artifact's digest."""

    path: Path
    digest: str


def find(store: Store, request: Request) -> Found | None:
    """What is here already. Raises UnsafeCache."""
    digest = Remembered(store, request).known()
    found = None if digest is None else _standing(request, digest, store)
    return found or find_in_tiers(store, request)


def find_in_tiers(store: Store, request: Request) -> Found | None:
    """What is in a read-only cache already. Raises UnsafeCache."""
    if not request.settings.readonly_dirs:
        return None
    return _in_tiers(store, request, Remembered(store, request).known(), _standing)


def find_blob(store: Store, request: Request, digest: str) -> Path | None:
    """The artifact of this digest, for a URL that turns out to mean it."""
    found = _blob(request, digest, store) or _in_tiers(store, request, digest, _blob)
    return None if found is None else found.path


def _standing(request: Request, digest: str, store: Store) -> Found | None:
    if request.hook is None:
        return _blob(request, digest, store)
    path = products.find(store, digest, request.hook, request.name)
    return None if path is None else Found(path, digest)


def _blob(request: Request, digest: str, store: Store) -> Found | None:
    path = store.hit(digest, request.name)
    return None if path is None else Found(path, digest)


def _in_tiers(
    store: Store, request: Request, digest: str | None, look: Callable[[Request, str, Tier], Found | None]
) -> Found | None:
    """What `look` finds in the first tier that has it. `digest`: what the base directory knows to be meant."""

    def question(tier: Tier) -> Found | None:
        meant = digest or Remembered(tier, request).known()
        return None if meant is None else look(request, meant, tier)

    return tiers.first(request.settings.readonly_dirs, question, beside=store.base)


def lookup(store: Store, request: Request, cancel: Cancel) -> Path | None:
    """`find`, and a blob with a broken seal is read and compared. Never downloads, never waits."""
    if (found := find(store, request)) is not None:
        return found.path
    if request.hook is not None:
        return None
    digest = Remembered(store, request).known()
    own = None if digest is None else healing.verify(store, digest, request.name, cancel)
    read = None if own is not None else blob_in_tiers(store, request, cancel)
    return own if read is None else read.path


def read_own(store: Store, request: Request, digest: str, cancel: Cancel) -> Path | None:
    """The blob in the base directory, nothing of which is changed; read once for all callers of this moment."""

    def verify(cancel: Cancel) -> Path | None:
        found = None if request.rehash else store.hit(digest, request.name)  # another flight may have just landed
        return found or healing.verify(store, digest, request.name, cancel)

    return share(("verify", store.base, digest, request.name, request.rehash), request.identity, verify, cancel)


def blob_in_tiers(store: Store, request: Request, cancel: Cancel) -> Found | None:
    """The artifact in a tier, unless the base directory has it; read where its seal was lost, or is not to be believed.

    It is read once in this process, however many ask.
    """
    if not request.settings.readonly_dirs:
        return None
    digest = Remembered(store, request).known()
    if digest is not None and (store.names(digest) if request.rehash else store.hit(digest, request.name)):
        return None

    def look(request: Request, digest: str, tier: Tier) -> Found | None:
        if not request.rehash and (found := _blob(request, digest, tier)) is not None:
            return found
        key = ("verify", tier.base, digest, request.name, request.rehash)
        path = share(key, request.identity, partial(tier.read, digest, request.name), cancel)
        return None if path is None else Found(path, digest)

    return _in_tiers(store, request, digest, look)
