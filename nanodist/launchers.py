"""What launchers leave in the environment of a process: the variables of each, and their values.

Not a verdict on the process (`rank`), and never torch.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

__all__ = ["ENV", "SLURM", "Launcher", "integer", "sources", "tasks_on_node"]

Names = tuple[str, ...]  # environment variables that mean the same; the first one set counts


@dataclass(frozen=True, slots=True)
class Launcher:
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


ENV = Launcher(
    launcher="env",
    rank=("RANK",),
    world_size=("WORLD_SIZE",),
    local_rank=("LOCAL_RANK",),
    local_world_size=("LOCAL_WORLD_SIZE",),
    node_rank=("GROUP_RANK", "NODE_RANK"),  # torchrun's name, the other launchers'
    node_count=("GROUP_WORLD_SIZE",),
)
SLURM = Launcher(
    launcher="slurm",
    rank=("SLURM_PROCID",),
    world_size=("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    local_rank=("SLURM_LOCALID",),
    node_rank=("SLURM_NODEID",),
    node_count=("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
)
_OPENMPI = Launcher(
    launcher="openmpi",
    rank=("OMPI_COMM_WORLD_RANK",),
    world_size=("OMPI_COMM_WORLD_SIZE",),
    local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
    local_world_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
)
# MPICH's hydra and Intel MPI say MPI_LOCALRANKID, Cray's PALS PMI_LOCAL_RANK.
_PMI = Launcher(
    launcher="pmi",
    rank=("PMI_RANK", "PMIX_RANK"),
    world_size=("PMI_SIZE",),
    local_rank=("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
    local_world_size=("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
)


def sources() -> list[Launcher]:
    # SLURM_PROCID and friends are set in a batch script and an interactive shell too, where SLURM starts no ranks.
    step = "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    return [ENV, *([SLURM] if step else []), _OPENMPI, _PMI]


def integer(names: Names) -> int | None:
    """The number in the first of these variables that is set; None if none is. Raises ValueError naming it."""
    for name in names:
        if value := os.environ.get(name, "").strip():
            try:
                return int(value)
            except ValueError:
                raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    return None


def tasks_on_node(node: int | None) -> int | None:
    """This node's share of SLURM's `4(x2),3`: four tasks on each of two nodes, three on the third."""
    text = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in text.split(",") if text else []:
        if not (match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())):
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node] if node is not None and node < len(counts) else None
