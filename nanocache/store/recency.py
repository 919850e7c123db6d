"""When a blob was last used: a mark for a later eviction.

The mark is the mtime of the blob's folder. Never the blob's own times: that would launder a write, and in a container
it would copy the whole file up. Invariant: one mark an hour for each blob, and one look an hour for each process and
blob; errors are ignored.
"""

from __future__ import annotations

import os
import time

from ..callers import suppress
from .layout import BaseDirectory

__all__ = ["Recency"]

RECENT = 3600.0  # seconds between two marks on one blob


class Recency:
    """The marks that this process left in one base directory."""

    def __init__(self, directory: BaseDirectory) -> None:
        self._directory = directory
        self._marked: dict[str, float] = {}  # digest -> when, in seconds of the monotonic clock

    def mark(self, digest: str) -> None:
        """Mark the blob of `digest` as used now, unless this process did within the hour."""
        now = time.monotonic()
        if now - self._marked.get(digest, -RECENT) >= RECENT:
            self._marked[digest] = now
            folder = self._directory.blob_folder(digest)
            with suppress(OSError):
                if time.time() - os.stat(folder).st_mtime >= RECENT:  # a thousand nodes that look at it write once
                    os.utime(folder)

    def was_marked(self, digest: str) -> None:
        """Remember that a rename into the blob's folder has just left the mark."""
        self._marked[digest] = time.monotonic()
