"""Two processes and the frames that one sends to the other, over a gloo group of just the two.

    frame   header: kind, number, bytes; and then so many bytes

Made straight over the store: no default group is needed or touched, and no other rank has to call. Of two and never of
all: a process that dies, stops or has a full disk breaks its own edges and nobody else's, and no process opens more
sockets than it has neighbours, where one group of a thousand is a full mesh. Invariants: who has nothing to say says
that (ALIVE), every half second, so that a slow source is no lost one, and no receive blocks longer while its peer
lives; a peer that is silent for `PEER_TIMEOUT` is lost.
"""

from __future__ import annotations

import time
from datetime import timedelta
from enum import IntEnum
from typing import Any

from ..coordination.coordinator import Coordinator, pauses
from ..coordination.store_client import ANSWER
from ..coordination.torch_calls import Line
from ..errors import CoordinatorLost

__all__ = ["ALIVE_EVERY", "FRAME_BYTES", "Buffer", "FrameKind", "LinkLost", "Link", "LinkUnreachable"]

FRAME_BYTES = (
    4 << 20
)  # bytes of one frame at most; smaller ones cost gloo's handshakes, larger ones the pipeline's depth
ALIVE_EVERY = 0.5  # seconds
PEER_TIMEOUT = 15.0  # seconds of silence; what the leader of an election gets, too
MEETING = 5.0  # seconds that the two have to come; both know of each other since the same moment


class FrameKind(IntEnum):
    """What a frame is."""

    ALIVE = 0  # nothing to say
    BEGIN = 1  # what the source says of an artifact's blob, as JSON
    DATA = 2  # its bytes, in order
    END = 3  # that was all of it
    FAIL = 4  # the error that all get for it, as JSON
    BYE = 5  # that was all


class LinkLost(Exception):
    """The other one is gone, stopped, or never came."""


class LinkUnreachable(LinkLost):
    """The other one came, and gloo can't connect the two: a firewall, or a host name that means another interface."""


class Buffer:
    """Memory that gloo and the file system both can use, without numpy between them."""

    def __init__(self, size: int) -> None:
        import torch

        raw = bytearray(size)
        self.bytes = memoryview(raw)
        self.tensor: Any = torch.frombuffer(raw, dtype=torch.uint8)


class Link:
    """One end. The sending one and the receiving one are two classes' worth of methods; each is one thread's."""

    def __init__(self, at: Coordinator, name: str, end: int, *, timeout: float | None = None) -> None:
        """`name`: the same on both ends; `end`: 0 sends, 1 receives; `timeout`: seconds, else `PEER_TIMEOUT`.

        Raises LinkLost if the other does not come, LinkUnreachable if it came and no connection does.
        """
        import torch
        import torch.distributed as dist

        self._peer, self._line = 1 - end, Line()
        self._seconds = timeout or PEER_TIMEOUT
        self._header = torch.zeros(3, dtype=torch.int64)
        try:
            _meet(at, name, end)
            with at.under(name) as store:
                self._group: Any = self._line.call(
                    ANSWER + self._seconds, dist.ProcessGroupGloo, store, end, 2, timedelta(seconds=self._seconds)
                )
        except CoordinatorLost as e:
            raise LinkLost(str(e)) from None
        except TimeoutError:  # gloo keeps to its own, so that it is the store that does not answer
            raise LinkLost("no answer from the store") from None
        except (RuntimeError, ValueError) as e:
            raise LinkUnreachable(str(e).split("\n", 1)[0]) from None

    def send(self, kind: FrameKind, number: int = 0, buffer: Buffer | None = None, size: int = 0) -> None:
        """Raises LinkLost."""
        self._header[0], self._header[1], self._header[2] = int(kind), number, size
        self._do("send", self._header)
        if size and buffer is not None:
            self._do("send", buffer.tensor[:size])

    def header(self) -> tuple[FrameKind, int, int]:
        """The next frame's kind, number and size. Raises LinkLost."""
        self._do("recv", self._header)
        kind, number, size = self._header.tolist()
        if not (0 <= kind <= max(FrameKind) and 0 <= size <= FRAME_BYTES):
            raise LinkLost(f"a frame of kind {kind} and {size} bytes is none of ours")
        return FrameKind(kind), number, size

    def body(self, buffer: Buffer, size: int) -> None:
        """The bytes of the frame whose header was read. Raises LinkLost."""
        if size:
            self._do("recv", buffer.tensor[:size])

    def _do(self, operation: str, tensor: Any) -> None:
        try:
            work = getattr(self._group, operation)([tensor], self._peer, 0)
            self._line.call(ANSWER + self._seconds, work.wait)
        except (RuntimeError, TimeoutError) as e:  # the former is gloo's own, and comes first
            raise LinkLost(str(e).split("\n", 1)[0]) from None

    def close(self) -> None:
        """End the group and its threads, in milliseconds; the other end finds it closed."""
        self._group = None


def _meet(at: Coordinator, name: str, end: int) -> None:
    # Here and not inside gloo, whose wait would keep this process's one client of the store, and its signs of life.
    at.set(f"{name}/here/{end}", "")
    deadline = time.monotonic() + MEETING
    for _ in pauses(at.world_size):
        if at.check(f"{name}/here/{1 - end}"):
            return
        if time.monotonic() > deadline:
            raise LinkLost(f"{name} did not come within {MEETING:g} s")
