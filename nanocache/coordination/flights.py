"""Single flight: the threads and tasks of one process that want the same thing cause one piece of work.

Other processes are the lock's business. Invariants: whoever gets there first runs the work, so no joiner can wait for a
flight that nobody has started; a flight leaves the table in the same step that cancels it, so that nobody joins a dying
one; joined waiters cost no thread; a forked child starts with an empty table, since its parent's threads are not there.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from ..cancel import Cancel, Cancelled

__all__ = ["Flight", "Interrupted", "Waiter", "share"]

T = TypeVar("T")
Work = Callable[[Cancel], T]


class Interrupted(Exception):
    """The flight ended without a result of its own: its leader was cancelled or killed. Take over."""


class Flight(Generic[T]):
    """One piece of work, and everybody who waits for it."""

    def __init__(self, key: Hashable, asker: Hashable, work: Work[T]) -> None:
        self.key, self.asker = key, asker
        self.cancel = Cancel()
        self.waiters: set[Waiter[T]] = set()
        self._work = work
        self._started = self.ended = False
        self.submitted = False  # somebody else's thread was told to run it
        self.thread = 0  # who runs it
        self._delivered = False
        self._callbacks: list[Callable[[], None]] = []
        self._value: T | None = None
        self._error: BaseException | None = Interrupted()  # until there is a result: KeyboardInterrupt is no result

    def run(self) -> None:
        """Do the work in this thread, unless somebody has begun it. Raises only what interrupts this very thread."""
        with _lock:
            if self._started:
                return
            self._started, self.thread = True, threading.get_ident()
        try:
            self.cancel.check()
            self._value = self._work(self.cancel)
            self._error = None
        except Cancelled:
            pass
        except Exception as e:  # noqa: BLE001 - handed to every waiter by `result`
            self._error = e
        finally:
            self.end()

    def end(self) -> None:
        """Tell everybody who waits that it is over. Again is harmless: whoever was interrupted in it does it again."""
        with _lock:
            self.ended = True
            _drop(self)
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()
        self.thread = 0

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the flight has ended, in the thread that ends it; at once if it has."""
        with _lock:
            if not self.ended:
                self._callbacks.append(callback)
                return
        callback()

    def result(self, asker: Hashable) -> T:
        """The value; or the error, if `asker` would have asked the same; else Interrupted: try your own sources."""
        if self._error is None:
            return self._value  # type: ignore[return-value]
        if isinstance(self._error, Interrupted) or asker != self.asker:
            raise Interrupted
        with _lock:
            first, self._delivered = not self._delivered, True
        if first:
            raise self._error
        raise copy.copy(self._error) from self._error  # one instance in two threads would mix their tracebacks


class Waiter(Generic[T]):
    """One waiter's place in a flight."""

    def __init__(self) -> None:
        self._flight: Flight[T] | None = None

    def take(self, key: Hashable, asker: Hashable, work: Work[T]) -> Flight[T]:
        """Join the running flight of `key`, or a new one that does `work` once somebody runs it.

        `leave` undoes it, also half done.
        """
        with _lock:
            flight: Flight[T] | None = _table.get(key)
            if flight is None or flight.ended:
                flight = Flight(key, asker, work)
            self._flight = flight
            flight.waiters.add(self)
            _table[key] = flight
        return flight

    def leave(self) -> None:
        """Wait no longer; the last one to leave cancels the work, and nobody joins it any more. Again is harmless."""
        flight = self._flight
        if flight is None:
            return
        with _lock:
            flight.waiters.discard(self)
            last = not flight.waiters
            if last:
                _drop(flight)
        if last and not flight.ended:
            flight.cancel.set()


_lock = threading.Lock()
_table: dict[Hashable, Flight[Any]] = {}


def _drop(flight: Flight[T]) -> None:
    if _table.get(flight.key) is flight:
        del _table[flight.key]


def _reset() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
    _table.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


def share(key: Hashable, asker: Hashable, work: Work[T], cancel: Cancel) -> T:
    """The result of `key`'s flight, led or joined by this thread; takes over from interrupted leaders.

    `cancel` is the caller's own: once set, this thread leaves, and the work goes on only for others who wait for it.
    Raises what the work raises, and Cancelled.
    """
    while True:
        seat: Waiter[T] = Waiter()
        wake = threading.Event()
        flight: Flight[T] | None = None

        def leave(seat: Waiter[T] = seat, wake: threading.Event = wake) -> None:
            seat.leave()
            wake.set()

        try:
            joined = seat.take(key, asker, work)
            if joined.thread == threading.get_ident():
                raise RuntimeError("a postprocess hook asked for its own product, and would wait for itself")
            flight = joined
            flight.on_end(wake.set)
            with cancel.watch(leave):
                flight.run()
                wake.wait()
            cancel.check()
            return flight.result(asker)
        except Interrupted:
            continue
        finally:
            if flight is not None and flight.thread == threading.get_ident():  # Ctrl-C in the middle of its end
                flight.end()
            seat.leave()
