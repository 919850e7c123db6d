"""The threads that `afetch` hops to: few, daemons, and gone when idle.

Not concurrent.futures: its threads idle until the process ends, so every later fork warns (Python 3.12), and they are
joined before `atexit` runs, so that a stalled download would hold the interpreter. Invariants: at most `LIMIT` threads;
none outlives its work by more than `IDLE` seconds; a forked child starts with none.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["submit"]

LIMIT = 16
IDLE = 0.5  # seconds

_ready = threading.Condition()
_jobs: deque[Callable[[], None]] = deque()
_threads = _idle = 0


def submit(job: Callable[[], None]) -> None:
    """Have `job`, which raises nothing, run in a thread of the pool."""
    global _threads
    with _ready:
        _jobs.append(job)
        if _idle >= len(_jobs):
            _ready.notify()
            return
        if _threads >= LIMIT:
            return
        _threads += 1
    try:
        threading.Thread(target=_work, name="nanocache-fetch", daemon=True).start()
    except BaseException:  # there can be no more threads, or Ctrl-C: who is counted and never lived blocks a place
        with _ready:
            _threads -= 1
        raise


def _next() -> Callable[[], None] | None:
    global _threads, _idle
    with _ready:
        _idle += 1
        _ready.wait_for(lambda: bool(_jobs), timeout=IDLE)
        _idle -= 1
        if _jobs:
            return _jobs.popleft()
        _threads -= 1
        return None


def _work() -> None:
    while (job := _next()) is not None:
        job()
        del job  # what it holds must not live until the next one comes


def _reset() -> None:
    global _ready, _threads, _idle
    _ready = threading.Condition()
    _jobs.clear()
    _threads = _idle = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
