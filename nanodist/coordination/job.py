"""Which job a store belongs to: two jobs on one port must not add up each other's tensors.

    nanodist/job    what the environment says of the job that the store is of, as JSON, said once

Scripts hard-code 29500, and a requeued job meets its predecessor: a rank that asks the other job's store would be
answered, counted and given a place in its group. So each rank compares first. Invariants: what is compared is the same
on all ranks of one job; a fact that either side lacks decides nothing, because a rank started by ssh has no SLURM_*;
in doubt the ranks are of one job.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ..errors import CoordinatorLost
from ..rank import Topology
from .store_client import StoreClient

__all__ = ["check_same_job"]

HOSTS_WORD = 0.5  # seconds for the rank that serves a store to say whose it is; it does so at once
KEY = "job-facts"

# Fact -> the variables that say it, the first that is set. A step is no fact of a job that torchrun runs, which may
# have a step on each node.
JOB_FACTS = {
    "torchrun id": ("TORCHELASTIC_RUN_ID",),
    "SLURM job": ("SLURM_HET_JOB_ID", "SLURM_JOB_ID"),
    "SLURM restart": ("SLURM_RESTART_COUNT",),
}
SLURM_STEP = ("SLURM_STEP_ID",)


def job_facts(here: Topology) -> dict[str, str]:
    """What this rank knows of its job."""
    named = JOB_FACTS | ({"SLURM step": SLURM_STEP} if here.launcher == "slurm" else {})
    found = {fact: _first_set(names) for fact, names in named.items()}
    known = {fact: value for fact, value in found.items() if value}
    return known | {"user": str(os.getuid()), "world size": str(here.world_size)}


def _first_set(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def check_same_job(client: Any, here: Topology, *, address: str, hosting: bool, lasting: bool) -> None:
    """Raise CoordinatorLost, naming both jobs, if the store is another job's.

    The rank that serves it (`hosting`) says whose it is; of one that outlives the ranks (`lasting`), the first to come.
    """
    words = StoreClient(address, client, "nanodist")
    mine = job_facts(here)
    if hosting:
        words.set(KEY, json.dumps(mine))
        return
    theirs = json.loads(_facts_of(words, json.dumps(mine), patience=0.0 if lasting else HOSTS_WORD))
    different = [fact for fact in mine if fact in theirs and theirs[fact] != mine[fact]]
    if different:
        said = ", ".join(f"{fact} {theirs[fact]}" for fact in different)
        own = ", ".join(f"{fact} {mine[fact]}" for fact in different)
        reason = f"it is another job's ({said}; this one is {own}); give each job a MASTER_PORT of its own"
        raise CoordinatorLost(address=address, reason=reason)


def _facts_of(words: StoreClient, mine: str, *, patience: float) -> str:
    """What was said of the store's job; `mine` if nothing was after `patience` seconds, which is said then."""
    deadline = time.monotonic() + patience
    while not words.check(KEY) and time.monotonic() < deadline:
        time.sleep(0.01)
    return words.compare_set(KEY, "", mine)
