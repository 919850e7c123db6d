"""Calls into torch that end: with their result, with a signal to the caller, or when their time is over.

torch waits for its store, and gloo for its peers, in C++: deaf to signals until that is over, and of a store that is
stopped, or behind a network that drops what it is sent, it waits without end (measured, torch 2.13: check, get, add,
compare_set and the constructor, whatever time-out they were given). So a thread waits for torch, and the caller waits
for the thread. Invariants: one call at a time, in order, as on the one connection behind it; the thread ends with its
work, so that a later fork warns of nothing; a call that was given up holds up its thread, which is not used again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["TorchCalls"]

IDLE_CALLS = 0.1  # seconds that the thread stays without a call: longer than most pauses between two looks
Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]] | None  # None: there will be no more


class TorchCalls:
    """A thread while there are calls to make."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._running = False
        self._thread: threading.Thread | None = None

    def call(self, seconds: float, function: Callable[..., Any], *args: Any) -> Any:
        """What `function(*args)` gives or raises. Raises TimeoutError after `seconds`; the call may yet be made."""
        future: Future[Any] = Future()
        with self._guard:
            if not self._running and not self._start():
                return function(*args)
            self._calls.put((future, function, args))
        try:
            return future.result(seconds)
        finally:
            del future  # or it holds an error whose traceback holds it, and what was called lives until it is collected

    def end(self, seconds: float) -> None:
        """Have the thread end, and wait for it, since one that is in torch while the interpreter ends aborts it."""
        with self._guard:
            if self._running:
                self._calls.put(None)
        if self._thread is not None:
            self._thread.join(seconds)

    def _start(self) -> bool:
        """Whether there is a thread now: none can be had once the interpreter ends."""
        self._running = True
        try:
            self._thread = threading.Thread(target=self._run, name="nanodist-torch-calls", daemon=True)
            self._thread.start()
        except RuntimeError:
            self._forget()
        except BaseException:  # Ctrl-C: a thread that never lived would be waited for
            self._forget()
            raise
        return self._running

    def _forget(self) -> None:
        self._running = False
        self._thread = None

    def _run(self) -> None:
        while (call := self._next()) is not None:
            future, function, args = call
            try:
                future.set_result(function(*args))
            except Exception as e:  # noqa: BLE001  the caller's
                future.set_exception(e)
            del call, future, function, args  # what they hold must not live until the next one comes

    def _next(self) -> Call:
        try:
            call = self._calls.get(timeout=IDLE_CALLS)
        except queue.Empty:
            call = None
        if call is None:
            with self._guard:
                if not self._calls.empty():
                    return self._calls.get()
                self._running = False
        return call
