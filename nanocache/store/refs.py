"""Refs: what a URL gave the last time it was fetched without a digest.

A hint, not a pin: if its blob is gone or damaged, whatever the URL gives now is taken. Invariants: no credential is in
a ref; a ref is not replaced by one with an older `fetched_at`, so that without a working lock the newest download
wins; one that can't be read or parsed counts as absent.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..callers import let_pass
from ..disk import files
from ..errors import UnsafeCache
from .layout import BaseDirectory

__all__ = ["Ref", "read", "remember", "write"]

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
    version: str | None = None  # as the URL's source calls this content
    pinned: str | None = None  # the URL that means this content for ever


def _is_digest(value: Any) -> bool:
    # It becomes a path.
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_validator(value: Any) -> bool:
    # It becomes a header.
    return value is None or (isinstance(value, str) and value.isprintable())


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < LATEST


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "url": lambda value: isinstance(value, str),
    "digest": _is_digest,
    "size": lambda value: isinstance(value, int),
    "etag": _is_validator,
    "last_modified": _is_validator,
    "fetched_at": _is_time,
    "source": lambda value: value is None or isinstance(value, list),
    "version": _is_validator,
    "pinned": _is_validator,
}


def _parse(record: dict[str, Any]) -> Ref | None:
    values = {name: record.get(name) for name in _CHECKS}
    if not all(check(values[name]) for name, check in _CHECKS.items()):
        return None
    return Ref(**values)  # type: ignore[arg-type]  # checked just now


def read(directory: BaseDirectory, url_key: str) -> Ref | None:
    """The ref of a URL, None if there is none or a stranger's. Raises UnsafeCache where a symlink stands there."""
    record = files.read_json(directory.ref(url_key), trusts=directory.trusts)
    return None if record is None else _parse(record)


def remember(directory: BaseDirectory, key: str, ref: Ref) -> None:
    """`write`, where a full disk, say, is no reason to fail: what was asked for is there all the same."""
    try:
        write(directory, key, ref)
    except UnsafeCache:
        raise
    except OSError as e:
        let_pass(e)
        logger.warning("cannot remember what %s gave (%s): the next call asks again", ref.url, e)


def write(directory: BaseDirectory, url_key: str, ref: Ref) -> None:
    """Remember `ref`, unless a newer one is there. One from the future is not newer: a clock was wrong."""
    path = directory.ref(url_key)
    record = {name: getattr(ref, name) for name in _CHECKS}
    directory.folder(os.path.dirname(path))
    try:
        # In place, by one write: a reader meets an empty file before, which is as good as none.
        files.create_json(path, record, mode=directory.modes.lock)
        return
    except FileExistsError:
        pass
    there = read(directory, url_key)
    if there is not None and ref.fetched_at < there.fetched_at <= time.time():
        return
    if there is not None and there.digest != ref.digest:
        logger.info("%s changed: sha256 %s -> %s", ref.url, there.digest, ref.digest)
    directory.folder(directory.trash)
    files.write_json(path, record, scratch=directory.trash, mode=directory.modes.lock)
