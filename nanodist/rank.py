"""Which rank is this, of how many, on which node: from the environment that a launcher made.

    explicit arguments > torchrun, or RANK/WORLD_SIZE/LOCAL_RANK > SLURM step > Open MPI > PMI > initialised group > one

The first complete source is used alone; later ones are not compared, because torchrun inside srun differs from SLURM by
right (SLURM then numbers the agents). Not a process group and not a device: this module never imports torch, it only
looks whether the program has. Invariants: what is unknown is None and never guessed from a device count; a local rank
of 0 does not mean "leader of the node" (`torchrun --virtual-local-rank` gives 0 to all).
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "DistInfo",
    "Topology",
    "get_dist_info",
    "is_ddp",
    "is_ddp_initialized",
    "is_ddp_requested",
    "print0",
    "topology",
]

Names = tuple[str, ...]  # environment variables that mean the same; the first one set counts


@dataclass(frozen=True, slots=True)
class Topology:
    """Where this process stands in its job. None is unknown."""

    rank: int
    world_size: int
    local_rank: int | None
    local_world_size: int | None
    node_rank: int | None
    node_count: int | None
    launcher: str  # arguments, torchrun, env, slurm, openmpi, pmi, group, single

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


@dataclass(frozen=True, slots=True)
class _Launcher:
    """The variables of one launcher. The first three are needed."""

    launcher: str
    rank: Names
    world_size: Names
    local_rank: Names
    local_world_size: Names = ()
    node_rank: Names = ()
    node_count: Names = ()

    def read(self) -> tuple[dict[str, int | None], list[str]]:
        """The values, and the needed variables that are missing."""
        needed = {"rank": self.rank, "world_size": self.world_size, "local_rank": self.local_rank}
        known = {"local_world_size": self.local_world_size, "node_rank": self.node_rank, "node_count": self.node_count}
        values = {field: integer(names) for field, names in (needed | known).items()}
        return values, ["|".join(names) for field, names in needed.items() if values[field] is None]


_ENV = _Launcher(
    launcher="env",
    rank=("RANK",),
    world_size=("WORLD_SIZE",),
    local_rank=("LOCAL_RANK",),
    local_world_size=("LOCAL_WORLD_SIZE",),
    node_rank=("GROUP_RANK", "NODE_RANK"),  # torchrun's name, the other launchers'
    node_count=("GROUP_WORLD_SIZE",),
)
_SLURM = _Launcher(
    launcher="slurm",
    rank=("SLURM_PROCID",),
    world_size=("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    local_rank=("SLURM_LOCALID",),
    node_rank=("SLURM_NODEID",),
    node_count=("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
)
_OPENMPI = _Launcher(
    launcher="openmpi",
    rank=("OMPI_COMM_WORLD_RANK",),
    world_size=("OMPI_COMM_WORLD_SIZE",),
    local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
    local_world_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
)
# MPICH's hydra and Intel MPI say MPI_LOCALRANKID, Cray's PALS PMI_LOCAL_RANK.
_PMI = _Launcher(
    launcher="pmi",
    rank=("PMI_RANK", "PMIX_RANK"),
    world_size=("PMI_SIZE",),
    local_rank=("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
    local_world_size=("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
)


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

    Read anew with every call, in microseconds. Raises ValueError for a source with only some of its variables (naming
    the missing ones), for numbers out of range, and if an initialised process group has another rank or world size.
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
    """The first complete source, and what the incomplete ones lack."""
    lacking = []
    for source in _sources():
        values, missing = source.read()
        if not missing:
            if source is _SLURM:
                values["local_world_size"] = _tasks_on_node(values["node_rank"])
            launcher = "torchrun" if source is _ENV and "TORCHELASTIC_RUN_ID" in os.environ else source.launcher
            return _checked(launcher, values), ""
        if len(missing) < 3:
            lacking.append(f"{source.launcher} has no {', no '.join(missing)}")
    return None, "; ".join(lacking)


def _sources() -> list[_Launcher]:
    # SLURM_PROCID and friends are set in a batch script and an interactive shell too, where SLURM starts no ranks.
    step = "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    return [_ENV, *([_SLURM] if step else []), _OPENMPI, _PMI]


def _with_group(launched: Topology | None, lacking: str) -> Topology:
    """What the launcher said, checked against an initialised group; or what the group says."""
    group = initialized_group()
    if group is None:
        if lacking:
            raise ValueError(
                f"the environment of a launcher is incomplete: {lacking}; set what is missing, or unset it"
            )
        return launched or _checked("single", {"rank": 0, "world_size": 1, "local_rank": 0, "local_world_size": 1})
    rank, world_size = group.get_rank(), group.get_world_size()
    if launched is None:
        local = integer(("LOCAL_RANK",))
        return _checked("group", {"rank": rank, "world_size": world_size, "local_rank": local})
    if (rank, world_size) != (launched.rank, launched.world_size):
        raise ValueError(
            f"the process group says rank {rank} of {world_size}, the environment ({launched.launcher}) says "
            f"rank {launched.rank} of {launched.world_size}; start the group from the environment, or unset it"
        )
    return launched


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


def integer(names: Names) -> int | None:
    """The number in the first of these variables that is set; None if none is. Raises ValueError naming it."""
    for name in names:
        if value := os.environ.get(name, "").strip():
            try:
                return int(value)
            except ValueError:
                raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    return None


def _tasks_on_node(node: int | None) -> int | None:
    """This node's share of SLURM's `4(x2),3`: four tasks on each of two nodes, three on the third."""
    text = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in text.split(",") if text else []:
        if not (match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())):
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node] if node is not None and node < len(counts) else None


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
    if topology().rank == 0:
        print(s, **kwargs)  # noqa: T201
