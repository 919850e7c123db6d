"""Work of a library that looks at no cancellation: in a thread of its own, which the caller can leave behind.

Not a pool: a thread for each piece of work, which ends with it. Invariants: the caller waits no longer than it said,
and not at all once its work is cancelled; at most two items lie between the two, so that memory stays flat; the thread
is told to stop before the caller goes on without it, and looks at that after each item.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ..cancel import Cancel, Cancelled

__all__ = ["aside", "one_aside"]

T = TypeVar("T")

LONGEST_JOIN = 0.25  # seconds that a thread gets to close what it opened, so that a fork soon after finds none
MOST_WAITING = 2  # items that may be ready before the caller takes one


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _Handover(Generic[T]):
    """The items between the thread that makes them and the caller that takes them."""

    def __init__(self, make: Callable[[], Iterator[T]], stop: Callable[[], None]) -> None:
        self._make = make
        self._stop = stop
        self._items: SimpleQueue[T | _End] = SimpleQueue()
        self._room = threading.Semaphore(MOST_WAITING)
        self._stopped = False
        self._pid = os.getpid()

    def run(self) -> None:
        """In the thread."""
        try:
            for item in self._make():
                self._room.acquire()
                if self._stopped:
                    break
                self._items.put(item)
            self.end(None)
        except BaseException as e:  # noqa: BLE001 - the caller's thread raises it
            self.end(e)

    def end(self, error: BaseException | None) -> None:
        self._items.put(_End(error))

    def take(self, timeout: float) -> T | _End:
        try:
            item = self._items.get(timeout=timeout)
        except Empty:
            raise TimeoutError(f"nothing came for {timeout:g} s") from None
        self._room.release()
        return item

    def stop(self) -> None:
        if os.getpid() != self._pid:  # a forked child that unwinds through it: the thread is its parent's
            return
        self._stopped = True
        self._room.release()
        self._stop()


def aside(make: Callable[[], Iterator[T]], stop: Callable[[], None], cancel: Cancel, timeout: float) -> Generator[T]:
    """The items that `make` gives. `stop` wakes it from another thread, as far as that can be done.

    Raises what `make` raises, TimeoutError if no item comes for `timeout` seconds, and Cancelled.
    """
    handover = _Handover(make, stop)
    thread = threading.Thread(target=handover.run, name="nanocache-reader", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread can be started: a limit of the user or the container
        yield from make()
        return
    try:
        with cancel.watch(partial(handover.end, Cancelled())):
            while not isinstance(item := handover.take(timeout), _End):
                yield item
        if item.error is not None:
            raise item.error
    finally:
        handover.stop()
        if not cancel.is_set():
            thread.join(LONGEST_JOIN)


def one_aside(make: Callable[[], T], cancel: Cancel, timeout: float) -> T:
    """What `make` returns; where the caller leaves first, its thread goes on until `make` returns."""
    with closing(aside(lambda: iter((make(),)), lambda: None, cancel, timeout)) as items:
        return next(items)
