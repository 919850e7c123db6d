"""How many connections there may be to each origin at once: for this process, and within that of all of this machine.

Not a rate limit. The machine's slots are lock files (`machine_slots`); where there are none, each process has its share
by itself. Invariants: a transfer without any connection goes before one that wants one more; a slot is held only while
a request and its body are under way; a process that has no connection gets one after `LONGEST_SLOT_WAIT`, whatever
others hold.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..cancel import Cancel
from . import machine_slots
from .failure import Failure
from .machine_slots import MachineSlot

__all__ = ["Busy", "most", "slot"]

SLOT_LOOK = 1.0  # seconds between two looks for a slot that was freed without a notification
FIRST_LOOK, LATEST_LOOK = (
    0.005,
    0.1,
)  # seconds between two looks at the machine's slots, of a process's waiters together
LONGEST_SLOT_WAIT = 30.0  # seconds for a slot of the machine, of a process that has no connection

Origin = tuple[str, str, int]


class Busy(Failure):
    """No slot is free for an additional connection."""


@dataclass(eq=False)
class _Slot:
    """A held slot. If Ctrl-C prevents its release, garbage collection frees it."""

    on_machine: MachineSlot | None = None


@dataclass(frozen=True, slots=True)
class _Limits:
    """`share`: of this process where it counts for itself; `budget`: of the machine, None if it has no say."""

    share: int
    budget: int | None

    @property
    def here(self) -> int:
        """For this process."""
        return self.budget if self.budget is not None and machine_slots.are_there() else self.share


class _Slots:
    """The slots of all origins."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.used: defaultdict[Origin, weakref.WeakSet[_Slot]] = defaultdict(weakref.WeakSet)
        self.waiting: Counter[Origin] = Counter()

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def enter(self, slot: _Slot, origin: Origin, limits: _Limits, cancel: Cancel, patient: bool) -> None:
        with self.changed:
            if patient:
                self._wait(slot, origin, limits, cancel)
            elif self.waiting[origin] or not self._admit(slot, origin, limits):
                raise Busy("no connection is free")
            self.used[origin].add(slot)

    def _admit(self, slot: _Slot, origin: Origin, limits: _Limits) -> bool:
        """Whether there is a slot, here and on the machine."""
        if len(self.used[origin]) >= limits.here:
            return False
        if limits.budget is None or not machine_slots.are_there():
            return True
        slot.on_machine = machine_slots.take(origin, limits.budget)
        return slot.on_machine is not None

    def _wait(self, slot: _Slot, origin: Origin, limits: _Limits, cancel: Cancel) -> None:
        if self._admit(slot, origin, limits):
            return
        began = time.monotonic()
        self.waiting[origin] += 1
        try:
            with cancel.watch(self.wake):
                while not self._admit(slot, origin, limits):
                    cancel.check()
                    waited = time.monotonic() - began
                    if waited > LONGEST_SLOT_WAIT and not self.used[origin]:
                        return
                    self.changed.wait(self._pause(origin, limits, waited))
        finally:
            self.waiting[origin] -= 1

    def _pause(self, origin: Origin, limits: _Limits, waited: float) -> float:
        """Until the next look: no process of the machine says when it frees a slot, so this one looks now and then."""
        if len(self.used[origin]) >= limits.here:
            return SLOT_LOOK
        return min(LATEST_LOOK, max(FIRST_LOOK, waited / 10)) * self.waiting[origin]

    def leave(self, slot: _Slot, origin: Origin) -> None:
        if slot.on_machine is not None:
            slot.on_machine.release()
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


def most(*, limit: int, budget: int | None) -> int:
    """How many slots this process may hold at once."""
    return _Limits(limit, budget).here


@contextmanager
def slot(
    origin: Origin, *, limit: int, cancel: Cancel, budget: int | None = None, patient: bool = True
) -> Iterator[None]:
    """Hold a slot of the origin while the block runs; wait for one, or raise Busy if not `patient`.

    There are `budget` for all processes of the machine; `limit` for this one where they cannot share.
    """
    slots = _slots
    held = _Slot()
    try:
        slots.enter(
            held, origin, _Limits(limit, budget), cancel, patient
        )  # in the block, since Ctrl-C may come at its end
        yield
    finally:
        slots.leave(held, origin)
