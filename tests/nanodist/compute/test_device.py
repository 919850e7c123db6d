"""Devices and precision, with fakes for what this machine lacks."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest
import torch

import nanodist
from nanodist.compute import device, dtype
from nanodist.rank import Topology


def here(local_rank: int | None) -> Topology:
    return Topology(3, 8, local_rank, None, None, None, "env")


def fake_module(count: int, bound: list[int]) -> SimpleNamespace:
    return SimpleNamespace(device_count=lambda: count, set_device=bound.append)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch):
    """Pretend that torch has an accelerator of some type."""

    def pretend(name: str) -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type=name))

    return pretend


def test_cpu_where_there_is_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nanodist")
    assert nanodist.autodetect_device_type() == "cpu"
    assert "cpu" in caplog.text


@pytest.mark.parametrize("name", ["cuda", "xpu", "mps", "npu"])
def test_accelerator_that_torch_names_is_picked(accelerator, name: str) -> None:
    accelerator(name)
    assert nanodist.autodetect_device_type() == name
    assert device.available() == (name, "cpu")


def test_asking_what_is_there_makes_no_cuda_context(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    seen = []
    monkeypatch.setattr(
        torch.accelerator, "is_available", lambda: seen.append(os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]) or False
    )
    device.available()
    assert seen == ["1"]
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ


def test_environment_overrides_and_must_name_what_is_there(accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator("cuda")
    monkeypatch.setenv("NANODIST_DEVICE", "cpu")
    assert nanodist.autodetect_device_type() == "cpu"
    monkeypatch.setenv("NANODIST_DEVICE", "xpu")
    with pytest.raises(ValueError, match="'xpu' here; available: cuda, cpu"):
        nanodist.autodetect_device_type()


@pytest.mark.parametrize("asked", ["tpu", "cuda", "quantum"])
def test_device_that_is_not_there_is_an_error_that_says_what_is(asked: str) -> None:
    with pytest.raises(ValueError, match="available: cpu"):
        nanodist.compute_init(asked)


def test_rocm_is_cuda_to_torch(accelerator) -> None:
    accelerator("cuda")
    assert device.resolve("rocm") == "cuda"


@pytest.mark.parametrize(("count", "local_rank", "index"), [(8, 3, 3), (1, 3, 0), (1, None, 0)])
def test_local_rank_picks_the_device_unless_one_is_visible(
    monkeypatch: pytest.MonkeyPatch, count: int, local_rank: int | None, index: int
) -> None:
    bound: list[int] = []
    monkeypatch.setattr(torch, "cuda", fake_module(count, bound))
    assert device.local_device("cuda", here(local_rank)) == torch.device("cuda", index)
    assert bound == [index]


@pytest.mark.parametrize(("count", "local_rank", "told"), [(2, 3, "needs 4 cuda devices, 2"), (2, None, "LOCAL_RANK")])
def test_too_few_devices_is_an_error(monkeypatch: pytest.MonkeyPatch, count: int, local_rank: int, told: str) -> None:
    monkeypatch.setattr(torch, "cuda", fake_module(count, []))
    with pytest.raises(ValueError, match=told):
        device.local_device("cuda", here(local_rank))


def test_tpu_where_torch_xla_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name == "torch_xla")
    monkeypatch.setitem(sys.modules, "torch_xla", SimpleNamespace(device=lambda: torch.device("cpu")))
    assert device.resolve("tpu") == "xla"
    assert device.local_device("xla", here(0)) == torch.device("cpu")


def test_tf32_is_set_so_that_every_reader_understands() -> None:
    try:
        nanodist.set_tf32()
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.allow_tf32
        nanodist.set_tf32(False)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture
def fresh_dtype(monkeypatch: pytest.MonkeyPatch):
    dtype.compute_dtype.cache_clear()
    yield
    dtype.compute_dtype.cache_clear()


@pytest.mark.usefixtures("fresh_dtype")
class TestComputeDtype:
    def test_float32_without_cuda(self) -> None:
        assert dtype.compute_dtype() == (torch.float32, "no CUDA device")

    @pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
    def test_environment_overrides_and_asks_no_device(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("NANOCHAT_DTYPE", name)
        monkeypatch.setattr(dtype, "_cuda_capability", lambda: 1 / 0)
        assert dtype.compute_dtype() == (getattr(torch, name), f"NANOCHAT_DTYPE={name}")

    def test_unknown_value_names_the_three(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NANOCHAT_DTYPE", "int8")
        with pytest.raises(ValueError, match="bfloat16, float16, float32, got 'int8'"):
            dtype.compute_dtype()

    @pytest.mark.parametrize(
        ("capability", "expected"),
        [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float32), ((10, 0), torch.bfloat16)],
    )
    def test_bfloat16_since_ampere(self, monkeypatch: pytest.MonkeyPatch, capability, expected) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(dtype, "nvml_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: 1 / 0)  # it would make a context
        assert dtype.compute_dtype()[0] == expected

    def test_cuda_is_asked_where_nvml_does_not_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(dtype, "nvml_capability", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
        assert dtype.compute_dtype() == (torch.bfloat16, "CUDA capability 8.9 has bfloat16 tensor cores")


class FakeNvml:
    """NVML's C functions over a list of capabilities."""

    def __init__(self, kinds: list[tuple[int, int]]) -> None:
        self.kinds, self.open = kinds, 0

    def nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count) -> int:
        count._obj.value = len(self.kinds)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle) -> int:
        handle._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle, major, minor) -> int:
        major._obj.value, minor._obj.value = self.kinds[handle.value - 1]
        return 0


@pytest.mark.parametrize(("kinds", "expected"), [([(9, 0)] * 8, (9, 0)), ([(7, 5), (8, 6)], None), ([], None)])
def test_nvml_answers_for_machines_with_one_kind_of_gpu(monkeypatch: pytest.MonkeyPatch, kinds, expected) -> None:
    fake = FakeNvml(kinds)
    monkeypatch.setattr(dtype.ctypes, "CDLL", lambda name: fake)
    assert dtype.nvml_capability() == expected
    assert fake.open == 0


def test_nvml_that_is_not_there_says_nothing() -> None:
    assert dtype.nvml_capability() is None
