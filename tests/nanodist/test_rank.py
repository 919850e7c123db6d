"""Which rank is this: each launcher's environment, and what is wrong with broken ones."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import nanodist
from nanodist import rank
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
HOROVOD = {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"}
MVAPICH2 = {name.replace("OMPI", "MV2"): value for name, value in OPENMPI.items()}
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
        (HOROVOD, Topology(3, 4, 1, 2, None, None, "horovod")),
        (MVAPICH2, Topology(3, 4, 1, 2, None, None, "mvapich2")),
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


@pytest.mark.parametrize("source", [OPENMPI, PMI, HOROVOD, MVAPICH2])
def test_ranks_of_mpirun_inside_a_slurm_step_are_those_of_mpirun(env, source: dict[str, str]) -> None:
    env(SLURM, source)  # SLURM numbers the daemons that started them
    assert (topology().rank, topology().world_size) == (3, 4)


def test_srun_with_its_own_pmi_is_slurms(env) -> None:
    env(SLURM, {"PMI_RANK": "9", "PMI_SIZE": "11"})  # --mpi=pmi2 says no local rank
    assert topology() == Topology(9, 11, 1, 3, 2, 3, "slurm")


@pytest.mark.parametrize("name", ["bash", "interactive", "train"])
def test_slurm_step_is_one_whatever_the_job_is_called(env, name: str) -> None:
    env(SLURM | {"SLURM_JOB_NAME": name})
    assert topology().launcher == "slurm"


def test_shell_that_srun_gave_is_no_rank(env) -> None:
    env(SLURM | {"SLURM_PTY_PORT": "34129", "SLURM_TASK_PID": str(os.getppid())})
    assert topology().launcher == "single"


def test_program_that_srun_gave_a_terminal_is_a_rank(env) -> None:
    env(SLURM | {"SLURM_PTY_PORT": "34129", "SLURM_TASK_PID": str(os.getpid())})
    assert topology().launcher == "slurm"


LEFTOVERS = [
    {"MASTER_ADDR": "localhost", "MASTER_PORT": "23456", "RANK": "0", "WORLD_SIZE": "1"},  # a PyTorchJob of one pod
    {"WORLD_SIZE": "1"},
    {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"},
    {"LOCAL_RANK": "1", "NODE_RANK": "0"},  # Lightning's children
    {"PMI_RANK": "0", "PMI_SIZE": "1"},  # flux
    {"LOCAL_RANK": "-1"},
    {"RANK": "-1", "WORLD_SIZE": "-1", "LOCAL_RANK": "-1"},
    {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "-1"},
    {"PMIX_RANK": "0"},
]


@pytest.mark.parametrize("variables", LEFTOVERS, ids=" ".join)
def test_leftovers_of_one_process_are_one_process(env, variables: dict[str, str]) -> None:
    env(variables)
    assert topology() == Topology(0, 1, 0, 1, 0, 1, "single")


@pytest.mark.parametrize("variables", LEFTOVERS, ids=" ".join)
def test_leftovers_of_one_process_hide_no_rank_of_slurm(env, variables: dict[str, str]) -> None:
    env(variables, SLURM)
    assert topology().rank == 9


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"RANK": "3", "WORLD_SIZE": "4"}, "env has no LOCAL_RANK"),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, "env has no RANK"),
        ({"PMIX_RANK": "3"}, "pmi has no PMI_SIZE"),
    ],
)
def test_one_of_several_processes_never_believes_to_be_alone(env, variables: dict[str, str], missing: str) -> None:
    env(variables)
    for call in (topology, nanodist.get_dist_info, lambda: nanodist.compute_init("cpu")):
        with pytest.raises(ValueError, match=missing):
            call()


BROKEN = [
    {"RANK": "0", "WORLD_SIZE": "4"},
    {"WORLD_SIZE": "11"},
    {"RANK": "one", "WORLD_SIZE": "4"},
    {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "70000"},
    {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "tcp://10.0.0.1:80"},
]


@pytest.mark.parametrize("scope", ["auto", "job", "broadcast"])
@pytest.mark.parametrize("variables", BROKEN, ids=lambda variables: " ".join(variables.values()))
def test_broken_environment_costs_one_warning_and_no_print_or_file(
    env, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys, caplog, variables: dict[str, str], scope: str
) -> None:
    monkeypatch.setattr(rank, "_warned", set())
    source = tmp_path / "a"
    source.write_bytes(b"x")
    env(variables)
    with caplog.at_level(logging.WARNING, "nanodist"):
        for _ in range(2):
            nanodist.print0("hello")
            assert nanodist.autodetect_device_type()
            assert nanodist.fetch(source.as_uri(), base_dir=tmp_path / "base", scope=scope).read_bytes() == b"x"
    assert capsys.readouterr().out == "hello\nhello\n"
    assert [record.message.count("file locks alone coordinate") for record in caplog.records] == [1]


def test_print0_is_silent_where_a_rank_above_0_is_all_that_is_known(env, capsys: pytest.CaptureFixture[str]) -> None:
    env({"RANK": "3", "WORLD_SIZE": "4"})  # a PyTorchJob of four pods
    nanodist.print0("hello")
    assert capsys.readouterr().out == ""


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


def test_group_that_is_a_part_of_the_launchers_world_changes_nothing(env, monkeypatch: pytest.MonkeyPatch) -> None:
    env(TORCHRUN)
    monkeypatch.setitem(sys.modules, "torch.distributed", group(1, 4))
    assert topology() == Topology(5, 8, 1, 4, 1, 2, "torchrun")


def test_group_larger_than_the_launchers_world_is_an_error_naming_both(env, monkeypatch: pytest.MonkeyPatch) -> None:
    env(TORCHRUN)
    monkeypatch.setitem(sys.modules, "torch.distributed", group(5, 16))
    with pytest.raises(ValueError, match=r"rank 5 of 16.*rank 5 of 8"):
        topology()


@pytest.mark.parametrize("variables", [{"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, *LEFTOVERS[5:7]])
def test_ranks_that_one_process_started_are_those_of_their_group(
    env, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    env(variables)
    monkeypatch.setitem(sys.modules, "torch.distributed", group(1, 4))
    assert topology() == Topology(1, 4, None, None, None, None, "group")


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
