"""Threads that come when there is something to wait for, and go when there is nothing to do.

Python runs one thread at a time. A second one helps while the first waits for a disk or a server; once they keep a core
busy between them, each further one only has the others wait for the interpreter at every call that lets go of it:
16 threads took 1.5 times as long as two for 500 small files on a fast disk. So a pool begins with a few, and doubles
as long as jobs wait and its threads do, too, or are all at long jobs.

A hook may use `afetch`, and then its thread waits for another one. Each depth of hooks has a pool of its own, so that
sixteen hooks do not wait for the sixteen threads that they keep busy; a thread is as deep as what it does it for.

Not concurrent.futures: its threads idle until the process ends, so every later fork warns (Python 3.12), and they are
joined before `atexit` runs, so that a stalled download would hold the interpreter. Invariants: at most `limit` threads,
and one that looks after them while jobs wait; none outlives its work by more than `IDLE_THREAD` seconds; a forked child
starts with none.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..callers import suppress
from ..cancel import at_depth, hook_depth

__all__ = ["ThreadPool", "submit"]

LIMIT = 16  # threads that `afetch` hops to
FEW = 2  # threads to begin with
LOOK = 0.03  # seconds between two looks at how busy they are
BUSY = 0.5  # of a core: beyond it more threads are no help
STUCK = 0.1  # seconds in which no job begins: then all threads are at long jobs, busy or not
IDLE_THREAD = 0.5  # seconds


def _thread(run: Callable[[], None], name: str) -> threading.Thread:
    """A daemon; in an isolated subinterpreter, which has none and waits for its threads, one that soon ends."""
    try:
        return threading.Thread(target=run, name=name, daemon=True)
    except RuntimeError:
        return threading.Thread(target=run, name=name, daemon=False)


class ThreadPool:
    """At most `limit` threads, daemons where there are any."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._ready = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self.threads: set[threading.Thread] = set()
        self.idle = 0
        self._taken = 0.0  # when a thread took its last job, in seconds of the monotonic clock
        self._steward: threading.Thread | None = None
        self._closed = threading.Event()

    def submit(self, job: Callable[[], None]) -> None:
        """Have `job`, which raises nothing, run in a thread of the pool."""
        if depth := hook_depth():
            job = partial(at_depth, depth, job)
        with self._ready:
            self._jobs.append(job)
            if self.idle >= len(self._jobs):
                self._ready.notify()
                return
            steward = self._steward
        try:
            if not self._add(FEW) and steward is None and len(self.threads) < self.limit:
                self._look_after()
        except RuntimeError:  # no thread can be started: a limit of the user or the container
            self._do_without()

    def _do_without(self) -> None:
        """Run what waits in the calling thread, if there is no other."""
        while not self.threads:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            job()

    def close(self) -> None:
        """Forget what has not begun, and return once all that has is over. Again is harmless."""
        self._jobs.clear()
        self._closed.set()
        with self._ready:
            self._ready.notify_all()
        for thread in [*self.threads, self._steward]:
            if thread is not None:
                with suppress(RuntimeError):  # Ctrl-C came before it was started
                    thread.join()

    def _add(self, limit: int) -> bool:
        """One thread more, unless there are `limit` already."""
        thread = _thread(self._run, "nanocache-fetch")
        try:
            with self._ready:
                if len(self.threads) >= min(limit, self.limit):
                    return False
                self.threads.add(thread)
            thread.start()
        except BaseException:  # no more threads, or Ctrl-C: one that is counted and never lived would block a place
            self.threads.discard(thread)
            raise
        return True

    def _next(self) -> Callable[[], None] | None:
        with self._ready:
            self.idle += 1
            self._ready.wait_for(lambda: bool(self._jobs) or self._closed.is_set(), timeout=IDLE_THREAD)
            self.idle -= 1
            if self._jobs:
                self._taken = time.monotonic()
                return self._jobs.popleft()
            # In this step, or a job could wait for a thread that leaves.
            self.threads.discard(threading.current_thread())
            return None

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                job()
                del job  # what it holds must not live until the next one comes
        finally:
            with self._ready:
                self.threads.discard(threading.current_thread())

    # --- how many they are --------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        steward = _thread(self._grow, "nanocache-steward")
        try:
            self._steward = steward
            steward.start()
        except BaseException:
            self._steward = None
            raise

    def _grow(self) -> None:
        """Add threads as long as jobs wait while the threads idle."""
        try:
            while self._add_if_idle(self._busy()):
                pass
        except RuntimeError:
            self._steward = None  # there can be no more threads: those that are there do it

    def _busy(self) -> float:
        """The share of a core that the threads keep busy together, over the next `LOOK` seconds."""
        used = self._used()
        since = time.monotonic()
        self._closed.wait(LOOK)
        return (self._used() - used) / (time.monotonic() - since)

    def _add_if_idle(self, busy: float) -> bool:
        """False once there is nothing left to look after."""
        with self._ready:
            count = len(self.threads)
            waiting = len(self._jobs)
            if not waiting or count >= self.limit:
                self._steward = None  # in this step, or a job that comes now would find a steward that leaves
                return False
            stuck = time.monotonic() - self._taken >= STUCK
        if busy < BUSY or stuck:
            for _ in range(min(count, waiting)):
                self._add(self.limit)
        return True

    def _used(self) -> float:
        """Seconds of CPU that the threads have used so far; none where threads have no clock (macOS)."""
        if not hasattr(time, "pthread_getcpuclockid"):
            return 0.0
        with self._ready:  # as long as they are counted they live
            idents = [thread.ident for thread in self.threads if thread.ident is not None]
            return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in idents)


_pools: dict[int, ThreadPool] = {}  # by the depth of hooks in which their jobs are submitted


def submit(job: Callable[[], None]) -> None:
    """Have `job`, which raises nothing, run in a thread of the process's own pools."""
    depth = hook_depth()
    pool = _pools.get(depth) or _pools.setdefault(depth, ThreadPool(LIMIT))
    pool.submit(job)


def _reset() -> None:
    _pools.clear()  # the threads are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
