"""Pins: what is never evicted, until a person says so.

    pins-v1/<digest>.json    {"note": ..., "at": seconds, "user": ...}

The name alone is the pin; what is in the file is for people. Invariant: a pin is written first and what it pins looked
for then, and an eviction takes first and looks for pins then: of the two one always sees the other.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from ..callers import suppress
from ..disk import files
from ..store.layout import PINS, BaseDirectory
from . import walk

__all__ = ["Pin", "add", "is_pinned", "pinned", "read", "remove"]

SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Pin:
    note: str
    at: float  # seconds since the epoch
    user: str


def pinned(directory: BaseDirectory) -> set[str]:
    """The digests that are pinned."""
    names = (entry.name.removesuffix(SUFFIX) for entry in walk.scan(walk.top(directory, PINS)))
    return {name for name in names if walk.is_digest(name)}


def is_pinned(directory: BaseDirectory, digest: str) -> bool:
    return os.path.lexists(directory.pin(digest))


def read(directory: BaseDirectory, digest: str) -> Pin | None:
    """What the pin of `digest` says; None if there is none."""
    if not is_pinned(directory, digest):
        return None
    record = files.read_json(directory.pin(digest)) or {}
    at = record.get("at")
    return Pin(str(record.get("note", "")), at if isinstance(at, int | float) else 0.0, str(record.get("user", "")))


def add(directory: BaseDirectory, digest: str, note: str) -> None:
    """Pin a digest. Raises OSError."""
    directory.folder(directory.top(PINS))
    directory.folder(directory.trash)
    record = {"note": note, "at": time.time(), "user": _user()}
    files.write_json(directory.pin(digest), record, scratch=directory.trash, mode=directory.modes.lock)


def remove(directory: BaseDirectory, digest: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(directory.pin(digest))


def _user() -> str:
    """The user's name, or number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
