"""What a fetch says while it works: to waiting processes, to the caller's display, and to a listener of its events.

Not what is said (`progress`, `events`, `coordination.holder`). Invariant: all of it is said by the thread that works.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from .. import events
from ..coordination.holder import HolderWriter
from ..events import Wait
from ..progress import Display, Progress

__all__ = ["Report", "WaitReport"]


@dataclass(frozen=True, slots=True)
class Report:
    """Tells how far a download is."""

    writer: HolderWriter
    display: Display

    def __call__(self, done: int, total: int | None) -> None:
        self.writer.report(done, total)
        self.display.report(done, total)
        if events.is_heard():
            events.tell(Progress(self.display.name, done, total))


class WaitReport:
    """Tells how far the process is that is waited for, and, once the wait is over, how long it was."""

    def __init__(self, url: str, display: Display) -> None:
        self._url = url
        self._display = display
        self._began = time.monotonic()
        self._holder: str | None = None  # the last one that was seen

    def __call__(self, holder: str, done: int, total: int | None) -> None:
        self._holder = holder
        self._display.waiting(holder, done, total)
        if events.is_heard():
            events.tell(Progress(self._display.name, done, total, holder))

    def end(self) -> None:
        """The lock is held, or what was waited for is here. A wait that was too short to see its holder is none."""
        if self._holder is not None:
            events.tell(Wait(self._url, self._holder, time.monotonic() - self._began))
            self._holder = None
