"""Two jobs on one MASTER_PORT: no group of ranks of both, and an error that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Ranks = Callable[..., Any]
Process = tuple[float, dict[str, str], list[str]]  # what it adds to the sum, its variables, the steps it waits for

CODE = """
import torch, torch.distributed as dist
from nanodist.compute import group

def serve(*args, check=group.check_same_job, **options):
    check(*args, **options)
    mark("served")
group.check_same_job = serve

value, variables, after = processes[RANK]
until(*after)
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
    del os.environ[name]
os.environ.update(variables)
began = time.monotonic()
try:
    nanodist.compute_init("cpu", timeout=patience)
    x = torch.tensor([value])
    dist.all_reduce(x)
    report(said=f"sum {x.item()}")
    nanodist.compute_cleanup()
except nanodist.CoordinatorLost as e:
    report(said=f"refused: {e}", took=time.monotonic() - began, port=os.environ["MASTER_PORT"])
finally:
    mark("answered")
"""


@pytest.fixture
def meet(ranks: Ranks) -> Callable[..., Any]:
    """Processes on one MASTER_PORT, each at its time; what each of them said."""

    def run(*processes: Process, patience: float = 30) -> Any:
        return ranks(CODE, len(processes), store="rank0", processes=processes, patience=patience)

    return run


def slurm(job: str, rank: int, **more: str) -> dict[str, str]:
    step = {"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
    step |= {"SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    return step | {"SLURM_STEP_TASKS_PER_NODE": "2"} | more


def plain(rank: int, world_size: int = 2, **more: str) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)} | more


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (slurm("11", 1), slurm("22", 1), ["SLURM job 11", "SLURM job 22"]),
        (slurm("11", 1), slurm("11", 1, SLURM_STEP_ID="1"), ["SLURM step 0", "SLURM step 1"]),
        (slurm("11", 1, SLURM_RESTART_COUNT="1"), slurm("11", 1, SLURM_RESTART_COUNT="2"), ["restart 1", "restart 2"]),
        (plain(1), plain(1, 3), ["world size 2", "world size 3"]),
        (plain(1, SLURM_JOB_ID="5"), plain(1, SLURM_JOB_ID="6"), ["SLURM job 5", "SLURM job 6"]),
    ],
    ids=["job", "step", "requeued", "world", "env in slurm"],
)
def test_a_rank_of_another_job_is_refused_by_name_and_the_first_job_works(
    meet: Callable[..., Any], first: dict[str, str], second: dict[str, str], names: list[str]
) -> None:
    zero = {
        name: "0" if value == "1" and name.endswith(("RANK", "PROCID", "LOCALID")) else value
        for name, value in first.items()
    }
    run = meet((1.0, zero, []), (100.0, second, ["served"]), (1.0, first, ["answered"]))
    ours, stranger, last = run.last("said")
    assert stranger.startswith("refused:")
    for name in (*names, "MASTER_PORT"):
        assert name in stranger
    assert run.last("took")[0] < 15  # at once, and not when its patience ends
    assert [ours, last] == ["sum 2.0"] * 2, run.err


def test_the_second_rank_0_says_that_the_port_is_taken(meet: Callable[..., Any]) -> None:
    run = meet((1.0, plain(0), []), (100.0, plain(0), ["served"]), (1.0, plain(1), ["answered"]))
    ours, stranger, last = run.last("said")
    assert stranger.startswith("refused:")
    assert run.last("port")[0] in stranger
    assert "MASTER_PORT" in stranger
    assert [ours, last] == ["sum 2.0"] * 2, run.err


def test_two_processes_of_one_rank_are_not_both_taken(meet: Callable[..., Any]) -> None:
    """Of two jobs that nothing tells apart."""
    run = meet((1.0, plain(0, 3), []), *[(1.0, plain(1, 3), ["served"])] * 2, patience=3)
    told = run.last("said")
    assert len(told) == 3, run.err
    assert all(text.startswith("refused") for text in told)
    assert sum("is rank 1 of its group already" in text for text in told) == 1


def test_a_rank_without_the_launchers_variables_is_of_the_same_job(meet: Callable[..., Any]) -> None:
    """Started by ssh, say, beside one that SLURM's step started."""
    run = meet((1.0, plain(0, SLURM_JOB_ID="5", SLURM_STEP_ID="0"), []), (1.0, plain(1), []))
    assert run.last("said") == ["sum 2.0"] * 2, run.err
