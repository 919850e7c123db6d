"""What a caller wants kept: targets, and lock files with the digests of what a project needs.

A lock file is TOML with a table for each artifact and its `sha256` in it; what else is in there is not looked at. What
is not cached needs no keeping, and is no error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import NotCached
from ..lockfile.named import names_lock_file
from ..retention import walk
from ..store.blobs import Store
from ..store.layout import BaseDirectory
from .targets import digests_of, several

__all__ = ["listed"]


def listed(store: Store, keep: object) -> set[str]:
    """The digests that `keep` means. Raises ValueError for a lock file that can't be read as one."""
    return {digest for one in several(keep) for digest in _digests(store, one)}


def _digests(directory: BaseDirectory, one: object) -> list[str]:
    if names_lock_file(one):
        return list(_in_lock_file(os.fspath(one)))  # type: ignore[call-overload]  # a path, by its name
    try:
        return digests_of(directory, one)
    except NotCached:
        return []


def _in_lock_file(path: str) -> Iterator[str]:
    import tomllib

    try:
        found = tomllib.loads(Path(path).read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"keep: {path} is no lock file: {e}") from None
    yield from _sha256(found)


def _sha256(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        digest = value.get("sha256")
        if isinstance(digest, str) and walk.is_digest(digest.lower()):
            yield digest.lower()
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _sha256(one)
