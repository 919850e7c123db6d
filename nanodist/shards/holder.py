"""What this process brought into the job, given to other disks of the job that ask for it.

    claim      where they ask; it goes into the store
    expect     a shard is on its way to this disk: takers wait
    settle     it is here, or failed

One thread listens while an iterator of this process is open, and afterwards while others read (`readers`); one more for
each process that asks. For the few disks of a tensor or pipeline parallel group: a thousand would wait for one sender,
where `nanodist.fetch` sends down a tree. Invariants: only a process that read the claim is answered; a shard that has
left the disk is gone, and its taker brings it itself; a forked child listens at nothing.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanocache import Artifact
from nanocache.cancel import Cancel
from nanocache.peers import describe_blob

from ..coordination.at_end import at_end
from ..coordination.visiting import JobStore
from .claims import ShardClaim
from .readers import Readers
from .wire import ALIVE, ALIVE_AGAIN, Conversation, PeerLost

__all__ = ["ShardHolder", "holder_of"]

ACCEPT = 0.25  # seconds between two looks at whether any process reads
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_holders: dict[tuple[Path, str], ShardHolder] = {}  # by base directory, and the disk's name in the job
_opening = threading.Lock()
_stays = False  # whether the end of this process waits for takers


def holder_of(base: Path, disk: str, store: JobStore, cancel: Cancel) -> ShardHolder:
    """This process's, which listens from now on, at least until `cancel` is set. Raises OSError, CoordinatorLost."""
    global _stays
    with _opening:
        if not _stays:
            at_end(_leave)
            _stays = True
        holder = _holders.get((base, disk))
        if holder is None:
            holder = _holders[base, disk] = ShardHolder(base, disk, store)
        holder.readers.opened(cancel)
        return holder


def _leave() -> None:
    """At the end of the process: once the others have read, or soon."""
    for holder in list(_holders.values()):
        holder.readers.wait_for_others()


@dataclass(slots=True)
class _Shard:
    artifact: Artifact
    settled: threading.Event = field(default_factory=threading.Event)
    error: dict[str, Any] | None = None  # the record of one that each process would get


class ShardHolder:
    """Listens while its shards are wanted."""

    def __init__(self, base: Path, disk: str, store: JobStore) -> None:
        self.readers = Readers(store)
        host, self.listener = _listen(store.host)
        self.claim = ShardClaim(disk, host, self.listener.getsockname()[1], uuid.uuid4().hex)
        self._base = base
        self._shards: dict[str, _Shard] = {}
        threading.Thread(target=self._run, name="nanodist-shards", daemon=True).start()

    def expect(self, identity: str, artifact: Artifact) -> None:
        known = self._shards.get(identity)
        if known is None or known.settled.is_set():  # else some may wait for it: one list can name it twice
            self._shards[identity] = _Shard(artifact)

    def settle(self, identity: str, error: dict[str, Any] | None = None) -> None:
        """It is here, if the disk says so; `error`: the record of what its origin said."""
        shard = self._shards[identity]
        shard.error = error
        shard.settled.set()

    def _run(self) -> None:
        self.listener.settimeout(ACCEPT)
        while not self._ends():
            try:
                connection, _ = self.listener.accept()
            except OSError:  # none came; or the taker was gone at once
                continue
            threading.Thread(target=self._answer, args=(connection,), name="nanodist-shard", daemon=True).start()

    def _ends(self) -> bool:
        """Whether all have read what they want. Then nothing listens any more."""
        if self.readers.are_there():
            return False
        with _opening:
            if self.readers.any_here():  # opened a moment ago
                return False
            _holders.pop((self._base, self.claim.disk), None)
            self.listener.close()
        return True

    def _answer(self, connection: socket.socket) -> None:
        conversation = Conversation(connection)
        try:
            asked = conversation.hear()
            if asked.get("word") == self.claim.word:
                self._give(conversation, self._shards.get(str(asked.get("shard"))))
        except (PeerLost, OSError):  # the taker's or this disk's: the taker helps itself
            pass
        finally:
            conversation.close()

    def _give(self, conversation: Conversation, shard: _Shard | None) -> None:
        while shard is not None and not shard.settled.wait(ALIVE_AGAIN):
            conversation.say(ALIVE)
        if shard is not None and shard.error is not None:
            conversation.say({"error": shard.error})
            return
        found = None if shard is None else describe_blob(shard.artifact, self._base)
        if found is None:
            conversation.say({"gone": True})
            return
        path, blob = found
        with path.open("rb") as file:  # evicted meanwhile: it can be read as long as it is open
            conversation.say({"blob": blob.to_json()})
            conversation.send_file(file)


def _listen(store_host: str) -> tuple[str, socket.socket]:
    """A socket that listens, and the host by which the other processes of the job reach it.

    The address from which the store was reached is known to work. Where that is loopback this is the store's own host,
    which the others know by the name that they have of it.
    """
    family, own = _address_towards(store_host)
    if not own.startswith("127.") and own != "::1":
        return own, socket.create_server((own, 0), family=family)
    bound = own if store_host in LOOPBACK_NAMES else ""
    return store_host, socket.create_server((bound, 0), family=family)


def _address_towards(host: str) -> tuple[socket.AddressFamily, str]:
    """This host's address on the way to `host`."""
    family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # sends nothing
        return family, str(probe.getsockname()[0])


def _after_fork() -> None:
    global _opening, _stays
    _opening = threading.Lock()
    _stays = False
    for holder in _holders.values():
        holder.listener.close()  # or a connection would be taken here, and never answered
    _holders.clear()


os.register_at_fork(after_in_child=_after_fork)
