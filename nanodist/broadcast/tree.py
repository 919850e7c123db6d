"""Artifacts down a tree of processes: one reads them from its disk, the others write them, and pass on while they do.

            0               position 0 is the source; n passes on to 2n+1 and 2n+2
          1   2             each edge is a Link, each outlet and each artifact on its way to disk a thread,
         3 4 5 6            and a few buffers that all of them share are the whole memory

A pipeline and no collective: at any time the source reads, each edge carries and each disk writes another piece of the
stream. Invariants: a member that fails on its own account (full disk, wrong digest) goes on relaying; one that is gone
costs those below it their stream, and nobody else's, and what was published stays; nobody's stall is passed upwards for
long: who is nearest to it ends it, because patience grows with height.
"""

from __future__ import annotations

import json
import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanocache import Artifact
from nanocache.errors import NanocacheError
from nanocache.peers import BlobInfo, BlobRefused, IncomingBlob

from ..coordination.coordinator import Coordinator
from ..errors import from_record
from .buffers import STALL, BufferPool, Frame, FrameThread, hand_out
from .link import ALIVE_EVERY, Buffer, FrameKind, Link, LinkLost, LinkUnreachable

__all__ = ["Item", "TreePosition", "receive", "send"]

logger = logging.getLogger("nanodist")

FANOUT = 2
STEP = 5.0  # seconds that a member may be stalled, for each level of members below it
SYNCING = 16  # artifacts that may be on their way to disk at once: of small ones the fsync is nearly all the time
THREAD_TIMEOUT = 2.0  # seconds that a thread gets to end

Item = tuple[int, Path, BlobInfo] | tuple[int, dict[str, Any]]  # number in the call, and the blob or its error's record
OpenBlob = Callable[[Artifact, BlobInfo], AbstractContextManager[IncomingBlob]]  # where an artifact goes on this disk


@dataclass(frozen=True, slots=True)
class TreePosition:
    """Where this process stands in it."""

    at: Coordinator
    session: str
    position: int
    size: int

    def children(self) -> range:
        first = FANOUT * self.position + 1
        return range(min(first, self.size), min(first + FANOUT, self.size))

    def height(self) -> int:
        """Levels below this member."""
        height, first = 0, FANOUT * self.position + 1
        while first < self.size:
            height, first = height + 1, FANOUT * first + 1
        return height

    def edge(self, child: int) -> str:
        return f"{self.session}/{child}"


class _ChildSender(FrameThread):
    """One edge downwards. Says ALIVE while there is nothing to send."""

    def __init__(self, tree: TreePosition, child: int) -> None:
        super().__init__("nanodist-send")
        self._tree, self._child = tree, child

    def run(self) -> None:
        try:
            pair = Link(self._tree.at, self._tree.edge(self._child), 0, timeout=STEP * self._tree.height())
        except LinkLost as e:
            self._lost(e)
            return
        try:
            while self._one(pair):
                pass
        except LinkLost as e:
            self._lost(e)
        finally:
            pair.close()

    def _one(self, pair: Link) -> bool:
        try:
            frame = self.next(ALIVE_EVERY)
        except queue.Empty:
            pair.send(FrameKind.ALIVE)
            return True
        if frame is None:
            return False
        try:
            pair.send(frame.kind, frame.number, frame.buffer, frame.size)
        finally:
            frame.release()
        return frame.kind is not FrameKind.BYE

    def _lost(self, error: LinkLost) -> None:
        logger.info("member %d of %d is lost (%s); the others go on", self._child, self._tree.size, error)
        self.cut()


class _DiskWriter(FrameThread):
    """One artifact's way to this disk."""

    def __init__(self, artifact: Artifact, promised: BlobInfo, open_place: OpenBlob) -> None:
        super().__init__("nanodist-write")
        self._artifact, self._promised, self._place = artifact, promised, open_place

    def run(self) -> None:
        try:
            with self._place(self._artifact, self._promised) as place:
                while (frame := self.next()) is not None and frame.kind is FrameKind.DATA:
                    try:
                        if frame.buffer is not None:
                            place.write(frame.buffer.bytes[: frame.size])
                    finally:
                        frame.release()
                if frame is not None:
                    frame.release()
                    place.publish()
        except (NanocacheError, BlobRefused, OSError) as e:
            logger.warning("%s is not taken from a peer (%s); it is downloaded", self._artifact, e)
        finally:
            self.cut()


# --- the source -------------------------------------------------------------------------------------------------------


def send(tree: TreePosition, items: Iterable[Item]) -> None:
    """Send `items` down the tree, as they come; a source that waits for the next one is no lost one.

    Ends early if nobody is left who listens. Whatever `items` raises ends the stream for all below, who then look for
    another source.
    """
    pool = BufferPool()
    with _child_senders(tree) as outlets:
        for item in items:
            for frame in _frames(item, pool):
                hand_out(frame, outlets)
                if all(outlet.gone for outlet in outlets):
                    return
        hand_out(Frame(FrameKind.BYE), outlets)


def _frames(item: Item, pool: BufferPool) -> Iterator[Frame]:
    if len(item) == 2:
        yield _text(FrameKind.FAIL, item[0], item[1], pool)
        return
    number, path, blob = item
    yield _text(FrameKind.BEGIN, number, blob.to_json(), pool)
    with open(path, "rb", buffering=0) as file:
        while True:
            buffer = pool.take()
            if not (size := file.readinto(buffer.bytes)):
                pool.put(buffer)
                break
            yield Frame(FrameKind.DATA, number, size, buffer, pool)
    yield Frame(FrameKind.END, number)


def _text(kind: FrameKind, number: int, record: dict[str, Any], pool: BufferPool) -> Frame:
    text = json.dumps(record).encode()
    buffer = pool.take()
    buffer.bytes[: len(text)] = text
    return Frame(kind, number, len(text), buffer, pool)


# --- all others -------------------------------------------------------------------------------------------------------


def receive(
    tree: TreePosition, wanted: Mapping[int, Artifact], open_place: OpenBlob
) -> tuple[bool, dict[int, Exception]]:
    """Publish those of `wanted` that come, and pass everything on.

    Whether the stream came to its end, and the errors that it brought, by number. What is not here then is this
    process's own to get. Raises LinkUnreachable if no stream can come.
    """
    inlet = None
    with _child_senders(tree) as outlets:
        try:
            pair = Link(tree.at, tree.edge(tree.position), 1)
            inlet = _ParentStream(pair, outlets, wanted, open_place)
            try:
                inlet.run()
            finally:
                inlet.close()
        except LinkUnreachable:
            raise
        except LinkLost as e:
            logger.info("the stream of artifacts broke off: %s", e)
            for outlet in outlets:
                outlet.cut()
            return False, inlet.failures if inlet else {}
        return True, inlet.failures


class _ParentStream:
    """The stream as it comes from above."""

    def __init__(
        self, pair: Link, outlets: list[_ChildSender], wanted: Mapping[int, Artifact], open_place: OpenBlob
    ) -> None:
        self._pair, self._outlets, self._wanted, self._place = pair, outlets, wanted, open_place
        self._pool = BufferPool()
        self._intakes: list[_DiskWriter] = []  # the last one is that of the artifact that comes now
        self._current: _DiskWriter | None = None
        self.failures: dict[int, Exception] = {}

    def run(self) -> None:
        """To the stream's end. Raises LinkLost if it breaks off."""
        kind = FrameKind.ALIVE
        while kind is not FrameKind.BYE:
            kind, number, size = self._pair.header()
            if kind is FrameKind.ALIVE:
                continue
            frame = Frame(kind, number, size, self._buffer() if size else None, self._pool)
            if frame.buffer is not None:
                self._pair.body(frame.buffer, size)
            self._take(frame)

    def _buffer(self) -> Buffer:
        while True:
            with suppress(queue.Empty):
                return self._pool.take(ALIVE_EVERY)
            for intake in self._intakes:
                if intake.stalled():
                    intake.cut()

    def _take(self, frame: Frame) -> None:
        if (
            frame.kind in (FrameKind.BEGIN, FrameKind.FAIL)
            and frame.number in self._wanted
            and frame.buffer is not None
        ):
            self._open(frame, _record(frame.buffer, frame.size))
        own = [self._current] if self._current is not None and frame.kind in (FrameKind.DATA, FrameKind.END) else []
        hand_out(frame, [*self._outlets, *own])
        if frame.kind is FrameKind.END:
            self._current = None

    def _open(self, frame: Frame, record: dict[str, Any]) -> None:
        if frame.kind is FrameKind.FAIL:
            with suppress(ValueError):  # an error that only its own rank knows: each asks for himself
                self.failures[frame.number] = from_record(record)
            return
        self._intakes = [intake for intake in self._intakes if intake.is_alive()]
        if len(self._intakes) >= SYNCING:
            self._intakes[0].join(STALL)
            if self._intakes[0].is_alive():
                return  # this disk is too slow for the others, and gets it later
        with suppress(BlobRefused):
            artifact = self._wanted[frame.number]
            self._current = _DiskWriter(artifact, BlobInfo.from_json(record), self._place)
            self._current.start()
            self._intakes.append(self._current)

    def close(self) -> None:
        """Wait for what is on its way to disk; throw away what did not come whole."""
        if self._current is not None:
            self._current.cut()
        self._pair.close()
        for intake in self._intakes:
            intake.join()


def _record(buffer: Buffer, size: int) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(bytes(buffer.bytes[:size]))
    except ValueError as e:
        raise LinkLost(f"a frame that is none of ours: {e}") from None
    return record


# --- both -------------------------------------------------------------------------------------------------------------


@contextmanager
def _child_senders(tree: TreePosition) -> Iterator[list[_ChildSender]]:
    """The edges downwards. They end with a BYE; if the block raises, those below find them closed."""
    outlets = [_ChildSender(tree, child) for child in tree.children()]
    try:
        for outlet in outlets:
            outlet.start()
        yield outlets
        for outlet in outlets:
            outlet.join()
    finally:
        for outlet in outlets:
            outlet.cut()
        deadline = time.monotonic() + THREAD_TIMEOUT
        for outlet in outlets:
            with suppress(RuntimeError):  # Ctrl-C came before it was started
                outlet.join(max(0.0, deadline - time.monotonic()))
