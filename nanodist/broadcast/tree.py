"""Items down a tree of processes: one reads them from its disk; the others write them and pass them on meanwhile.

            0               position 0 is the source; n passes on to 2n+1 and 2n+2
          1   2             each edge is a Link; each edge downwards and each item on its way to disk is a thread;
         3 4 5 6            a few buffers that all of these share are the whole memory

A pipeline and no collective: at any time the source reads, each edge carries and each disk writes another piece of the
stream. Invariants: a process that fails by itself (full disk, wrong digest) still passes on; a process that dies costs
only those below it their stream, and what was published stays; a stall is not passed upwards for long, because a
process waits the longer for its children the more levels are below it, so the nearest one to the stall ends it.
"""

from __future__ import annotations

import json
import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedIOBase, RawIOBase
from typing import Any

from ..coordination.coordinator import Coordinator
from .buffers import BufferPool, Frame, FrameThread, hand_out
from .link import ALIVE_EVERY, FrameKind, Link, LinkLost

__all__ = ["ChildSender", "Item", "TreePosition", "child_senders", "send"]

logger = logging.getLogger("nanodist")

FANOUT = 2  # children of a process
STEP = 5.0  # seconds that a process may stall, for each level of processes below it
THREAD_TIMEOUT = 2.0  # seconds that all threads together get to end

# Its number in the call, what is said of it, and its bytes; None: what is said is the error that each process gets.
Item = tuple[int, dict[str, Any], Callable[[], RawIOBase | BufferedIOBase] | None]


@dataclass(frozen=True, slots=True)
class TreePosition:
    """Where this process stands in the tree."""

    coordinator: Coordinator
    session: str
    position: int
    size: int

    def children(self) -> range:
        first = FANOUT * self.position + 1
        return range(min(first, self.size), min(first + FANOUT, self.size))

    def height(self) -> int:
        """Levels below this process."""
        height = 0
        first = FANOUT * self.position + 1
        while first < self.size:
            height += 1
            first = FANOUT * first + 1
        return height

    def edge(self, child: int) -> str:
        return f"{self.session}/{child}"


class ChildSender(FrameThread):
    """One edge downwards. Sends ALIVE while there is nothing else to send."""

    def __init__(self, tree: TreePosition, child: int) -> None:
        super().__init__("nanodist-send")
        self._tree = tree
        self._child = child

    def run(self) -> None:
        try:
            self._serve()
        except LinkLost as e:
            logger.info("process %d of %d is lost (%s); the others go on", self._child, self._tree.size, e)
            self.cut()

    def _serve(self) -> None:
        edge = self._tree.edge(self._child)
        link = Link(self._tree.coordinator, edge, 0, timeout=STEP * self._tree.height())
        try:
            while self._send_next(link):
                pass
        finally:
            link.close()

    def _send_next(self, link: Link) -> bool:
        """Whether there is more to come."""
        try:
            frame = self.next(ALIVE_EVERY)
        except queue.Empty:
            link.send(FrameKind.ALIVE)
            return True
        if frame is None:
            return False
        try:
            link.send(frame.kind, frame.number, frame.buffer, frame.size)
        finally:
            frame.release()
        return frame.kind is not FrameKind.BYE


@contextmanager
def child_senders(tree: TreePosition) -> Iterator[list[ChildSender]]:
    """The edges downwards. They end with a BYE; if the block raises, the children find them closed."""
    senders = [ChildSender(tree, child) for child in tree.children()]
    try:
        for sender in senders:
            sender.start()
        yield senders
        for sender in senders:
            sender.join()
    finally:
        _end(senders)


def _end(senders: list[ChildSender]) -> None:
    for sender in senders:
        sender.cut()
    deadline = time.monotonic() + THREAD_TIMEOUT
    for sender in senders:
        with suppress(RuntimeError):  # Ctrl-C came before it was started
            sender.join(max(0.0, deadline - time.monotonic()))


def send(tree: TreePosition, items: Iterable[Item]) -> None:
    """Send `items` down the tree, as they come; while the next one is not there yet, the edges stay alive.

    Ends early if every child is lost. Whatever `items` raises ends the stream for all below, which then look for
    another source.
    """
    pool = BufferPool()
    with child_senders(tree) as senders:
        for item in items:
            for frame in _frames(item, pool):
                hand_out(frame, senders)
                if all(sender.gone for sender in senders):
                    return
        hand_out(Frame(FrameKind.BYE), senders)


def _frames(item: Item, pool: BufferPool) -> Iterator[Frame]:
    number, record, opened = item
    if opened is None:
        yield _json_frame(FrameKind.FAIL, number, record, pool)
        return
    yield _json_frame(FrameKind.BEGIN, number, record, pool)
    with opened() as file:
        while True:
            buffer = pool.take()
            size = file.readinto(buffer.bytes)
            if not size:
                pool.put(buffer)
                break
            yield Frame(FrameKind.DATA, number, size, buffer, pool)
    yield Frame(FrameKind.END, number)


def _json_frame(kind: FrameKind, number: int, record: dict[str, Any], pool: BufferPool) -> Frame:
    text = json.dumps(record).encode()
    buffer = pool.take()
    buffer.bytes[: len(text)] = text
    return Frame(kind, number, len(text), buffer, pool)
