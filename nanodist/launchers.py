"""What launchers leave in the environment of a process: its rank, and how far that can be believed.

    torchrun, or RANK/WORLD_SIZE/LOCAL_RANK > Horovod > Open MPI > MVAPICH2 > PMI > SLURM step

Not a verdict on the process (`rank`), and never torch. Invariants: the first complete source is used alone, because
mpirun or torchrun inside srun differ from SLURM by right (SLURM then numbers daemons and agents). An incomplete source
counts only where it shows several processes: jobs of one process leave RANK=0, WORLD_SIZE=1 or LOCAL_RANK=-1 behind.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["LaunchFacts", "first_complete", "integer", "is_spawned_worker", "stated_rank"]

Names = tuple[str, ...]  # environment variables that mean the same; the first one set counts

NEEDED = ("rank", "world_size", "local_rank")  # fields without which a source is incomplete


@dataclass(frozen=True, slots=True)
class LaunchFacts:
    """What the variables of one launcher say."""

    launcher: str
    values: dict[str, int | None]
    missing: list[str]  # needed variables that are not set

    @property
    def several(self) -> bool:
        """Whether it shows more than one process: a world size above 1, or a rank above 0."""
        return (self.values["world_size"] or 1) > 1 or (self.values["rank"] or 0) > 0

    @property
    def complete(self) -> bool:
        """Whether it can be used: all that is needed is there and, in a job of one process, says just that."""
        if self.missing:
            return False
        return self.several or [self.values[field] for field in NEEDED] == [0, 1, 0]


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

    def read(self) -> LaunchFacts:
        needed = {field: getattr(self, field) for field in NEEDED}
        known = {"local_world_size": self.local_world_size, "node_rank": self.node_rank, "node_count": self.node_count}
        values = {field: integer(names) for field, names in (needed | known).items()}
        missing = ["|".join(names) for field, names in needed.items() if values[field] is None]
        return LaunchFacts(self.launcher, values, missing)


_ENV = _Launcher(
    launcher="env",
    rank=("RANK",),
    world_size=("WORLD_SIZE",),
    local_rank=("LOCAL_RANK",),
    local_world_size=("LOCAL_WORLD_SIZE",),
    node_rank=("GROUP_RANK", "NODE_RANK"),  # torchrun's name, the other launchers'
    node_count=("GROUP_WORLD_SIZE",),
)
_HOROVOD = _Launcher(
    launcher="horovod",
    rank=("HOROVOD_RANK",),
    world_size=("HOROVOD_SIZE",),
    local_rank=("HOROVOD_LOCAL_RANK",),
    local_world_size=("HOROVOD_LOCAL_SIZE",),
)
_OPENMPI = _Launcher(
    launcher="openmpi",
    rank=("OMPI_COMM_WORLD_RANK",),
    world_size=("OMPI_COMM_WORLD_SIZE",),
    local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
    local_world_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
)
_MVAPICH2 = _Launcher(
    launcher="mvapich2",
    rank=("MV2_COMM_WORLD_RANK",),
    world_size=("MV2_COMM_WORLD_SIZE",),
    local_rank=("MV2_COMM_WORLD_LOCAL_RANK",),
    local_world_size=("MV2_COMM_WORLD_LOCAL_SIZE",),
)
# MPICH's hydra and Intel MPI say MPI_LOCALRANKID, Cray's PALS PMI_LOCAL_RANK.
_PMI = _Launcher(
    launcher="pmi",
    rank=("PMI_RANK", "PMIX_RANK"),
    world_size=("PMI_SIZE",),
    local_rank=("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
    local_world_size=("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
)
_SLURM = _Launcher(
    launcher="slurm",
    rank=("SLURM_PROCID",),
    world_size=("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    local_rank=("SLURM_LOCALID",),
    node_rank=("SLURM_NODEID",),
    node_count=("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
)


def first_complete() -> tuple[LaunchFacts | None, str]:
    """The first complete source, else what those lack that show several processes.

    Raises ValueError for a variable that must be a number and is none.
    """
    lacking = []
    for launcher in _launchers():
        reading = launcher.read()
        if reading.complete:
            return _refined(reading), ""
        if reading.several:
            lacking.append(f"{reading.launcher} has no {', no '.join(reading.missing)}")
    return None, "; ".join(lacking)


def stated_rank() -> int | None:
    """The first rank that any launcher states, be its source complete or not; None if none can be read."""
    for launcher in _launchers():
        try:
            rank = integer(launcher.rank)
        except ValueError:
            continue
        if rank is not None:
            return rank
    return None


def is_spawned_worker() -> bool:
    """Whether multiprocessing started this process in a rank, whose variables it has: it works for it, and is none.

    A launcher that is a parent itself (torch.multiprocessing.spawn) was not started with a rank, so that its children
    are ranks. Where the parent's own start cannot be read (not Linux), a process with a rank is one.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    parent = None if multiprocessing is None else multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return False
    started_with = _environment_at_start(parent.pid)
    ranks = [name for launcher in _launchers() for name in launcher.rank if name in os.environ]
    return any(started_with.get(name) == os.environ[name] for name in ranks)


@cache
def _environment_at_start(pid: int) -> dict[str, str]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in data.split(b"\0"))
    return {name: value for name, _, value in pairs}


def integer(names: Names) -> int | None:
    """The number in the first of these variables that is set; None if none is. Raises ValueError naming it."""
    for name in names:
        if value := os.environ.get(name, "").strip():
            try:
                return int(value)
            except ValueError:
                raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    return None


def _launchers() -> list[_Launcher]:
    # SLURM sets its variables in a batch script, too, where it starts no ranks: there is no step.
    step = "SLURM_STEP_ID" in os.environ and not _is_slurm_shell()
    return [_ENV, _HOROVOD, _OPENMPI, _MVAPICH2, _PMI, *([_SLURM] if step else [])]


def _is_slurm_shell() -> bool:
    """Whether this process was started by hand in a shell that `srun --pty` gave.

    Not by the job's name: salloc calls every job "interactive", and srun hands that on to the ranks that it starts.
    """
    task = os.environ.get("SLURM_TASK_PID", "").strip()
    return "SLURM_PTY_PORT" in os.environ and task not in ("", str(os.getpid()))


def _refined(reading: LaunchFacts) -> LaunchFacts:
    """With what only this launcher says, and says in its own way."""
    if reading.launcher == "slurm":
        return LaunchFacts(
            "slurm", reading.values | {"local_world_size": _tasks_on_node(reading.values["node_rank"])}, []
        )
    if reading.launcher == "env" and "TORCHELASTIC_RUN_ID" in os.environ:
        return LaunchFacts("torchrun", reading.values, [])
    return reading


def _tasks_on_node(node: int | None) -> int | None:
    """This node's share of SLURM's `4(x2),3`: four tasks on each of two nodes, three on the third."""
    text = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in text.split(",") if text else []:
        if not (match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())):
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node] if node is not None and node < len(counts) else None
