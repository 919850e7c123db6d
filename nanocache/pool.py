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
_threads: set[object] = set()
_idle = 0


def submit(job: Callable[[], None]) -> None:
    """Have `job`, which raises nothing, run in a thread of the pool."""
    one = object()
    try:
        with _ready:
            _jobs.append(job)
            if _idle >= len(_jobs):
                _ready.notify()
                return
            if len(_threads) >= LIMIT:
                return
            _threads.add(one)
        threading.Thread(target=_work, args=(one,), name="nanocache-fetch", daemon=True).start()
    except BaseException:  # there can be no more threads, or Ctrl-C: who is counted and never lived blocks a place
        _threads.discard(one)
        raise


def _next(one: object) -> Callable[[], None] | None:
    global _idle
    with _ready:
        _idle += 1
        _ready.wait_for(lambda: bool(_jobs), timeout=IDLE)
        _idle -= 1
        if _jobs:
            return _jobs.popleft()
        _threads.discard(one)
        return None


def _work(one: object) -> None:
    while (job := _next(one)) is not None:
        job()
        del job  # what it holds must not live until the next one comes


def _reset() -> None:
    global _ready, _idle
    _ready = threading.Condition()
    _jobs.clear()
    _threads.clear()
    _idle = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
