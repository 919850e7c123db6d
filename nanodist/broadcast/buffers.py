"""The frames that pass through a process, and the threads that use them: each frame is in memory once for all threads.

A few buffers are the whole memory. A buffer is free again when the last thread has released its frame, so the thread
that fills buffers is as fast as the slowest one that empties them. Not the wire (`link`) and not the tree (`tree`).
Invariants: each thread releases a frame that it was given exactly once; a thread that is cut off holds at most the
frame that it is at.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from .link import FRAME_BYTES, Buffer, FrameKind

__all__ = ["STALL", "Frame", "BufferPool", "FrameThread", "hand_out"]

BUFFERS = 6  # of a process, FRAME_BYTES each
STALL = 4.0  # seconds that a thread may take for one frame before it holds up the others too much


@dataclass(slots=True)
class Frame:
    """A frame on its way through this process. Its buffer is free again once every thread has released it."""

    kind: FrameKind
    number: int = 0
    size: int = 0
    buffer: Buffer | None = None
    pool: BufferPool | None = None
    holders: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        with self.lock:
            self.holders -= 1
            free = self.holders == 0
        if free and self.buffer is not None and self.pool is not None:
            self.pool.put(self.buffer)


class BufferPool(queue.SimpleQueue[Buffer]):
    """The buffers, each made when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        self._not_made = BUFFERS

    def take(self, seconds: float | None = None) -> Buffer:
        """A free one, waited for. Raises queue.Empty after `seconds`."""
        with suppress(queue.Empty):
            return self.get_nowait()
        if self._not_made:
            self._not_made -= 1
            return Buffer(FRAME_BYTES)
        return self.get(timeout=seconds)


class FrameThread(threading.Thread):
    """A thread that takes frames one after another, until there are no more or it is cut off."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._guard = threading.Lock()  # against a frame that is queued after `cut` has emptied the queue
        self._frame_begun = time.monotonic()  # 0.0 between two frames; the time before its first frame counts
        self.gone = False  # takes no more frames

    def give(self, frame: Frame) -> None:
        with self._guard:
            if not self.gone:
                self._frames.put(frame)
                return
        frame.release()

    def cut(self) -> None:
        """Take no more frames, and release those that wait."""
        with self._guard:
            self.gone = True
            self._release_waiting()
            self._frames.put(None)

    def _release_waiting(self) -> None:
        with suppress(queue.Empty):
            while True:
                frame = self._frames.get_nowait()
                if frame is not None:
                    frame.release()

    def stalled(self) -> bool:
        """Whether it has been at one frame for longer than is good for the others."""
        return bool(self._frame_begun) and time.monotonic() - self._frame_begun > STALL

    def next(self, seconds: float | None = None) -> Frame | None:
        """The next frame; None once cut off. Raises queue.Empty."""
        self._frame_begun = 0.0
        frame = self._frames.get(timeout=seconds)
        self._frame_begun = time.monotonic()
        if frame is not None and self.gone:
            frame.release()
            return None
        return frame


def hand_out(frame: Frame, threads: Iterable[FrameThread]) -> None:
    """Give `frame` to all of `threads`, and release it."""
    receivers = list(threads)
    frame.holders = len(receivers) + 1  # the caller holds it too, so that it is not free before all threads have it
    for thread in receivers:
        thread.give(frame)
    frame.release()
