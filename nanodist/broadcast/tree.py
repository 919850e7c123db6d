"""Artifacts down a tree of processes: one reads them from its disk; the others write them and pass them on meanwhile.

            0               position 0 is the source; n passes on to 2n+1 and 2n+2
          1   2             each edge is a Link; each edge downwards and each artifact on its way to disk is a thread;
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

FANOUT = 2  # children of a process
STEP = 5.0  # seconds that a process may stall, for each level of processes below it
WRITERS = 16  # artifacts that may be on their way to disk at once: of small ones the fsync is nearly all the time
THREAD_TIMEOUT = 2.0  # seconds that all threads together get to end

Item = tuple[int, Path, BlobInfo] | tuple[int, dict[str, Any]]  # number in the call, and the blob or its error's record
OpenBlob = Callable[[Artifact, BlobInfo], AbstractContextManager[IncomingBlob]]  # where an artifact goes on this disk


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


class _ChildSender(FrameThread):
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


class _DiskWriter(FrameThread):
    """One artifact on its way to this disk."""

    def __init__(self, artifact: Artifact, promised: BlobInfo, open_blob: OpenBlob) -> None:
        super().__init__("nanodist-write")
        self._artifact = artifact
        self._promised = promised
        self._open_blob = open_blob

    def run(self) -> None:
        try:
            with self._open_blob(self._artifact, self._promised) as blob:
                if self._write(blob):
                    blob.publish()
        except (NanocacheError, BlobRefused, OSError) as e:
            logger.warning("%s is not taken from a peer (%s); it is downloaded", self._artifact, e)
        finally:
            self.cut()

    def _write(self, blob: IncomingBlob) -> bool:
        """Write until the artifact's end. False if this thread was cut off before."""
        while True:
            frame = self.next()
            if frame is None:
                return False
            try:
                if frame.kind is not FrameKind.DATA:
                    return True
                if frame.buffer is not None:
                    blob.write(frame.buffer.bytes[: frame.size])
            finally:
                frame.release()


# --- the source -------------------------------------------------------------------------------------------------------


def send(tree: TreePosition, items: Iterable[Item]) -> None:
    """Send `items` down the tree, as they come; while the next one is not there yet, the edges stay alive.

    Ends early if every child is lost. Whatever `items` raises ends the stream for all below, which then look for
    another source.
    """
    pool = BufferPool()
    with _child_senders(tree) as senders:
        for item in items:
            for frame in _frames(item, pool):
                hand_out(frame, senders)
                if all(sender.gone for sender in senders):
                    return
        hand_out(Frame(FrameKind.BYE), senders)


def _frames(item: Item, pool: BufferPool) -> Iterator[Frame]:
    if len(item) == 2:
        number, record = item
        yield _json_frame(FrameKind.FAIL, number, record, pool)
        return
    number, path, blob = item
    yield _json_frame(FrameKind.BEGIN, number, blob.to_json(), pool)
    with open(path, "rb", buffering=0) as file:
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


# --- all others -------------------------------------------------------------------------------------------------------


def receive(
    tree: TreePosition, wanted: Mapping[int, Artifact], open_blob: OpenBlob
) -> tuple[bool, dict[int, Exception]]:
    """Publish those of `wanted` that come, and pass everything on.

    Whether the stream came to its end, and the errors that it brought, by number. What is not here then is this
    process's own to get. Raises LinkUnreachable if no stream can come.
    """
    failures: dict[int, Exception] = {}
    with _child_senders(tree) as senders:
        try:
            with _ParentStream(Link(tree.coordinator, tree.edge(tree.position), 1), senders) as stream:
                stream.run(wanted, open_blob, failures)
        except LinkUnreachable:
            raise
        except LinkLost as e:
            logger.info("the stream of artifacts broke off: %s", e)
            for sender in senders:
                sender.cut()
            return False, failures
    return True, failures


class _ParentStream:
    """The stream as it comes from above; a context manager that ends its link and its writers."""

    def __init__(self, link: Link, senders: list[_ChildSender]) -> None:
        self._link = link
        self._senders = senders
        self._pool = BufferPool()
        self._writers: list[_DiskWriter] = []  # the last one may be that of the artifact that comes now
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

    def run(self, wanted: Mapping[int, Artifact], open_blob: OpenBlob, failures: dict[int, Exception]) -> None:
        """To the stream's end. Adds to `failures`. Raises LinkLost if the stream breaks off."""
        kind = FrameKind.ALIVE
        while kind is not FrameKind.BYE:
            kind, number, size = self._link.header()
            if kind is FrameKind.ALIVE:
                continue
            frame = self._read(kind, number, size)
            artifact = wanted.get(number)
            if artifact is not None and frame.buffer is not None:
                self._open(frame, frame.buffer, artifact, open_blob, failures)
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

    def _open(
        self,
        frame: Frame,
        buffer: Buffer,
        artifact: Artifact,
        open_blob: OpenBlob,
        failures: dict[int, Exception],
    ) -> None:
        """Take note of what a frame says of a wanted artifact: its blob begins, or its error."""
        if frame.kind is FrameKind.FAIL:
            with suppress(ValueError):  # an error of a class that only its own rank knows: this process asks for itself
                failures[frame.number] = from_record(_record(buffer, frame.size))
        if frame.kind is FrameKind.BEGIN:
            record = _record(buffer, frame.size)
            with suppress(BlobRefused):
                self._start_writer(_DiskWriter(artifact, BlobInfo.from_json(record), open_blob))

    def _start_writer(self, writer: _DiskWriter) -> None:
        self._writers = [other for other in self._writers if other.is_alive()]
        if len(self._writers) >= WRITERS:
            self._writers[0].join(STALL)
            if self._writers[0].is_alive():
                return  # this disk is too slow for the others, and gets the artifact later
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


# --- both -------------------------------------------------------------------------------------------------------------


@contextmanager
def _child_senders(tree: TreePosition) -> Iterator[list[_ChildSender]]:
    """The edges downwards. They end with a BYE; if the block raises, the children find them closed."""
    senders = [_ChildSender(tree, child) for child in tree.children()]
    try:
        for sender in senders:
            sender.start()
        yield senders
        for sender in senders:
            sender.join()
    finally:
        _end(senders)


def _end(senders: list[_ChildSender]) -> None:
    for sender in senders:
        sender.cut()
    deadline = time.monotonic() + THREAD_TIMEOUT
    for sender in senders:
        with suppress(RuntimeError):  # Ctrl-C came before it was started
            sender.join(max(0.0, deadline - time.monotonic()))
