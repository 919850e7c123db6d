"""Progress: what a person sees, or a callback is told, while bytes come or another process is waited for.

The only module that knows tqdm. Invariants: silence unless a terminal, a notebook or the caller asks; the bar starts no
thread (tqdm's monitor makes every later fork warn) and no semaphore; what is shown names no credential.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from . import config
from .callers import CallersError

__all__ = ["Display", "Progress", "ProgressOption", "shown"]

EVERY = 0.1  # seconds between two calls of a callback
PATIENCE = 0.3  # seconds of work before a bar appears: most artifacts are over by then


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one artifact is. `total` is None while it is unknown; sizes in bytes."""

    name: str
    done: int
    total: int | None
    holder: str | None = None  # the process that downloads it, if it is another one: "pid 4711 on node7"


ProgressOption = bool | Callable[[Progress], object] | None


def shown(option: ProgressOption, *, waiting: bool = False) -> bool:
    """Whether a bar is to be drawn: the caller's word, else NANOCACHE_PROGRESS, else a terminal or a notebook.

    Under a launcher every rank has the same terminal, so of the waiting ranks only local rank 0 says so.
    """
    if waiting and config.local_rank() != 0:
        return False
    asked = option if isinstance(option, bool) else config.progress()
    if asked is not None:
        return asked
    return "ipykernel" in sys.modules or _terminal()


def _terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # None in a daemon, a logger's stand-in that only writes, or closed
        return False


@cache
def _bar_class() -> Any:
    import importlib.util

    if "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets"):
        from tqdm import notebook as module
    else:
        from tqdm import std as module  # type: ignore[no-redef]
    base: Any = module.tqdm

    class Bar(base):  # type: ignore[misc]
        monitor_interval = 0

    Bar.set_lock(threading.RLock())
    return Bar


class Display:
    """One artifact's bar, or the caller's callback. Everything is lazy: unwatched it costs a comparison."""

    def __init__(self, option: ProgressOption, name: str) -> None:
        self._option, self.name = option, name  # the name may change while it is shown
        self._bar: Any = None
        self._label = ""
        self._bars: dict[bool, bool] = {}  # waiting -> shown
        self._called = 0.0
        self._last: Progress | None = None

    def report(self, done: int, total: int | None) -> None:
        """Bytes came, here."""
        self._show(Progress(self.name, done, total))

    def waiting(self, holder: str, done: int, total: int | None) -> None:
        """Another process holds the lock and says how far it is."""
        self._show(Progress(self.name, done, total, holder))

    def _show(self, progress: Progress) -> None:
        self._last = progress
        if callable(self._option):
            self._call(progress)
        elif self._drawn(progress.holder is not None):
            self._draw(progress)

    def _drawn(self, waiting: bool) -> bool:
        if waiting not in self._bars:
            self._bars[waiting] = shown(self._option, waiting=waiting)
        return self._bars[waiting]

    def _call(self, progress: Progress, *, final: bool = False) -> None:
        now = time.monotonic()
        if final or now - self._called >= EVERY:
            self._called, self._last = now, None
            try:
                self._option(progress)  # type: ignore[operator, misc]
            except CallersError:  # of a callback below this one
                raise
            except Exception as e:
                raise CallersError(e) from e

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = _bar_class()(
                total=progress.total,
                initial=progress.done,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                delay=PATIENCE,
            )
        bar = self._bar
        label = self.name if progress.holder is None else f"{self.name} ({progress.holder})"
        if label != self._label:
            self._label = label
            bar.set_description(label, refresh=False)
        bar.total = progress.total
        bar.update(progress.done - bar.n)

    def close(self) -> None:
        """Take the bar down; tell a callback the last word that it was spared."""
        if self._bar is not None:
            self._bar.close()
        if callable(self._option) and self._last is not None:
            self._call(self._last, final=True)
