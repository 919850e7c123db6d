"""Single flight: the threads and tasks of one process that want the same thing cause one run of it.

Other processes are the lock's business. Invariants: the first thread to arrive runs the job, so no waiter can wait for
a flight that never started; a flight leaves the table in the same step that cancels it, so no waiter joins a dying one;
joined waiters cost no thread; a forked child starts with an empty table, since its parent's threads are not there.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from ..callers import CallersError, from_handler
from ..cancel import Cancel, Cancelled

__all__ = ["Flight", "Interrupted", "Waiter", "running", "share"]

T = TypeVar("T")
Job = Callable[[Cancel], T]  # given the flight's own Cancel, which is set once the last waiter has left


class Interrupted(Exception):
    """The flight ended without a result of its own: its leader was cancelled or killed. Take over."""


class Flight(Generic[T]):
    """One run of a job, and its waiters."""

    def __init__(self, key: Hashable, identity: Hashable, job: Job[T]) -> None:
        self.key = key
        self.identity = identity  # of the request that leads it
        self.cancel = Cancel()
        self.waiters: set[Waiter[T]] = set()
        self.leader: Waiter[T] | None = None  # the one whose job it is
        self._job = job
        self._started = False
        self.ended = False
        self.submitted = -1  # the deepest pool (see `threads`) whose threads were told to run it
        self.thread = 0  # the one that runs it
        self._delivered = False
        self._callbacks: list[Callable[[], None]] = []
        self._value: T | None = None
        self._error: BaseException | None = Interrupted()  # until there is a result: KeyboardInterrupt is no result

    def run(self) -> None:
        """Do the job in this thread, unless another has begun it. Raises only what interrupts this very thread."""
        with _lock:
            if self._started:
                return
            self._started = True
            self.thread = threading.get_ident()
        try:
            self.cancel.check()
            self._value = self._job(self.cancel)
            self._error = None
        except Cancelled:
            pass
        except Exception as e:  # noqa: BLE001 - handed to every waiter by `result`
            self._error = CallersError(e) if from_handler(e) else e
        finally:
            self.end()

    def end(self) -> None:
        """Tell all waiters that it is over. Again is harmless: a thread that was interrupted in it does it again."""
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

    def result(self, identity: Hashable, waiter: Waiter[T]) -> T:
        """The value; or the error, if it is this waiter's too; else Interrupted: try your own sources."""
        if self._error is None:
            return self._value  # type: ignore[return-value]
        if not self._concerns(identity, waiter):
            raise Interrupted
        with _lock:
            first = not self._delivered
            self._delivered = True
        if first:
            raise self._error
        raise copy.copy(self._error) from self._error  # one instance in two threads would mix their tracebacks

    def _concerns(self, identity: Hashable, waiter: Waiter[T]) -> bool:
        """Whether the error would have happened to this waiter: the same request, and no callback of another caller."""
        if isinstance(self._error, CallersError):
            return waiter is self.leader
        return identity == self.identity and not isinstance(self._error, Interrupted)


class Waiter(Generic[T]):
    """One waiter's place in a flight."""

    def __init__(self) -> None:
        self._flight: Flight[T] | None = None

    def take(self, key: Hashable, identity: Hashable, job: Job[T]) -> Flight[T]:
        """Join the running flight of `key`, or a new one that does `job` once a thread runs it.

        `leave` undoes it, also half done.
        """
        with _lock:
            flight: Flight[T] | None = _table.get(key)
            if flight is None or flight.ended:
                flight = Flight(key, identity, job)
                flight.leader = self
            self._flight = flight
            flight.waiters.add(self)
            _table[key] = flight
        return flight

    def leave(self) -> None:
        """Wait no longer; the last waiter to leave cancels the job, and no other joins it. Again is harmless."""
        flight = self._flight
        if flight is None:
            return
        with _lock:
            flight.waiters.discard(self)
            if flight.leader is self:
                flight.leader = None  # no circle is left for the garbage collector
            last = not flight.waiters
            if last:
                _drop(flight)
        if last and not flight.ended:
            flight.cancel.set()


_lock = threading.Lock()
_table: dict[Hashable, Flight[Any]] = {}


def running(key: Hashable) -> bool:
    """Whether there is a flight of `key` to join."""
    return key in _table


def _drop(flight: Flight[T]) -> None:
    if _table.get(flight.key) is flight:
        del _table[flight.key]


def _reset() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
    _table.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


def share(key: Hashable, identity: Hashable, job: Job[T], cancel: Cancel) -> T:
    """The result of `key`'s flight, led or joined by this thread; takes over from interrupted leaders.

    `cancel` is the caller's own: once set, this thread leaves, and the job goes on only for its other waiters.
    Raises what the job raises, and Cancelled.
    """
    while True:
        passenger = _Passenger[T](cancel)
        try:
            return passenger.ride(key, identity, job)
        except Interrupted:
            continue
        finally:
            passenger.leave()


class _Passenger(Generic[T]):
    """A thread that waits for a flight, and runs it if no other thread does."""

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self._waiter: Waiter[T] = Waiter()
        self._wake = threading.Event()
        self._flight: Flight[T] | None = None  # the joined one; not the flight that this thread itself runs already

    def ride(self, key: Hashable, identity: Hashable, job: Job[T]) -> T:
        flight = self._waiter.take(key, identity, job)
        if flight.thread == threading.get_ident():
            raise RuntimeError("a postprocess hook asked for its own product, and would wait for itself")
        self._flight = flight
        flight.on_end(self._wake.set)
        with self._cancel.watch(self._give_up):
            flight.run()
            self._wake.wait()
        self._cancel.check()
        return flight.result(identity, self._waiter)

    def _give_up(self) -> None:
        self._waiter.leave()
        self._wake.set()

    def leave(self) -> None:
        if self._flight is not None and self._flight.thread == threading.get_ident():  # Ctrl-C in the middle of its end
            self._flight.end()
        self._waiter.leave()
