"""Two processes and the frames that one sends to the other, over a gloo group of just the two.

    frame   header: kind, number, size; and then `size` bytes

Made straight over the store: no default group is needed or touched, and no other rank has to call. Of two processes and
never of all: a process that dies, stops or has a full disk breaks its own links only, and no process opens more sockets
than it has neighbours, where one group of a thousand is a full mesh. Invariants: a sender with nothing to send sends
ALIVE every half second, so that a slow source does not count as lost, and no receive blocks longer while the peer
lives; a peer that is silent for `PEER_TIMEOUT` is lost.
"""

from __future__ import annotations

import time
from datetime import timedelta
from enum import IntEnum
from typing import Any

from ..coordination.coordinator import Coordinator, pauses
from ..coordination.interface import choose_interface
from ..coordination.store_client import ANSWER
from ..coordination.torch_calls import TorchCalls
from ..errors import CoordinatorLost

__all__ = ["ALIVE_EVERY", "FRAME_BYTES", "Buffer", "FrameKind", "LinkLost", "Link", "LinkUnreachable"]

FRAME_BYTES = 4 << 20  # at most; smaller frames cost gloo's handshakes, larger ones the pipeline's depth
ALIVE_EVERY = 0.5  # seconds
PEER_TIMEOUT = 15.0  # seconds of silence, as for the leader of an election
MEETING = 5.0  # seconds that the two processes have to come; both know of each other since the same moment


class FrameKind(IntEnum):
    """What a frame is."""

    ALIVE = 0  # nothing to send yet
    BEGIN = 1  # of an artifact: what the source says of its blob, as JSON
    DATA = 2  # its bytes, in order
    END = 3  # of its bytes
    FAIL = 4  # the error that every process gets for the artifact, as JSON
    BYE = 5  # the end of the stream


class LinkLost(Exception):
    """The peer died, stopped, or never came."""


class LinkUnreachable(LinkLost):
    """The peer came, and gloo can't connect the two: a firewall, or a host name that means another interface."""


class Buffer:
    """Memory that gloo and the file system both can use, without numpy between them."""

    def __init__(self, size: int) -> None:
        import torch

        raw = bytearray(size)
        self.bytes = memoryview(raw)
        self.tensor: Any = torch.frombuffer(raw, dtype=torch.uint8)


class Link:
    """One end, used by one thread: the sending end calls `send`, the receiving end `header` and `body`."""

    def __init__(self, coordinator: Coordinator, name: str, end: int, *, timeout: float | None = None) -> None:
        """`name`: the same on both ends; `end`: 0 sends, 1 receives; `timeout`: seconds, else `PEER_TIMEOUT`.

        Raises LinkLost if the peer does not come, LinkUnreachable if it came and cannot be connected.
        """
        import torch

        self._peer = 1 - end
        self._calls = TorchCalls()
        self._seconds = timeout or PEER_TIMEOUT
        self._header = torch.zeros(3, dtype=torch.int64)
        self._group: Any = None
        try:
            _meet(coordinator, name, end)
            self._connect(coordinator, name, end)
        except CoordinatorLost as e:
            raise LinkLost(str(e)) from None
        except TimeoutError:  # gloo keeps to its own time-out, so it is the store that does not answer
            raise LinkLost("no answer from the store") from None
        except (RuntimeError, ValueError) as e:
            raise LinkUnreachable(_first_line(e)) from None

    def _connect(self, coordinator: Coordinator, name: str, end: int) -> None:
        import torch.distributed as dist

        choose_interface(coordinator.where.host)
        limit = timedelta(seconds=self._seconds)
        with coordinator.under(name) as store:
            self._group = self._calls.call(ANSWER + self._seconds, dist.ProcessGroupGloo, store, end, 2, limit)

    def send(self, kind: FrameKind, number: int = 0, buffer: Buffer | None = None, size: int = 0) -> None:
        """Raises LinkLost."""
        for field, value in enumerate((int(kind), number, size)):
            self._header[field] = value
        self._do("send", self._header)
        if size and buffer is not None:
            self._do("send", buffer.tensor[:size])

    def header(self) -> tuple[FrameKind, int, int]:
        """The next frame's kind, number and size. Raises LinkLost."""
        self._do("recv", self._header)
        kind, number, size = self._header.tolist()
        if not (0 <= kind <= max(FrameKind) and 0 <= size <= FRAME_BYTES):
            raise LinkLost(f"the peer sent a frame of kind {kind} and {size} bytes, which nanodist does not send")
        return FrameKind(kind), number, size

    def body(self, buffer: Buffer, size: int) -> None:
        """The bytes of the frame whose header was read. Raises LinkLost."""
        if size:
            self._do("recv", buffer.tensor[:size])

    def _do(self, operation: str, tensor: Any) -> None:
        try:
            transfer = getattr(self._group, operation)([tensor], self._peer, 0)
            self._calls.call(ANSWER + self._seconds, transfer.wait)
        except (RuntimeError, TimeoutError) as e:  # the former is gloo's own, and comes first
            raise LinkLost(_first_line(e)) from None

    def close(self) -> None:
        """End the group and its threads, in milliseconds; the peer finds the link closed."""
        self._group = None


def _meet(coordinator: Coordinator, name: str, end: int) -> None:
    # Not inside gloo: its wait would block this process's one client of the store, and so its signs of life.
    coordinator.set(f"{name}/here/{end}", "")
    deadline = time.monotonic() + MEETING
    for _ in pauses(coordinator.world_size):
        if coordinator.check(f"{name}/here/{1 - end}"):
            return
        if time.monotonic() > deadline:
            raise LinkLost(f"{name} did not come within {MEETING:g} s")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
