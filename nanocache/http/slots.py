"""How many connections this process has open to each origin at once: one set of slots for all transfers.

Not a rate limit, and not shared between processes: under a launcher the limit itself is smaller. Invariants: a transfer
without any connection goes before one that wants one more; a slot is held only while a request and its body are under
way.
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

SLOT_LOOK = 1.0  # seconds between two looks for a slot that was freed without a notification

Origin = tuple[str, str, int]


class Busy(Failure):
    """No slot is free for an additional connection."""


class _Slot:
    """A held slot. If Ctrl-C prevents its release, garbage collection frees it."""


class _Slots:
    """The slots of all origins."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.used: defaultdict[Origin, weakref.WeakSet[_Slot]] = defaultdict(weakref.WeakSet)
        self.waiting: Counter[Origin] = Counter()

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def enter(self, slot: _Slot, origin: Origin, limit: int, cancel: Cancel, patient: bool) -> None:
        with self.changed:
            if patient:
                self._wait(origin, limit, cancel)
            elif self.waiting[origin] or self._full(origin, limit):
                raise Busy("no connection is free")
            self.used[origin].add(slot)

    def _full(self, origin: Origin, limit: int) -> bool:
        return len(self.used[origin]) >= limit

    def _wait(self, origin: Origin, limit: int, cancel: Cancel) -> None:
        if not self._full(origin, limit):
            return
        self.waiting[origin] += 1
        try:
            with cancel.watch(self.wake):
                while self._full(origin, limit):
                    cancel.check()
                    self.changed.wait(SLOT_LOOK)
        finally:
            self.waiting[origin] -= 1

    def leave(self, slot: _Slot, origin: Origin) -> None:
        with self.changed:
            self.used[origin].discard(slot)
            if not self.used[origin]:
                del self.used[origin]
            if self.waiting[origin]:
                self.changed.notify_all()


_slots = _Slots()


def _reset() -> None:
    global _slots  # the parent's requests are not the child's, and its lock may have been held
    _slots = _Slots()


os.register_at_fork(after_in_child=_reset)


@contextmanager
def slot(origin: Origin, *, limit: int, cancel: Cancel, patient: bool = True) -> Iterator[None]:
    """Hold one of the origin's `limit` slots while the block runs; wait for one, or raise Busy if not `patient`."""
    slots = _slots
    held = _Slot()
    try:
        slots.enter(held, origin, limit, cancel, patient)  # in the block, since Ctrl-C may come at its end
        yield
    finally:
        slots.leave(held, origin)
