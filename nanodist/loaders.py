"""prefetch for the ranks of a job: each gets its own share of the shards; what several want comes from one of them.

What iterates is nanocache's; here is which rank this is, and whether the shares overlap. Invariants: no rank waits for
one that is slower, and a rank that ends early holds up no other; where each shard is one rank's, no store is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import nanocache
from nanocache import Cache
from nanocache.peers import FetchShard

from .calls import scope_of
from .coordination.coordinator import coordination
from .rank import has_other_ranks, may_span_nodes, topology

__all__ = ["prefetch"]


def prefetch(
    artifacts: Iterable[object] | Mapping[Any, str],
    *,
    rank: int | None = None,
    world_size: int | None = None,
    **options: Any,
) -> nanocache.Prefetch:
    """`nanocache.prefetch` for this rank's share of `artifacts`: each world_size-th, from its rank on.

    `rank` and `world_size` come from `topology()`, so that each shard is one rank's. Give them where several ranks read
    the same data (of a tensor parallel group, say): with a `world_size` below the job's, a shard is downloaded by the
    rank or worker that comes to it first, and the other disks take it from there while that one iterates. A reader that
    comes later than `evict_behind` lets it downloads the shard again. NANODIST_SCOPE is `fetch`'s: "disk" has each disk
    download its own.

    The other arguments are nanocache.prefetch's. A DataLoader's worker made by fork or spawn gets its part of its
    rank's share. Raises ValueError, and what `topology` raises.
    """
    if rank is None and world_size is None:
        here = topology()
        rank, world_size = here.rank, here.world_size
    paths = nanocache.prefetch(artifacts, rank=rank, world_size=world_size, **options)
    if world_size is not None and not options.get("offline") and _overlap(world_size):
        coordination()  # rank 0 may have to serve the store that its workers ask
        paths.fetching = _from_job
    return paths


def _overlap(world_size: int) -> bool:
    """Whether ranks on different disks may want one shard."""
    scope = scope_of("auto")
    spans = may_span_nodes() if scope == "auto" else scope == "broadcast"
    return spans and has_other_ranks() and world_size < topology().world_size


def _from_job(cache: Cache, offline: bool | None) -> FetchShard:
    from .shards.shared import SharedShards  # when a shard is fetched, in the process that fetches it

    return SharedShards(cache, offline).fetch
