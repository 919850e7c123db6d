"""The frames that pass through a process, and the threads that use them: each frame once in memory, whoever needs it.

A few buffers are the whole memory: one is free again when the last user has let go of its frame, so whoever fills the
next one is as fast as the slowest user, and no faster. Not the wire (`pair`) and not who gets what (`relay`).
Invariants: a frame that was given away is let go of exactly once, by whoever holds it last; a user that is cut off
holds at most the frame that it is at.
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

BUFFERS = 6
STALL = 4.0  # seconds at one frame that are too long for the others


@dataclass(slots=True)
class Frame:
    """A frame on its way through this process, whose buffer is free again once all its users have let go."""

    kind: FrameKind
    number: int = 0
    size: int = 0
    buffer: Buffer | None = None
    pool: BufferPool | None = None
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        with self.lock:
            self.users -= 1
            free = self.users == 0
        if free and self.buffer is not None and self.pool is not None:
            self.pool.put(self.buffer)


class BufferPool(queue.SimpleQueue[Buffer]):
    """The buffers. `FRAME_BYTES` bytes each, made when first needed."""

    def __init__(self) -> None:
        super().__init__()
        self._left = BUFFERS

    def take(self, seconds: float | None = None) -> Buffer:
        """A free one, waited for. Raises queue.Empty after `seconds`."""
        with suppress(queue.Empty):
            return self.get_nowait()
        if self._left:
            self._left -= 1
            return Buffer(FRAME_BYTES)
        return self.get(timeout=seconds)


class FrameThread(threading.Thread):
    """A thread that takes frames one after another, until there are no more or it is cut off."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._guard = threading.Lock()  # no frame may come in behind the last one that was let go
        self.gone = False  # takes nothing any more
        self._busy = time.monotonic()  # to begin with, at what it does before its first frame

    def give(self, frame: Frame) -> None:
        with self._guard:
            if not self.gone:
                self._frames.put(frame)
                return
        frame.release()

    def cut(self) -> None:
        """Take no more frames, and let go of those that wait."""
        with self._guard:
            self.gone = True
            with suppress(queue.Empty):
                while True:
                    if (frame := self._frames.get_nowait()) is not None:
                        frame.release()
            self._frames.put(None)

    def stalled(self) -> bool:
        """Whether it has been at one frame for longer than is good for the others."""
        return bool(self._busy) and time.monotonic() - self._busy > STALL

    def next(self, seconds: float | None = None) -> Frame | None:
        """The next frame; None once cut off. Raises queue.Empty."""
        self._busy = 0.0
        frame = self._frames.get(timeout=seconds)
        self._busy = time.monotonic()
        if frame is not None and self.gone:
            frame.release()
            return None
        return frame


def hand_out(frame: Frame, users: Iterable[FrameThread]) -> None:
    users = list(users)
    frame.users = len(users) + 1  # one more, so that nobody frees it before all have it
    for user in users:
        user.give(frame)
    frame.release()
