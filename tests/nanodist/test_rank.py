"""Which rank is this: each launcher's environment, and what is wrong with broken ones."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

import nanodist
from nanodist.rank import Topology, topology

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "x",
}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_NTASKS": "16",
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
PMI = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch):
    def set_all(*groups: dict[str, str]) -> None:
        for group in groups:
            for name, value in group.items():
                monkeypatch.setenv(name, value)

    return set_all


def test_no_launcher_is_one_process() -> None:
    assert topology() == Topology(0, 1, 0, 1, 0, 1, "single")
    assert not topology().distributed
    assert nanodist.get_dist_info() == (False, 0, 0, 1)
    assert not nanodist.is_ddp_requested()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (TORCHRUN, Topology(5, 8, 1, 4, 1, 2, "torchrun")),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Topology(1, 2, 1, None, None, None, "env")),
        (SLURM, Topology(9, 11, 1, 3, 2, 3, "slurm")),
        (OPENMPI, Topology(3, 4, 1, 2, None, None, "openmpi")),
        (PMI, Topology(3, 4, 1, 2, None, None, "pmi")),
        (OPENMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, Topology(3, 4, 1, 4, 0, 1, "openmpi")),
    ],
)
def test_each_launcher_is_understood(env, variables: dict[str, str], expected: Topology) -> None:
    env(variables)
    assert topology() == expected
    assert nanodist.get_dist_info() == (True, expected.rank, expected.local_rank, expected.world_size)


def test_first_complete_source_is_used_alone(env) -> None:
    env(TORCHRUN, SLURM, OPENMPI)  # srun starts one torchrun per node: SLURM counts the agents
    assert topology() == Topology(5, 8, 1, 4, 1, 2, "torchrun")


def test_incomplete_source_yields_to_a_complete_one(env) -> None:
    env({"WORLD_SIZE": "11"}, SLURM)  # batch scripts export WORLD_SIZE and leave the rank to srun
    assert topology().launcher == "slurm"


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_interactive_slurm_shell_is_no_job(env, name: str) -> None:
    env(SLURM | {"SLURM_JOB_NAME": name})
    assert topology().launcher == "single"


def test_batch_script_of_slurm_is_no_step(env, monkeypatch: pytest.MonkeyPatch) -> None:
    env(SLURM)
    monkeypatch.delenv("SLURM_STEP_ID")
    assert topology().launcher == "single"


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_source_with_only_some_variables_names_the_missing(env, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    env(TORCHRUN)
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=rf"env has no {missing};"):
        topology()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RANK": "8"}, r"rank must be in \[0, 8\), got 8"),
        ({"LOCAL_RANK": "-1"}, r"local rank must be in \[0, 4\), got -1"),
        ({"GROUP_RANK": "2"}, r"node rank must be in \[0, 2\), got 2"),
        ({"RANK": "one"}, "RANK must be a whole number, got 'one'"),
    ],
)
def test_number_out_of_range_is_named_with_the_range(env, variables: dict[str, str], told: str) -> None:
    env(TORCHRUN | variables)
    with pytest.raises(ValueError, match=told):
        topology()


def test_arguments_are_the_only_source(env) -> None:
    env(TORCHRUN)
    assert topology(rank=1, world_size=2, local_rank=0) == Topology(1, 2, 0, None, None, None, "arguments")
    with pytest.raises(ValueError, match="missing: world_size, local_rank"):
        topology(rank=1)


def group(rank: int, world_size: int) -> SimpleNamespace:
    return SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_rank=lambda: rank,
        get_world_size=lambda: world_size,
    )


def test_group_with_another_rank_is_an_error_naming_both(env, monkeypatch: pytest.MonkeyPatch) -> None:
    env(TORCHRUN)
    monkeypatch.setitem(sys.modules, "torch.distributed", group(4, 8))
    with pytest.raises(ValueError, match=r"rank 4 of 8.*rank 5 of 8"):
        topology()


def test_group_made_by_hand_is_a_source(env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.distributed", group(1, 2))
    assert topology() == Topology(1, 2, None, None, None, None, "group")
    assert nanodist.is_ddp()
    with pytest.raises(ValueError, match="LOCAL_RANK"):
        nanodist.get_dist_info()
    env({"LOCAL_RANK": "1"})
    assert nanodist.get_dist_info() == (True, 1, 1, 2)


def test_print0_knows_the_rank_under_every_launcher(env, capsys: pytest.CaptureFixture[str]) -> None:
    nanodist.print0("alone", end="!")
    env(SLURM)
    nanodist.print0("rank 9 of SLURM")
    env({"SLURM_PROCID": "0"})
    nanodist.print0("rank 0 of SLURM")
    assert capsys.readouterr().out == "alone!rank 0 of SLURM\n"


def test_rank_never_imports_torch() -> None:
    code = (
        "import sys, nanodist; nanodist.get_dist_info(); nanodist.is_ddp_initialized(); nanodist.print0(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
