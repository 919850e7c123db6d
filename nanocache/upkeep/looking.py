"""What a target means in the base directory, else in one of the read-only caches beside it. Writes nothing."""

from __future__ import annotations

from functools import partial

from ..config import Settings
from ..errors import NotCached
from ..store import tiers
from ..store.blobs import Store
from .entries import Catalogue, Entry
from .targets import digest_of, digests_of, several

__all__ = ["entry_of", "own_digests"]


def entry_of(store: Store, target: object) -> Entry | None:
    """What `target` means; None if nothing of it is cached. Raises ValueError, OSError."""
    look = partial(_entry, target)
    return look(store) or tiers.first(Settings.read().readonly_dirs, look, beside=store.base)


def _entry(target: object, store: Store) -> Entry | None:
    try:
        digest = digest_of(store, target)
    except NotCached:
        return None
    return next(Catalogue(store).of(digest), None)


def own_digests(store: Store, targets: object) -> list[str]:
    """The digests that `targets` mean here. What a read-only cache has is its owner's to keep, and left out.

    Raises ValueError, NotCached.
    """
    found: list[str] = []
    for target in several(targets):
        try:
            found += digests_of(store, target)
        except NotCached:
            if entry_of(store, target) is None:
                raise
    return list(dict.fromkeys(found))
