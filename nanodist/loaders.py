"""prefetch for the ranks of a job: each gets its own share of the shards.

What iterates is nanocache's; here is which rank this is. Invariant: no store and no collective is asked, so ranks may
iterate at their own pace, and a rank that ends early holds up no other. So nothing is sent from disk to disk: a
DataLoader's worker, where most iterate, has no store, and a roll call for each shard would wait for the slowest rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import nanocache

from .rank import topology

__all__ = ["prefetch"]


def prefetch(
    artifacts: Iterable[object] | Mapping[Any, str],
    *,
    rank: int | None = None,
    world_size: int | None = None,
    **options: Any,
) -> nanocache.Prefetch:
    """`nanocache.prefetch` for this rank's share of `artifacts`: each world_size-th, from its rank on.

    `rank` and `world_size` come from `topology()`; give them where several ranks read the same data (of a tensor
    parallel group, say): those on one disk share each download, and by NANOCACHE_REMOTE those on other disks take what
    one brought, of shards with a digest. The other arguments are nanocache.prefetch's. A DataLoader's worker made by
    fork or spawn gets its part of its rank's share. Raises ValueError, and what `topology` raises.
    """
    if rank is None and world_size is None:
        here = topology()
        rank, world_size = here.rank, here.world_size
    return nanocache.prefetch(artifacts, rank=rank, world_size=world_size, **options)
