"""Progress: what a person sees, or a callback is told, while bytes come or another process is waited for.

The only module that knows tqdm. Invariants: silence unless a terminal, a notebook or the caller asks; a bar appears
within a second of work, also while nothing comes, if something calls `tick`; it starts no thread (tqdm's monitor makes
every later fork warn) and no semaphore; what is shown names no credential.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from . import config
from .callers import call_back, let_pass

__all__ = ["Display", "Progress", "ProgressOption", "shown"]

EVERY = 0.1  # seconds between two calls of a callback
REFRESH = 0.9  # seconds after which a bar is drawn anew though nothing came: its clock is a sign of life
FIGURES = 48  # columns of a line without its label and with a short bar
LEAST_LABEL = 10  # columns
PATIENCE = 0.3  # seconds of work before a bar appears: most artifacts are over by then


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one artifact is. `total` is None while it is unknown; sizes in bytes."""

    kind: ClassVar[str] = "progress"
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


def _new_bar(progress: Progress) -> Any:
    units: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    bar = _bar_class()(total=progress.total, initial=progress.done, delay=1e-9, **units)
    bar.delay = 0.0  # it was there so that nothing was drawn without the label, for which the width must be known
    return bar


def _abandon(bar: Any) -> None:
    """Have nothing more to do with a bar that could not be drawn: tqdm left its lock to the thread that tried."""
    if bar is not None:
        bar.disable = True
    _bar_class().set_lock(threading.RLock())


def _fitting(label: str, columns: int | None) -> str:
    """`label`, its middle cut out if the figures and a short bar had no room beside it."""
    room = len(label) if columns is None else max(LEAST_LABEL, columns - FIGURES)
    if len(label) <= room:
        return label
    head = (room - 3) // 2
    return f"{label[:head]}...{label[len(label) - (room - 3 - head) :]}"


class Display:
    """One artifact's bar, or the caller's callback. Everything is lazy: unwatched it costs a comparison."""

    def __init__(self, option: ProgressOption, name: str) -> None:
        self._option, self.name = option, name  # the name may change while it is shown
        self._bar: Any = None
        self._label = ""
        self._bars: dict[bool, bool] = {}  # waiting -> shown
        self._called = 0.0
        self._last: Progress | None = None
        self._since = time.monotonic()
        self._refreshed = 0.0
        self._drawing = threading.Lock()  # `tick` comes from another thread
        self._over = False  # closed, or its stream is gone

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
            call_back(self._option, progress)  # type: ignore[arg-type]

    @property
    def is_bar(self) -> bool:
        """Whether a bar may be drawn before it is known which process does the work."""
        return not callable(self._option) and self._drawn(False) and self._drawn(True)

    def tick(self) -> None:
        """A sign of life of a bar: it appears although nothing came yet, or its clock goes on."""
        self._draw(self._last or Progress(self.name, 0, None))

    def _draw(self, progress: Progress) -> None:
        if time.monotonic() - self._since < PATIENCE:
            return
        with self._drawing, self._unless_gone():
            if not self._over:
                self._bar = _new_bar(progress) if self._bar is None else self._bar
                self._update(self._bar, progress)

    @contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """Draw no more once stderr is missing, closed, or its reader gone: no reason to fail a download."""
        try:
            yield
        except (OSError, ValueError, AttributeError) as e:
            self._over = True
            _abandon(self._bar)
            self._bar = None
            let_pass(e)

    def _update(self, bar: Any, progress: Progress) -> None:
        label = self.name if progress.holder is None else f"{self.name} ({progress.holder})"
        if label != self._label:
            self._label = label
            bar.set_description_str(_fitting(label, bar.ncols), refresh=False)
        bar.total = progress.total
        now = time.monotonic()
        drawn = bar.update(progress.done - bar.n)
        due = now - self._refreshed >= REFRESH
        if due and not drawn:
            bar.refresh()
        if due or drawn:
            self._refreshed = now

    def close(self) -> None:
        """Take the bar down; tell a callback the last word that it was spared."""
        with self._drawing, self._unless_gone():
            self._over = True
            if self._bar is not None:
                self._bar.close()
        if callable(self._option) and self._last is not None:
            self._call(self._last, final=True)
