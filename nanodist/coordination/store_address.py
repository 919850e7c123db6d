"""Where the store is that the ranks of a job agree through. Nothing is asked there; never loads torch.

torchrun                    the agent's TCPStore, which outlives every worker
MASTER_ADDR, MASTER_PORT    a TCPStore in rank 0's process, shared with a later init_process_group
a group made by hand        the TCPStore under it
none of these               no store
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..launchers import integer
from ..rank import initialized_group, topology

__all__ = ["StoreAddress", "address"]


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the store is. `hosting`: this process serves it. `lasting`: it outlives the ranks (torchrun's agent)."""

    host: str
    port: int
    hosting: bool
    lasting: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def address() -> StoreAddress | None:
    """Where the job's store is, by the environment, else by the initialised group; None if neither says.

    Raises ValueError for a MASTER_PORT that is no port, and for a broken environment (`topology`).
    """
    host = os.environ.get("MASTER_ADDR")
    port = integer(("MASTER_PORT",))
    if port is not None and not 0 <= port < 1 << 16:
        raise ValueError(f"MASTER_PORT must be in [0, 65535], got {port}")
    if host and port is not None:
        lasting = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return StoreAddress(host, port, hosting=not lasting and topology().rank == 0, lasting=lasting)
    return _under_group()


def _under_group() -> StoreAddress | None:
    dist = initialized_group()
    if dist is None:
        return None
    try:
        store = dist.group.WORLD.get_group_store()
    except (AttributeError, RuntimeError):  # an older torch; a backend without a store (MPI)
        return None
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if not isinstance(store, dist.TCPStore):
        return None
    return StoreAddress(store.host, store.port, hosting=False, lasting=False)
