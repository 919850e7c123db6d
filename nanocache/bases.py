"""The stores that this process has open, one for each base directory.

Invariant: the environment's base directory is read at each call, and worked out again only where its spelling changed.
"""

from __future__ import annotations

import os

from . import config
from .store.blobs import Store

__all__ = ["bases", "environment", "opened"]

bases: dict[str, Store] = {}
_spelled: dict[tuple[str | None, ...], Store] = {}


def opened(base: str) -> Store:
    return bases.get(base) or bases.setdefault(base, Store(base))


def environment() -> Store:
    """The environment's base directory: by its spelling where that alone says it, else worked out anew."""
    get = os.environ.get
    spelled = get("NANOCACHE_DIR") or get("NANOCHAT_BASE_DIR")
    key = (spelled,) if spelled else (None, get("XDG_CACHE_HOME"), get("HOME"))
    store = _spelled.get(key)
    if store is None:
        if os.name == "nt":
            raise OSError("nanocache does not run on Windows yet; it runs on Linux (WSL too) and macOS")
        store = opened(config.base_dir())
        if spelled is None or (spelled.startswith("/") and "$" not in spelled):
            _spelled[key] = store
    return store
