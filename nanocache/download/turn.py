"""Whose turn it is: of several downloads that one caller has under way, the one that is wanted first.

Not a priority of the system, and not a limit. Invariant: a download that is not first keeps to one connection; it says
when it can use no more, so that the next ones begin only then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Turn"]


class Turn:
    """Shared by a download, which reads `first` and settles, and its caller, which sets `first`."""

    def __init__(self, on_settled: Callable[[], None]) -> None:
        self.first = False
        self.came = False  # the download itself published what it brought: nothing of it was here before
        self.afterwards: Callable[[], None] = lambda: None  # what the download has left to do once its caller has it
        self._settled = threading.Event()
        self._on_settled = on_settled

    @property
    def is_settled(self) -> bool:
        return self._settled.is_set()

    def settle(self) -> None:
        """More connections would be no help: the line, or what is left of it, is free for the next."""
        if not self._settled.is_set():
            self._settled.set()
            self._on_settled()
