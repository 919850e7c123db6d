"""One shard that several readers of a job want: the first brings it, the disks of the others take it from there.

    here already              what this disk has is offered to the others
    claimed by this process   downloaded, and given to those that ask
    claimed on this disk      its lock coordinates
    claimed elsewhere         taken from there; if that process is gone, its claim is taken over

Nothing waits for a reader that is slow, and no reader has to come. Invariants: what cannot be had this way is fetched
as ever, so that no fault of a peer's is the shard's; an error of its origin is the same for all that wait for it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nanocache
from nanocache import Artifact, Cache, LockTimeout
from nanocache.cancel import Cancel
from nanocache.coordination.process import me
from nanocache.peers import BlobRefused, Turn, is_listed, meaning

from ..coordination.store_client import StoreClient
from ..coordination.visiting import JobStore, visit
from ..errors import ORIGIN_ERRORS, CoordinatorLost, to_record
from ..rank import topology, warn_once
from ..shared_disk import disk_name
from .claims import ShardClaim, claim, give_up
from .holder import ShardHolder, holder_of
from .taking import take
from .wire import PeerLost

__all__ = ["SharedShards"]

logger = logging.getLogger("nanodist")

HOLDERS = 3  # that are tried


class SharedShards:
    """The shards of one open iterator, called from its threads."""

    def __init__(self, cache: Cache, offline: bool | None) -> None:
        self._cache = cache
        self._offline = offline
        self._meeting = threading.Lock()
        self._is_open = False
        self._store: JobStore | None = None
        self._holder: ShardHolder | None = None

    def fetch(self, artifact: Artifact, cancel: Cancel, turn: Turn) -> Path:
        """The path of the shard, as `nanocache.fetch` would have it on this disk.

        Raises what `fetch` raises, be it of the process that asked the origin, and Cancelled.
        """
        download = partial(self._cache.fetch_shard, self._offline, artifact, cancel, turn)
        shard = self._of_job(artifact, cancel, turn)
        if shard is None:
            return download()
        try:
            path = shard.hold(download) if shard.is_mine() else None
        except CoordinatorLost as e:
            warn_once(f"{e}; each disk fetches its own shards")
            shard.holder.settle(shard.identity)  # a taker may wait that read the claim before
            path = None
        return path or download()

    def _of_job(self, artifact: Artifact, cancel: Cancel, turn: Turn) -> _SharedShard | None:
        """The shard as the job's; None where this disk is on its own."""
        if artifact.url.lower().startswith("file:"):
            return None
        with self._meeting:
            if not self._is_open:
                self._is_open = True
                self._store = visit()
                self._holder = None if self._store is None else self._open(self._store, cancel)
        if self._store is None or self._holder is None:
            return None
        bare = replace(artifact, postprocess=None)  # each disk runs the hook for itself
        identity = hashlib.sha256(meaning(bare).encode()).hexdigest()
        return _SharedShard(self._store.client, self._holder, identity, bare, self._cache.base_dir, cancel, turn)

    def _open(self, store: JobStore, cancel: Cancel) -> ShardHolder | None:
        disk = disk_name(self._cache.base_dir, store.job)
        try:
            return None if disk is None else holder_of(self._cache.base_dir, disk, store, cancel)
        except OSError as e:  # CoordinatorLost, too
            warn_once(f"this process cannot give shards to other disks ({e}); each disk fetches its own")
            return None


@dataclass(frozen=True, slots=True)
class _SharedShard:
    """One of them."""

    store: StoreClient
    holder: ShardHolder
    identity: str  # what all processes of the job call it
    artifact: Artifact  # without a hook
    base: Path
    cancel: Cancel
    turn: Turn

    def is_mine(self) -> bool:
        """Whether this process is to bring it; else it was taken, or is this disk's own matter.

        Raises CoordinatorLost, Cancelled, the error of its origin, and what the disk does.
        """
        here = self._is_here()
        self.holder.expect(self.identity, self.artifact)
        before: ShardClaim | None = None
        for _ in range(HOLDERS):
            held = claim(self.store, self.identity, self.holder.claim, instead=before)
            if held == self.holder.claim:
                return True
            if here or held.disk == self.holder.claim.disk or self._take(held):
                return False
            before = held
        return False

    def _is_here(self) -> bool:
        # Not looked up by a name that its folder does not list: the mount of a shared disk would remember its absence.
        if not is_listed(self.artifact, self.base):
            return False
        return nanocache.lookup(self.artifact, base_dir=self.base) is not None

    def _take(self, held: ShardClaim) -> bool:
        """Whether the claim stands: it was taken, or another process of this disk is at it."""
        self.turn.settle()  # the next shards need not wait: they come from elsewhere
        try:
            take(held, self.identity, self.artifact, self.base, self.cancel)
            self.turn.came = True
        except LockTimeout:
            pass
        except (PeerLost, BlobRefused) as e:
            logger.info("%s is not to be had from %s: %s", self.artifact, held.host, e)
            return False
        return True

    def hold(self, download: Callable[[], Path]) -> Path:
        """Bring it, and answer those that wait for it. Raises what `download` raises."""
        error: dict[str, Any] | None = None
        path: Path | None = None
        try:
            path = download()
        except ORIGIN_ERRORS as e:
            error = to_record(e, rank=topology().rank, host=me().host)
            raise
        finally:
            self.holder.settle(self.identity, error)
            if path is None:
                give_up(self.store, self.identity, self.holder.claim)
        return path
