"""What a process does at its end, whatever started it: one that multiprocessing started knows no `atexit`."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable

__all__ = ["at_end"]

FIRST = 100  # before multiprocessing takes its own queues and pools apart


def at_end(callback: Callable[[], object]) -> None:
    """Have `callback` called when this process ends, before what was given earlier. A forked child does without it."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        atexit.register(callback)
        return
    from multiprocessing.util import Finalize  # which loads much more

    Finalize(None, callback, exitpriority=FIRST)
