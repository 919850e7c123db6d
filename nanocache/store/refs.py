"""Refs: what a URL gave the last time somebody asked without a digest.

A hint, not a pin: if its blob is gone or damaged, whatever the URL gives now is taken. Invariants: no credential is in
a ref; a ref is not replaced by one with an older `fetched_at`, so that without a working lock the newest download
wins; one that can't be read or parsed counts as absent.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, fields
from typing import Any

from ..disk import files
from .blobs import TRASH, Store

__all__ = ["Ref", "read", "write"]

logger = logging.getLogger("nanocache")

LATEST = 1e11  # seconds since the epoch, in the year 5138


@dataclass(frozen=True, slots=True)
class Ref:
    """url -> digest. `etag` and `last_modified` are what the server called this content."""

    url: str  # redacted: for people
    digest: str
    size: int
    etag: str | None
    last_modified: str | None
    fetched_at: float  # seconds since the epoch: when the server last said so
    source: list[int] | None = None  # size and mtime in nanoseconds of a `file:` URL's file


_TYPES: dict[str, tuple[type, ...]] = {
    "url": (str,),
    "digest": (str,),
    "size": (int,),
    "etag": (str, type(None)),
    "last_modified": (str, type(None)),
    "fetched_at": (int, float),
    "source": (list, type(None)),
}


def _parse(record: dict[str, Any]) -> Ref | None:
    values: dict[str, Any] = {field.name: record.get(field.name) for field in fields(Ref)}
    if not all(isinstance(values[name], types) for name, types in _TYPES.items()):
        return None
    digest = values["digest"]
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):  # it becomes a path
        return None
    if not 0 <= values["fetched_at"] < LATEST:
        return None
    if not all((values[name] or "").isprintable() for name in ("etag", "last_modified")):  # they become headers
        return None
    return Ref(**values)


def read(store: Store, url_key: str) -> Ref | None:
    """The ref of a URL, None if there is none or a stranger's. Raises UnsafeCache where a symlink stands there."""
    record = files.read_json(store.ref(url_key), trusts=store.trusted)
    return None if record is None else _parse(record)


def write(store: Store, url_key: str, ref: Ref) -> None:
    """Remember `ref`, unless a newer one is there. One from the future is not newer: a clock was wrong."""
    path, record = store.ref(url_key), {name: getattr(ref, name) for name in _TYPES}
    store.folder(os.path.dirname(path))
    try:
        files.create_json(path, record, mode=store.modes.lock)  # who meets half of it takes it for none, which it was
    except FileExistsError:
        _replace(store, url_key, ref, path, record)


def _replace(store: Store, url_key: str, ref: Ref, path: str, record: dict[str, Any]) -> None:
    there = read(store, url_key)
    if there is not None and ref.fetched_at < there.fetched_at <= time.time():
        return
    if there is not None and there.digest != ref.digest:
        logger.info("%s changed: sha256 %s -> %s", ref.url, there.digest, ref.digest)
    store.folder(scratch := f"{store.base}/{TRASH}")
    files.write_json(path, record, scratch=scratch, mode=store.modes.lock)
