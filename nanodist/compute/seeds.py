"""Seeds: the same model on every rank, other data on each.

Not determinism of kernels. Invariants: what a rank or a worker adds goes through a hash, because `seed + rank` makes
rank 1 of one run the rank 0 of the next; and torch derives the workers' seeds from the main process's generator, which
must be the same on all ranks for the model's sake, so that without `worker_init_fn` all ranks' workers draw alike.
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


def worker_init_fn(worker_id: int) -> None:
    """Seed a DataLoader worker by rank, worker and epoch: `DataLoader(..., worker_init_fn=worker_init_fn)`."""
    import torch

    # torch.initial_seed() is base_seed + worker_id here, and base_seed is drawn anew for every epoch.
    seed = _mix("worker", torch.initial_seed(), topology().rank, worker_id)
    random.seed(seed)
    torch.manual_seed(seed)
    _seed_numpy(seed)


def _seed_numpy(seed: int) -> None:
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def _mix(*parts: object) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
