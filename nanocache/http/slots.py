"""How many connections this process has open to each origin at once, whoever asks: one budget for all transfers.

Not a rate limit, and not shared between processes: under a launcher the limit itself is smaller. Invariants: who has no
connection at all goes before those who want one more; a place is held only while a request and its body are under way.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from ..cancel import Cancel
from .failure import Failure

__all__ = ["Busy", "slot"]

LOOK = 1.0  # seconds; a place that comes back because its holder was interrupted comes without a word

Origin = tuple[str, str, int]


class Busy(Failure):
    """No place is free for an additional connection."""


class _Slot:
    """One that is held. Ctrl-C may keep anybody from giving it back: then it is free once nobody has it any more."""


class _Slots:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.used: defaultdict[Origin, weakref.WeakSet[_Slot]] = defaultdict(weakref.WeakSet)
        self.waiting: Counter[Origin] = Counter()

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def enter(self, one: _Slot, origin: Origin, limit: int, cancel: Cancel, patient: bool) -> None:
        with self.changed:
            if len(self.used[origin]) >= limit or (self.waiting[origin] and not patient):
                if not patient:
                    raise Busy("no connection is free")
                self._wait(origin, limit, cancel)
            self.used[origin].add(one)

    def _wait(self, origin: Origin, limit: int, cancel: Cancel) -> None:
        self.waiting[origin] += 1
        try:
            with cancel.watch(self.wake):
                while len(self.used[origin]) >= limit:
                    cancel.check()
                    self.changed.wait(LOOK)
        finally:
            self.waiting[origin] -= 1

    def leave(self, one: _Slot, origin: Origin) -> None:
        with self.changed:
            self.used[origin].discard(one)
            if not self.used[origin]:
                del self.used[origin]
            if self.waiting[origin]:
                self.changed.notify_all()


_budget = _Slots()


def _afresh() -> None:
    global _budget  # the parent's requests are not ours, and its lock may have been held
    _budget = _Slots()


os.register_at_fork(after_in_child=_afresh)


@contextmanager
def slot(origin: Origin, *, limit: int, cancel: Cancel, patient: bool = True) -> Iterator[None]:
    """Hold one of the origin's `limit` places while the block runs; wait for one, or raise Busy if not `patient`."""
    budget, one = _budget, _Slot()
    try:
        budget.enter(one, origin, limit, cancel, patient)  # in the block, since Ctrl-C may come at its end
        yield
    finally:
        budget.leave(one, origin)
