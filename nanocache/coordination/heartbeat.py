"""Calls that come in time for as long as a process holds a lock: its signs of life to other processes.

For the whole hold and not for parts of it: a first byte, a connection, a hash, an fsync or a hook may each take longer
than other hosts wait for a sign. One thread serves all holds of a process, and stays for a moment after the last one: a
thread for each hold costs a small file 60 us of CPU, and this 5. It looks 20 times a second (0.03% of a core) and so
is never woken.

Invariants: nothing is called for a hold once `stop` has returned; the thread ends within a second of the last hold, and
before a fork; where none can be started `start` says so; a forked child has no holds, and waits for no thread of its
parent. A disk that hangs in one call holds up the signs of all holds, as it holds up the work on it.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections.abc import Callable

__all__ = ["DELAY", "Heartbeat"]

DELAY = 0.05  # seconds from the start of a hold to its first sign: most artifacts are small, and over by then
LOOK_EVERY = 0.05  # seconds between two looks at what is due
EMPTY_LOOKS = 2  # looks without a hold after which the thread ends


class Heartbeat:
    """Calls `beat`, which raises nothing, `DELAY` seconds after `start` and then every `seconds`, until `stop`."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self._beat = beat
        self._seconds = seconds
        self._due = 0.0
        self._pid = os.getpid()
        self._calling = threading.Lock()  # held during a call, so that none comes after `stop`
        self._stopped = False

    def start(self) -> bool:
        """Whether the calls will come: False where no thread can be started."""
        self._due = time.monotonic() + DELAY
        with _lock:
            _beating.add(self)
            try:
                _have_thread()
            except RuntimeError:  # a limit of the user or the container, or the interpreter is ending
                _beating.discard(self)
                return False
        return True

    def stop(self) -> None:
        """No call comes any more, and none runs. Again is harmless."""
        self._stopped = True
        _beating.discard(self)
        if os.getpid() == self._pid:
            with self._calling:
                pass

    def tick(self) -> None:
        """Make the call that is due."""
        with self._calling:
            now = time.monotonic()
            if now >= self._due and not self._stopped:
                self._due = now + self._seconds
                self._beat()


class _Ticker:
    """The thread. A bare one: threading.Thread takes four times as long to start."""

    def __init__(self) -> None:
        self._over = _thread.allocate_lock()  # held until `end`
        self._ended = _thread.allocate_lock()  # held while the thread lives
        self._empty = 0  # looks since there was a hold

    def start(self) -> None:
        """Raises RuntimeError where there can be no thread that an ending interpreter leaves alone."""
        if not getattr(_thread, "daemon_threads_allowed", lambda: True)():
            raise RuntimeError("an isolated interpreter waits for its threads")
        self._over.acquire()
        self._ended.acquire()
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            while not self._over.acquire(timeout=LOOK_EVERY) and self._expected():
                for heartbeat in _beating.copy():
                    heartbeat.tick()
        finally:
            self._ended.release()

    def _expected(self) -> bool:
        """Whether this thread goes on."""
        global _ticker
        with _lock:
            self._empty = 0 if _beating else self._empty + 1
            if self._empty > EMPTY_LOOKS and _ticker is self:
                _ticker = None  # in this step, or a hold could count on a thread that leaves
            return _ticker is self

    @property
    def alive(self) -> bool:
        return self._ended.locked()

    def end(self) -> None:
        self._over.release()
        with self._ended:
            pass


_lock = threading.Lock()
_beating: set[Heartbeat] = set()
_ticker: _Ticker | None = None


def _have_thread() -> None:
    """Start the thread, unless it is there. Raises RuntimeError."""
    global _ticker
    if _ticker is not None and _ticker.alive:
        return
    ticker = _Ticker()
    ticker.start()
    _ticker = ticker


def _before_fork() -> None:
    """End a thread that has no holds: from Python 3.12 on, a fork beside any thread warns."""
    global _ticker
    with _lock:
        ticker = None if _beating else _ticker
        if ticker is not None:
            _ticker = None
    if ticker is not None:
        ticker.end()


def _reset() -> None:
    global _lock, _ticker
    _lock = threading.Lock()  # a thread of the parent may have held it
    _ticker = None  # it is the parent's
    _beating.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_reset)
