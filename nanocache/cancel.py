"""Cancellation: one event that a whole flight looks at, and that can wake what cannot look.

Not a timeout and not an exception of the public API. Invariants: once set it stays set; a callback watched while or
before it is set runs exactly once, in the thread that sets it. A blocked `recv` looks at no event, so the transfer
watches with a callback that shuts its socket down: with the event alone, a stalled read went on for its whole timeout.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from .scope import Scoped

__all__ = ["Cancel", "Cancelled", "ambient", "at_depth", "hook_depth", "within"]

T = TypeVar("T")


class Cancelled(Exception):
    """The work was called off. No waiter adopts it as a result: the next caller that wants the artifact takes over."""


class Cancel:
    """Set once, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._watchers: dict[object, Callable[[], None]] = {}

    def set(self) -> None:
        """Cancel, and run every watching callback."""
        with self._lock:
            self._event.set()
            watchers, self._watchers = list(self._watchers.values()), {}
        for callback in watchers:
            callback()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise Cancelled if it is set: call once per chunk and per poll."""
        if self._event.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Sleep, but raise Cancelled as soon as it is set."""
        if self._event.wait(seconds):
            raise Cancelled

    @contextmanager
    def watch(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` called if it is set while the block runs (at once if it is set already)."""
        token = object()
        with self._lock:
            if not (already := self._event.is_set()):
                self._watchers[token] = callback
        if already:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._watchers.pop(token, None)


@dataclass(frozen=True, slots=True)
class _Hooks:
    """Those that the running code is in: the cancellation of the innermost, and how many they are."""

    cancel: Cancel | None
    depth: int


_hooks = Scoped("nanocache hooks", _Hooks(None, 0))


def ambient() -> Cancel:
    """The cancellation that the caller's hook runs under, for what the hook calls; outside of one, a new one."""
    return _hooks.get().cancel or Cancel()


def hook_depth() -> int:
    """How many hooks the running code is in: each waits for what it calls."""
    return _hooks.get().depth


def within(cancel: Cancel, step: Callable[[], T]) -> T:
    """What `step` gives, which is the caller's code: it runs under `cancel`, and takes no argument to carry that."""
    return _hooks.call(_Hooks(cancel, hook_depth() + 1), step)


def at_depth(depth: int, step: Callable[[], T]) -> T:
    """What `step` gives in a thread that does it for code so many hooks deep."""
    return _hooks.call(_Hooks(None, depth), step)
