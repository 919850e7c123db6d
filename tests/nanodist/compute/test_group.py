"""Process groups: gloo for the CPU, others by fakes, and what happens when ranks are missing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanodist.compute import group
from nanodist.errors import CoordinatorLost, LeaderError, LeaderLost, NotVisible, from_record, to_record
from nanodist.rank import Topology

Ranks = Callable[..., Any]


@pytest.mark.parametrize("store", ["agent", "rank0"])
def test_cpu_under_a_launcher_has_a_gloo_group(ranks: Ranks, store: str) -> None:
    code = """
        import atexit, torch, torch.distributed as dist, warnings
        warnings.simplefilter("error")
        atexit.register(nanodist.compute_cleanup)
        if RANK == 0:
            time.sleep(0.3)  # the others wait for the store to come up
        compute = nanodist.compute_init()
        ones = torch.ones(1)
        dist.all_reduce(ones)
        again = nanodist.compute_init("cpu")
        report(sum=ones.item(), backend=dist.get_backend(), ok=tuple(compute) == tuple(again), ddp=compute.ddp)
        nanodist.compute_cleanup()
    """
    run = ranks(code, 4, store=store)
    assert run.codes == [0] * 4, run.err
    assert run.last("sum") == [4.0] * 4
    assert run.last("backend") == ["gloo"] * 4
    assert run.last("ok") == run.last("ddp") == [True] * 4
    assert not run.err


def test_plain_init_after_ours_shares_the_port(ranks: Ranks) -> None:
    code = """
        import torch, torch.distributed as dist
        report(value=nanodist.leader_first("k", lambda: 1))
        dist.init_process_group("gloo")
        ones = torch.ones(1)
        dist.all_reduce(ones)
        report(sum=ones.item(), value=nanodist.leader_first("k", lambda: 2))
        dist.destroy_process_group()
    """
    run = ranks(code, 4, store="rank0")
    assert run.codes == [0] * 4, run.err
    assert run.last("sum") == [4.0] * 4
    assert run.last("value") == [2] * 4


def test_missing_ranks_are_named(ranks: Ranks) -> None:
    code = """
        if RANK < 2:
            failing(lambda: nanodist.compute_init("cpu", timeout=1.5))
    """
    run = ranks(code, 4)
    [first, *_] = run.all()
    assert (first["rank"], first["error"]) == (0, "CoordinatorLost")
    assert "these ranks did not come: [2, 3]" in first["text"]


def test_without_an_address_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_LOCALID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CoordinatorLost, match=r"slurm started 2 ranks.*scontrol show hostnames"):
        group.compute_init("cpu")


@pytest.mark.parametrize(
    ("device_type", "backend"), [("cuda", "nccl"), ("xpu", "xccl"), ("cpu", "gloo"), ("mps", "gloo")]
)
def test_backend_is_the_devices_own_and_bound_to_it(
    monkeypatch: pytest.MonkeyPatch, device_type: str, backend: str
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(group, "_fresh_store", lambda here, timeout: "store")
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, **options: seen.update(options, name=name)
    )
    device = torch.device(device_type, 3) if device_type in ("cuda", "xpu") else torch.device(device_type)
    group._init_group(Topology(3, 8, 3, 8, 0, 1, "torchrun"), device, 60)
    assert (seen["name"], seen["rank"], seen["world_size"]) == (backend, 3, 8)
    assert seen["device_id"] == (device if device_type in ("cuda", "xpu") else None)


def test_tpu_meets_the_way_torch_xla_does(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    seen: dict[str, Any] = {}
    for name in ("torch_xla", "torch_xla.distributed", "torch_xla.distributed.xla_backend"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, **options: seen.update(options, name=name)
    )
    group._init_group(Topology(0, 8, 0, 8, 0, 1, "torchrun"), SimpleNamespace(type="xla"), 60)
    assert seen == {"name": "xla", "init_method": "xla://"}


ERRORS = [
    LeaderError(rank=1, host="h", type="KeyError", text="boom", traceback="tb"),
    LeaderLost(key="k", rank=1, host="h", pid=2, reason="gone"),
    CoordinatorLost(address="h:1", reason="no answer"),
    NotVisible(path="/p", host="a", leader_host="b", reason="this is another disk"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_pickle_cross_ranks_and_are_one_line(error: Exception) -> None:
    import json
    import pickle

    for copy in (
        pickle.loads(pickle.dumps(error)),
        from_record(json.loads(json.dumps(to_record(error, rank=0, host="")))),
    ):
        assert type(copy) is type(error)
        assert (copy.facts(), str(copy)) == (error.facts(), str(error))
    assert "\n" not in str(error)


@pytest.mark.parametrize("store", ["agent", "rank0"])
@pytest.mark.parametrize("cleanup", ["nanodist.compute_cleanup()", "dist.destroy_process_group()"])
def test_init_works_again_after_a_cleanup(ranks: Ranks, store: str, cleanup: str) -> None:
    code = f"""
        import torch, torch.distributed as dist
        sums = []
        for _ in range(3):
            nanodist.compute_init("cpu", timeout=30)
            ones = torch.ones(1)
            dist.all_reduce(ones)
            sums.append(ones.item())
            {cleanup}
        report(sums=sums, again=nanodist.compute_init("cpu", timeout=30).world_size)
        nanodist.compute_cleanup()
        nanodist.compute_cleanup()
    """
    run = ranks(code, 2, store=store)
    assert run.codes == [0] * 2, run.err
    assert run.last("sums") == [[2.0] * 3] * 2
    assert run.last("again") == [2] * 2
