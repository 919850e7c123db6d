"""One shard, from the process of the job that holds it onto this disk.

Invariants: its bytes come in by the store's own door, verified; while another process of this disk is at the shard,
nothing is taken, since the lock coordinates; a holder that is silent is waited for `SILENCE` seconds.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

from nanocache import Artifact
from nanocache.cancel import Cancel
from nanocache.peers import BlobInfo, IncomingBlob, receive_blob

from ..errors import from_record
from .claims import ShardClaim
from .wire import ALIVE, Conversation, PeerLost

__all__ = ["take"]

logger = logging.getLogger("nanodist")

CONNECT = 2.0  # seconds, deaf to `cancel`
PIECE = 1 << 20  # bytes that are written at once

_unreachable: set[str] = set()  # hosts


def take(holder: ShardClaim, identity: str, artifact: Artifact, base: Path, cancel: Cancel) -> None:
    """Publish the shard here, once the holder has it.

    Raises PeerLost if the holder cannot give it, the error that its origin gave, what `receive_blob` raises, Cancelled.
    """
    conversation = Conversation(_connect(holder))
    try:
        with cancel.watch(conversation.interrupt):
            conversation.say({"word": holder.word, "shard": identity})
            _receive(conversation, _answer(conversation), artifact, base)
    except PeerLost:
        cancel.check()
        raise
    finally:
        conversation.close()


def _connect(holder: ShardClaim) -> socket.socket:
    """Raises PeerLost; at once for a host that could not be reached before: each try costs seconds."""
    if holder.host in _unreachable:
        raise PeerLost("its host is out of reach")
    try:
        return socket.create_connection((holder.host, holder.port), timeout=CONNECT)
    except ConnectionRefusedError as e:  # that process has ended
        raise PeerLost(str(e)) from e
    except OSError as e:
        _unreachable.add(holder.host)
        logger.warning(
            "%s cannot be reached (%s): shards that it has are downloaded here; let the nodes of the job connect to "
            "each other's ports, or set NANODIST_SCOPE=disk",
            holder.host,
            e,
        )
        raise PeerLost(str(e)) from e


def _answer(conversation: Conversation) -> dict[str, Any]:
    while (said := conversation.hear()) is ALIVE:
        pass
    return said


def _receive(conversation: Conversation, said: dict[str, Any], artifact: Artifact, base: Path) -> None:
    if "error" in said:
        raise _error(said["error"])
    if "blob" not in said:
        raise PeerLost("it has the shard no more")
    blob = BlobInfo.from_json(said["blob"])
    with receive_blob(artifact, blob, base, progress=False) as incoming:
        _write(conversation, incoming, blob.size)
        incoming.publish()


def _write(conversation: Conversation, incoming: IncomingBlob, size: int) -> None:
    buffer = memoryview(bytearray(min(PIECE, size)))
    while incoming.size < size:
        count = conversation.read_into(buffer[: size - incoming.size])
        incoming.write(buffer[:count])


def _error(record: dict[str, Any]) -> Exception:
    try:
        return from_record(record)
    except ValueError as e:  # of a class that only its own process knows
        return PeerLost(str(e))
