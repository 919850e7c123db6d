"""Seeds: the same model on every rank, other data on each.

Not determinism of kernels. Invariants: what a rank or a worker adds goes through a hash, because `seed + rank` makes
rank 1 of one run the rank 0 of the next; and torch derives the workers' seeds from the main process's generator, which
must be the same on all ranks for the model's sake, so that without `worker_init_fn` all ranks' workers draw alike; and
numpy draws other numbers than torch.
"""

from __future__ import annotations

import hashlib
import random
import sys

from ..rank import topology

__all__ = ["data_seed", "seed_all", "worker_init_fn"]


def seed_all(seed: int) -> None:
    """Seed `random`, torch (all devices) and, if it is loaded, numpy: the same on every rank."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    _seed_numpy(seed)


def data_seed(epoch: int = 0) -> int:
    """A seed for this rank's data in this epoch, 63 bits, made of the seed that `seed_all` set and the rank."""
    import torch

    return _mix("data", torch.initial_seed(), topology().rank, epoch)


class _WorkerInit:
    """Seed a DataLoader worker by rank, worker and epoch: `DataLoader(..., worker_init_fn=nanodist.worker_init_fn)`.

    An object, because a spawned worker does not see a process group that was made by hand: the rank goes along with it.
    A function of yours that calls it in a spawned worker takes it as an argument (`functools.partial`) for that reason.
    """

    def __init__(self, rank: int | None = None) -> None:
        self._rank = rank  # None: that of the process that calls

    def __call__(self, worker_id: int) -> None:
        import torch

        rank = topology().rank if self._rank is None else self._rank
        # torch.initial_seed() is base_seed + worker_id here, and base_seed is drawn anew for every epoch.
        seed = _mix("worker", torch.initial_seed(), rank, worker_id)
        random.seed(seed)
        torch.manual_seed(seed)
        _seed_numpy(seed)

    def __reduce__(self) -> tuple[type[_WorkerInit], tuple[int | None]]:
        here = topology()
        # A process that has no other ranks may be about to spawn them.
        return _WorkerInit, (here.rank if self._rank is None and here.world_size > 1 else self._rank,)


worker_init_fn = _WorkerInit()


def _seed_numpy(seed: int) -> None:
    if (numpy := sys.modules.get("numpy")) is not None:
        # Not the seed itself: numpy and torch would make the same numbers of it, both by mt19937 of its 32 low bits.
        numpy.random.seed(_mix("numpy", seed) % 2**32)


def _mix(*parts: object) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
