"""A bar's signs of life while a call waits: for a first byte, a Retry-After, a slow disk.

Not the bar (`progress`). Invariant: none comes once the block is left, so that nothing is drawn over what follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..coordination.heartbeat import Heartbeat
from ..progress import Display

__all__ = ["ticking"]

TICK_EVERY = 0.3  # seconds


@contextmanager
def ticking(display: Display) -> Iterator[None]:
    """Have a bar appear and go on while the block runs, whatever it waits for."""
    if not display.is_bar:
        yield
        return
    heartbeat = Heartbeat(display.tick, TICK_EVERY)
    try:
        heartbeat.start()  # without a thread the bar goes on with what comes
        yield
    finally:
        heartbeat.stop()
