"""Which rank is this, of how many, on which node.

    explicit arguments > the environment that a launcher made (`launchers`) > initialised group > one process

Not a process group and not a device: this module never imports torch, it only looks whether the program has.
Invariants: what is unknown is None and never guessed from a device count; a local rank of 0 does not mean "leader of
the node" (`torchrun --virtual-local-rank` gives 0 to all); what only prints or fetches never fails for an environment
that does not say the rank.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from .launchers import first_complete, integer, stated_rank

__all__ = [
    "DistInfo",
    "Topology",
    "get_dist_info",
    "has_other_ranks",
    "is_ddp",
    "is_ddp_initialized",
    "is_ddp_requested",
    "is_rank_0",
    "may_span_nodes",
    "print0",
    "topology",
    "warn_once",
]

logger = logging.getLogger("nanodist")

_warned: set[str] = set()  # texts


@dataclass(frozen=True, slots=True)
class Topology:
    """Where this process stands in its job. None is unknown."""

    rank: int
    world_size: int
    local_rank: int | None
    local_world_size: int | None
    node_rank: int | None
    node_count: int | None
    launcher: str  # arguments, torchrun, env, horovod, openmpi, mvapich2, pmi, slurm, group, single

    @property
    def distributed(self) -> bool:
        """Whether this process is meant to be one of a group, be it a group of one that torchrun made."""
        return self.world_size > 1 or self.launcher in ("torchrun", "env", "group")


class DistInfo(NamedTuple):
    """What `get_dist_info` returns."""

    ddp: bool
    rank: int
    local_rank: int
    world_size: int


def topology(
    *,
    rank: int | None = None,
    world_size: int | None = None,
    local_rank: int | None = None,
    local_world_size: int | None = None,
    node_rank: int | None = None,
    node_count: int | None = None,
) -> Topology:
    """Where this process stands; arguments, if any are given, are the only source and need the first three.

    Read anew with every call, in microseconds. A process group that is smaller than the launcher's world is a part of
    it, and changes nothing here; one that is made by hand inside a single process's environment is the source.

    Raises ValueError for a source of several processes with only some of its variables (naming the missing ones), for
    numbers out of range, and if a process group of the launcher's size, or a larger one, disagrees with it.
    """
    given = {
        "rank": rank,
        "world_size": world_size,
        "local_rank": local_rank,
        "local_world_size": local_world_size,
        "node_rank": node_rank,
        "node_count": node_count,
    }
    if any(value is not None for value in given.values()):
        missing = [name for name in ("rank", "world_size", "local_rank") if given[name] is None]
        if missing:
            raise ValueError(f"topology needs rank, world_size and local_rank together; missing: {', '.join(missing)}")
        return _checked("arguments", given)
    return _with_group(*_from_launcher())


def _from_launcher() -> tuple[Topology | None, str]:
    """What the launcher says, else what its environment lacks."""
    reading, lacking = first_complete()
    return (None if reading is None else _checked(reading.launcher, reading.values)), lacking


def _with_group(launched: Topology | None, lacking: str) -> Topology:
    """What the launcher said, checked against an initialised group; or what the group says."""
    group = initialized_group()
    if group is not None:
        return _beside_group(launched, group.get_rank(), group.get_world_size())
    if lacking:
        raise ValueError(f"the environment of a launcher is incomplete: {lacking}; set what is missing, or unset it")
    return launched or _checked("single", {"rank": 0, "world_size": 1, "local_rank": 0, "local_world_size": 1})


def _beside_group(launched: Topology | None, rank: int, world_size: int) -> Topology:
    if launched is None:
        local = integer(("LOCAL_RANK",))
        return _of_group(rank, world_size, None if local == -1 else local)
    if launched.world_size == 1 < world_size:  # a launcher's one process, which started the ranks itself
        return _of_group(rank, world_size, None)
    if world_size < launched.world_size or (rank, world_size) == (launched.rank, launched.world_size):
        return launched
    raise ValueError(
        f"the process group says rank {rank} of {world_size}, the environment ({launched.launcher}) says "
        f"rank {launched.rank} of {launched.world_size}; start the group from the environment, or unset it"
    )


def _of_group(rank: int, world_size: int, local_rank: int | None) -> Topology:
    return _checked("group", {"rank": rank, "world_size": world_size, "local_rank": local_rank})


def _checked(launcher: str, values: dict[str, int | None]) -> Topology:
    known = {name: values.get(name) for name in ("local_rank", "local_world_size", "node_rank", "node_count")}
    rank, world_size = values["rank"] or 0, values["world_size"] or 0
    _in_range("rank", rank, "world size", world_size)
    if known["local_rank"] is not None:
        _in_range("local rank", known["local_rank"], "local world size", known["local_world_size"] or world_size)
    if known["node_rank"] is not None:
        _in_range("node rank", known["node_rank"], "number of nodes", known["node_count"] or world_size)
    if known["local_world_size"] == world_size:
        known["node_rank"], known["node_count"] = 0, 1
    return Topology(rank=rank, world_size=world_size, launcher=launcher, **known)


def _in_range(name: str, value: int, bound_name: str, bound: int) -> None:
    if not 0 <= value < bound:
        raise ValueError(f"the {name} must be in [0, {bound}), got {value} (the {bound_name} is {bound})")


def initialized_group() -> Any:
    """torch.distributed if its default group is initialised, else None. Never imports it."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def is_ddp_requested() -> bool:
    """Whether a launcher started this process as one of a group, initialised or not."""
    return topology().distributed


def is_ddp_initialized() -> bool:
    """Whether a default process group is there."""
    return initialized_group() is not None


def is_ddp() -> bool:
    """Whether this process is one of a group: requested by a launcher or initialised by hand."""
    return is_ddp_initialized() or is_ddp_requested()


def get_dist_info() -> DistInfo:
    """`(ddp, rank, local_rank, world_size)`. Raises ValueError as `topology` does, and if no local rank is known."""
    here = topology()
    if here.local_rank is None:
        raise ValueError("the local rank is unknown: this group was made without a launcher; set LOCAL_RANK")
    return DistInfo(here.distributed, here.rank, here.local_rank, here.world_size)


def print0(s: object = "", **kwargs: Any) -> None:
    """`print` on rank 0, under every launcher; nothing elsewhere."""
    if is_rank_0():
        print(s, **kwargs)  # noqa: T201


def is_rank_0() -> bool:
    """Whether this process speaks for the job. Never raises: what the environment states of the rank decides then."""
    here = _topology_or_warning()
    return not (stated_rank() if here is None else here.rank)


def has_other_ranks() -> bool:
    """Whether there are ranks to agree with. Never raises: where that cannot be told, this process is alone."""
    here = _topology_or_warning()
    return here is not None and here.world_size > 1


def may_span_nodes() -> bool:
    """Whether the job may have more than one node. Never raises: where that cannot be told, it may."""
    here = _topology_or_warning()
    return here is None or here.node_count != 1


def _topology_or_warning() -> Topology | None:
    try:
        return topology()
    except ValueError as e:
        warn_once(f"the rank of this process is unknown ({e}); file locks alone coordinate")
        return None


def warn_once(text: str) -> None:
    """Log a warning, unless this process has logged the same one."""
    if text not in _warned:
        _warned.add(text)
        logger.warning("%s", text)
