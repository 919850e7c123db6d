"""The stream of items as it comes from the parent in the tree: written to this disk, and passed on meanwhile.

Not the tree (`tree`) and not the store's door (`nanocache.peers`). Invariants: each item that this process wants is
written by a thread of its own; a writer that fails or stalls is cut off, and the stream goes on to the children; what
did not come whole is thrown away.
"""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from nanocache.errors import NanocacheError
from nanocache.peer_products import ParcelRefused
from nanocache.peers import BlobRefused

from ..errors import from_record
from .buffers import STALL, BufferPool, Frame, FrameThread, hand_out
from .link import ALIVE_EVERY, Buffer, FrameKind, Link, LinkLost, LinkUnreachable
from .tree import ChildSender, TreePosition, child_senders

__all__ = ["IncomingItem", "Wanted", "receive"]

logger = logging.getLogger("nanodist")

WRITERS = 16  # items that may be on their way to disk at once: of small ones the fsync is nearly all the time


class IncomingItem(Protocol):
    """Where an item's bytes go on this disk, in order. Raises BlobRefused, ParcelRefused, OSError, errors of ours."""

    def write(self, data: memoryview) -> None: ...

    def publish(self) -> None:
        """All bytes came."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An item that this process wants. `place` is told what the source says of it."""

    name: str  # for people
    place: Callable[[dict[str, Any]], AbstractContextManager[IncomingItem]]


def receive(tree: TreePosition, wanted: Mapping[int, Wanted]) -> tuple[bool, dict[int, Exception]]:
    """Publish those of `wanted` that come, and pass everything on.

    Whether the stream came to its end, and the errors that it brought, by number. What is not here then is this
    process's own to get. Raises LinkUnreachable if no stream can come.
    """
    failures: dict[int, Exception] = {}
    with child_senders(tree) as senders:
        try:
            with _ParentStream(Link(tree.coordinator, tree.edge(tree.position), 1), senders) as stream:
                stream.run(wanted, failures)
        except LinkUnreachable:
            raise
        except LinkLost as e:
            logger.info("the stream broke off: %s", e)
            for sender in senders:
                sender.cut()
            return False, failures
    return True, failures


class _ParentStream:
    """The stream as it comes from above; a context manager that ends its link and its writers."""

    def __init__(self, link: Link, senders: list[ChildSender]) -> None:
        self._link = link
        self._senders = senders
        self._pool = BufferPool()
        self._writers: list[_DiskWriter] = []  # the last one may be that of the item that comes now
        self._current: _DiskWriter | None = None

    def __enter__(self) -> _ParentStream:
        return self

    def __exit__(self, *exc: object) -> None:
        """Wait for what is on its way to disk; throw away what did not come whole."""
        if self._current is not None:
            self._current.cut()
        self._link.close()
        for writer in self._writers:
            writer.join()

    def run(self, wanted: Mapping[int, Wanted], failures: dict[int, Exception]) -> None:
        """To the stream's end. Adds to `failures`. Raises LinkLost if the stream breaks off."""
        kind = FrameKind.ALIVE
        while kind is not FrameKind.BYE:
            kind, number, size = self._link.header()
            if kind is FrameKind.ALIVE:
                continue
            frame = self._read(kind, number, size)
            item = wanted.get(number)
            if item is not None and frame.buffer is not None:
                self._open(frame, frame.buffer, item, failures)
            self._pass_on(frame)

    def _read(self, kind: FrameKind, number: int, size: int) -> Frame:
        frame = Frame(kind, number, size, self._buffer() if size else None, self._pool)
        if frame.buffer is not None:
            self._link.body(frame.buffer, size)
        return frame

    def _buffer(self) -> Buffer:
        """A free buffer; a writer that keeps one for too long is cut off."""
        while True:
            with suppress(queue.Empty):
                return self._pool.take(ALIVE_EVERY)
            for writer in self._writers:
                if writer.stalled():
                    writer.cut()

    def _open(self, frame: Frame, buffer: Buffer, item: Wanted, failures: dict[int, Exception]) -> None:
        """Take note of what a frame says of a wanted item: its bytes begin, or its error."""
        if frame.kind is FrameKind.FAIL:
            with suppress(ValueError):  # an error of a class that only its own rank knows: this process asks for itself
                failures[frame.number] = from_record(_record(buffer, frame.size))
        if frame.kind is FrameKind.BEGIN:
            self._start_writer(_DiskWriter(item, _record(buffer, frame.size)))

    def _start_writer(self, writer: _DiskWriter) -> None:
        self._writers = [other for other in self._writers if other.is_alive()]
        if len(self._writers) >= WRITERS:
            self._writers[0].join(STALL)
            if self._writers[0].is_alive():
                return  # this disk is too slow for the others, and gets the item later
        self._current = writer
        writer.start()
        self._writers.append(writer)

    def _pass_on(self, frame: Frame) -> None:
        threads: list[FrameThread] = [*self._senders]
        if self._current is not None and frame.kind in (FrameKind.DATA, FrameKind.END):
            threads.append(self._current)
        hand_out(frame, threads)
        if frame.kind is FrameKind.END:
            self._current = None


def _record(buffer: Buffer, size: int) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(bytes(buffer.bytes[:size]))
    except ValueError as e:
        raise LinkLost(f"the parent sent a frame that is not JSON: {e}") from None
    return record


class _DiskWriter(FrameThread):
    """One item on its way to this disk."""

    def __init__(self, item: Wanted, record: dict[str, Any]) -> None:
        super().__init__("nanodist-write")
        self._item = item
        self._record = record

    def run(self) -> None:
        try:
            with self._item.place(self._record) as incoming:
                if self._write(incoming):
                    incoming.publish()
        except (NanocacheError, BlobRefused, ParcelRefused, OSError) as e:
            logger.warning("%s is not taken from a peer (%s); it comes another way", self._item.name, e)
        finally:
            self.cut()

    def _write(self, incoming: IncomingItem) -> bool:
        """Write until the item's end. False if this thread was cut off before."""
        while True:
            frame = self.next()
            if frame is None:
                return False
            try:
                if frame.kind is not FrameKind.DATA:
                    return True
                if frame.buffer is not None:
                    incoming.write(frame.buffer.bytes[: frame.size])
            finally:
                frame.release()
