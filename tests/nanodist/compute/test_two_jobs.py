"""Two jobs on one MASTER_PORT: no group of ranks of both, and an error that names them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

CODE = """
import sys, time, nanodist
time.sleep(float(sys.argv[2]))
try:
    nanodist.compute_init("cpu", timeout=float(sys.argv[3]))
    import torch, torch.distributed as dist
    x = torch.tensor([float(sys.argv[1])])
    dist.all_reduce(x)
    print("sum", x.item())
    time.sleep(1)
    nanodist.compute_cleanup()
except nanodist.CoordinatorLost as e:
    print(f"refused: {e}")
"""
QUIET = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.fixture
def start(port: str) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def rank(value: int, delay: float, *, timeout: float = 12, **job: str) -> subprocess.Popen[str]:
        environment = os.environ | QUIET | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | job
        line = [sys.executable, "-c", CODE, str(value), str(delay), str(timeout)]
        started.append(subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield rank
    for process in started:
        process.kill()
        process.communicate()


def said(*processes: subprocess.Popen[str]) -> list[str]:
    return [process.communicate(timeout=60)[0].strip() for process in processes]


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
    start: Start, first: dict[str, str], second: dict[str, str], names: list[str]
) -> None:
    zero = {
        name: "0" if value == "1" and name.endswith(("RANK", "PROCID", "LOCALID")) else value
        for name, value in first.items()
    }
    ours = [start(1, 0, timeout=30, **zero), start(1, 5, timeout=30, **first)]
    began = time.monotonic()
    [stranger] = said(start(100, 2, **second))
    assert time.monotonic() - began < 20  # at once, and not when its patience ends
    assert stranger.startswith("refused:")
    for name in (*names, "MASTER_PORT"):
        assert name in stranger
    assert said(*ours) == ["sum 2.0"] * 2


def test_the_second_rank_0_says_that_the_port_is_taken(start: Start, port: str) -> None:
    ours = [start(1, 0, **plain(0)), start(1, 5, **plain(1))]
    [stranger] = said(start(100, 2, **plain(0)))
    assert stranger.startswith("refused:")
    assert port in stranger
    assert "MASTER_PORT" in stranger
    assert said(*ours) == ["sum 2.0"] * 2


def test_two_processes_of_one_rank_are_not_both_taken(start: Start) -> None:
    """Of two jobs that nothing tells apart."""
    zero = start(1, 0, **plain(0, 3))
    told = said(start(1, 1, **plain(1, 3)), start(100, 1, **plain(1, 3)), zero)
    assert all(text.startswith("refused") for text in told)
    assert sum("is rank 1 of its group already" in text for text in told) == 1


def test_a_rank_without_the_launchers_variables_is_of_the_same_job(start: Start) -> None:
    """Started by ssh, say, beside one that SLURM's step started."""
    ours = [start(1, 0, **plain(0, SLURM_JOB_ID="5", SLURM_STEP_ID="0")), start(1, 0, **plain(1))]
    assert said(*ours) == ["sum 2.0"] * 2
