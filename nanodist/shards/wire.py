"""What the holder of a shard and the process that takes it say to each other, over one TCP connection.

    taker     {"word", "shard"}        which shard, and that it read the claim
    holder    an empty line            a sign of life, while it has no answer yet
              {"blob"} and its bytes   as `nanocache.peers` describes a blob
              {"error"}                what the origin said to the holder, and would say to each process that asks
              {"gone"}                 it has nothing to give

Lines of JSON, and nothing of torch: a worker of a DataLoader can neither lead nor join a group. Invariant: whatever the
network or the peer does wrong is one PeerLost, so that it is never taken for a fault of the disk.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

__all__ = ["ALIVE", "ALIVE_AGAIN", "SILENCE", "Conversation", "PeerLost"]

ALIVE_AGAIN = 0.5  # seconds between two
SILENCE = 5.0  # seconds without a byte after which the peer is given up, and in which a connection has to come
LONGEST_LINE = 1 << 16  # bytes
ALIVE: dict[str, Any] = {}  # an empty line


class PeerLost(Exception):
    """The peer is gone, silent, or says what no peer of this job says."""


class Conversation:
    """One connection, used by one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(SILENCE)
        self._incoming = connection.makefile("rb")

    def say(self, message: dict[str, Any]) -> None:
        """Raises PeerLost."""
        with _peers_fault():
            self.connection.sendall(json.dumps(message).encode() + b"\n" if message else b"\n")

    def send_file(self, file: BinaryIO) -> None:
        """Raises PeerLost; OSError for what the disk does, too, as the two can't be told apart."""
        with _peers_fault():
            self.connection.sendfile(file)

    def hear(self) -> dict[str, Any]:
        """The peer's next message, `ALIVE` for a sign of life. Raises PeerLost."""
        with _peers_fault():
            line = self._incoming.readline(LONGEST_LINE)
            message = json.loads(line) if line.strip() else ALIVE
        if not line.endswith(b"\n") or not isinstance(message, dict):
            raise PeerLost("it ended the conversation" if not line else f"it said {line[:100]!r}")
        return message

    def read_into(self, buffer: memoryview) -> int:
        """How many bytes came, at least one. Raises PeerLost."""
        with _peers_fault():
            count: int = self._incoming.readinto1(buffer)
        if not count:
            raise PeerLost("it ended the conversation in the middle of a shard")
        return count

    def interrupt(self) -> None:
        """Have whatever waits in it end. From any thread."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended by itself
            pass

    def close(self) -> None:
        self._incoming.close()
        self.connection.close()


@contextmanager
def _peers_fault() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as e:  # ValueError: not JSON; not text
        raise PeerLost(str(e) or type(e).__name__) from e
