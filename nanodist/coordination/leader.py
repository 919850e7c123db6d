"""leader_first: run a function on one rank, and have its result, or its error, on all.

Not a barrier and not a broadcast of tensors. Invariants: the function runs at most once per call; calls are matched by
their number, so all ranks make the same calls of one key.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from nanocache.coordination.process import me

from ..errors import CoordinatorLost, as_it_travels
from ..rank import topology
from .coordinator import coordination
from .election import Outcome, decide, forget
from .store_address import address
from .store_client import ANSWER

__all__ = ["leader_first"]

T = TypeVar("T")

LARGEST_RESULT = 64 * 1024  # bytes of JSON: the store is for short texts

_lock = threading.Lock()
_calls: Counter[str] = Counter()


def leader_first(key: str, fn: Callable[[], T]) -> T:
    """What `fn()` returned on the first rank that came here; the others wait for it and do not run it.

    Once per call, not once per job: the result is not remembered, and all ranks call equally often. It may take longer
    than the process group's time-out, and needs no process group. A rank that comes late gets the same result. One C
    call that keeps the GIL for 15 s looks dead to other hosts, and to ranks that do not see the leader's process.

    `fn` returns None or JSON (str, numbers, bool, list, dict with str keys) of at most 64 KiB, else TypeError on every
    rank. Whatever it raises is raised on every rank: a NanocacheError as itself, any other as LeaderError; SystemExit
    and KeyboardInterrupt stay themselves on the leader. Raises LeaderLost on every rank if the leader dies: what it
    did may not be done twice. Raises CoordinatorLost where the ranks have no store (no MASTER_ADDR, DataLoader
    workers).
    """
    here = topology()
    if here.world_size == 1:
        return _alone(fn)
    coordinator = coordination(patience=ANSWER)  # it cannot do without, and rank 0 may be slow to start
    if coordinator is None:
        reason = "no store answered, or this is a worker of a rank; call it on the ranks, with MASTER_ADDR set"
        raise CoordinatorLost(address=str(address()), reason=reason)
    with _lock:
        number = _calls[key]
        _calls[key] += 1
    place = f"first/{number}/{key}"
    try:
        verdict = decide(coordinator, place, fn, once=key, limit=LARGEST_RESULT)
    finally:
        forget(coordinator, place)
    if verdict.led and coordinator.lost is not None:
        raise coordinator.lost  # as on the ranks that will never read the outcome
    result: T = verdict.value
    return result


def _alone(fn: Callable[[], T]) -> T:
    """The same results and errors as among many ranks, so that a program meets them before it has many."""
    try:
        value = fn()
    except Exception as e:  # noqa: BLE001 - it is raised again
        travelling = as_it_travels(e, rank=0, host=me().host)
        try:
            if travelling is e:
                raise
            raise travelling from e
        finally:
            del travelling  # else it holds itself by its traceback
    Outcome.of_value(value, LARGEST_RESULT)
    return value
