"""COMPUTE_DTYPE: the type that matrix products are computed in, and why.

    NANOCHAT_DTYPE            bfloat16, float16 or float32, and no device is asked
    CUDA, capability >= 8.0   bfloat16: Ampere and later have tensor cores for it; V100 and T4 have float16 only
    else                      float32: older GPUs (float16 needs loss scaling), CPU, MPS, XPU

Not autocast: layers cast their weights to it. Invariants: decided once, at the first access; no CUDA context is made
where NVML answers, so that fork stays safe. Tested with fakes, not run on a GPU.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["compute_dtype"]

Capability = tuple[int, int]

_NAMES = ("bfloat16", "float16", "float32")
_BFLOAT16_SINCE: Capability = (8, 0)


@cache
def compute_dtype() -> tuple[torch.dtype, str]:
    """The type and the reason. Raises ValueError for a NANOCHAT_DTYPE that is none of the three."""
    import torch

    if asked := os.environ.get("NANOCHAT_DTYPE", "").strip():
        if asked not in _NAMES:
            raise ValueError(f"NANOCHAT_DTYPE must be one of {', '.join(_NAMES)}, got {asked!r}")
        return getattr(torch, asked), f"NANOCHAT_DTYPE={asked}"
    capability = _cuda_capability()
    if capability is None:
        return torch.float32, "no CUDA device"
    name = f"CUDA capability {capability[0]}.{capability[1]}"
    if capability >= _BFLOAT16_SINCE:
        return torch.bfloat16, f"{name} has bfloat16 tensor cores"
    return torch.float32, f"{name} has no bfloat16 tensor cores"


def _cuda_capability() -> Capability | None:
    import torch

    if not torch.cuda.device_count():  # 0 as well in a build without CUDA; asks NVML, not the runtime
        return None
    if torch.version.cuda is not None and (known := nvml_capability()) is not None:
        return known
    return torch.cuda.get_device_capability()


def nvml_capability() -> Capability | None:
    """What all GPUs of this machine have in common; None if they differ or NVML does not say.

    NVML counts all GPUs in bus order, CUDA the visible ones, the fastest first: an index of one is none of the other.
    So only a machine with one kind of GPU is answered here; any other is left to the CUDA runtime.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        kinds = set(_capabilities(nvml))
    finally:
        nvml.nvmlShutdown()
    return kinds.pop() if len(kinds) == 1 else None


def _capabilities(nvml: ctypes.CDLL) -> list[Capability]:
    # https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    count = ctypes.c_uint()
    found: list[Capability] = []
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    for index in range(count.value):
        device = ctypes.c_void_p()
        major = ctypes.c_int()
        minor = ctypes.c_int()
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != 0:
            return []
        if nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor)) != 0:
            return []
        found.append((major.value, minor.value))
    return found
