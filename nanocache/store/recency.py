"""When something was last used: the mark that an eviction goes by.

The mark is the mtime of a folder: `blobs-v1/.../<digest>`, `products-v1/<digest>`, `trees-v1/<digest>`. Never a
blob's own times: that would launder a write, and in a container it would copy the whole file up. Invariants: a path is
marked before it is returned, at most once an hour; another process's mark counts from when it was made, so that at any
moment at which a path is returned its mark is less than an hour old; errors are ignored.
"""

from __future__ import annotations

import os
import time

from ..callers import let_pass

__all__ = ["Recency"]

MOST_MARKS = 1 << 13  # remembered, of 300 bytes each
RECENT = 3600.0  # seconds between two marks


class Recency:
    """The marks that this process left in one base directory."""

    def __init__(self) -> None:
        self._marked: dict[str, float] = {}  # folder -> when, in seconds of the monotonic clock

    def mark(self, folder: str) -> bool:
        """Mark what is in `folder` as used now, unless that is known within the hour. False: an eviction took it."""
        now = time.monotonic()
        if now - self._marked.get(folder, -RECENT) < RECENT:
            return True
        age = 0.0
        try:
            age = time.time() - os.stat(folder).st_mtime
            if not -RECENT < age < RECENT:  # a thousand nodes that look at it write once
                os.utime(folder)
                age = 0.0
        except FileNotFoundError:
            return False
        except OSError as e:
            let_pass(e)
        self._remember(folder, now - max(age, 0.0))
        return True

    def was_marked(self, folder: str) -> None:
        """Remember that a rename into `folder` has just left the mark."""
        self._remember(folder, time.monotonic())

    def _remember(self, folder: str, when: float) -> None:
        if len(self._marked) >= MOST_MARKS:  # what is forgotten costs a stat at its next use
            self._marked.clear()
        self._marked[folder] = when
