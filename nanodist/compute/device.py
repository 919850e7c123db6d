"""Which device does this rank compute on.

Not a precision (`dtype`) and not a process group (`group`). torch is imported inside the functions. Invariants: asking
what is there makes no CUDA context, so that a later fork stays safe; a device that is asked for and is not there is an
error that says what is. Everything but the CPU is tested with fakes only.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..rank import Topology, is_rank_0

if TYPE_CHECKING:
    import torch

__all__ = ["autodetect_device_type", "available", "local_device", "set_tf32"]

logger = logging.getLogger("nanodist")

_ALIASES = {"rocm": "cuda", "tpu": "xla", "gpu": "cuda"}  # ROCm's torch calls its devices cuda


def autodetect_device_type() -> str:
    """The type of device to compute on: NANODIST_DEVICE, else the accelerator that is there, else "cpu".

    Raises ValueError if NANODIST_DEVICE names one that is not there.
    """
    asked = os.environ.get("NANODIST_DEVICE", "").strip()
    device_type = resolve(asked) if asked else available()[0]
    if is_rank_0():
        logger.info("device type: %s%s", device_type, " (NANODIST_DEVICE)" if asked else "")
    return device_type


def available() -> tuple[str, ...]:
    """The types of device that are there, the fastest first; the last is "cpu"."""
    found = [name for name in (_tpu(), _accelerator()) if name]
    return (*found, "cpu")


def resolve(device_type: str) -> str:
    """`device_type` as torch calls it. Raises ValueError if it is not there, saying what is."""
    name = _ALIASES.get(device_type.lower(), device_type.lower())
    have = available()
    if name not in have:
        raise ValueError(f"there is no device of type {device_type!r} here; available: {', '.join(have)}")
    return name


def local_device(device_type: str, here: Topology) -> torch.device:
    """This rank's device of that type, made the current one.

    Where exactly one is visible (launchers that mask the others), it is that one, whatever the local rank; else the one
    with the local rank's index. Raises ValueError if there are too few, or if the local rank is unknown.
    """
    import torch

    if device_type in ("cpu", "mps"):
        return torch.device(device_type)
    if device_type == "xla":
        import torch_xla  # type: ignore[import-not-found,unused-ignore]

        return torch_xla.device()  # type: ignore[no-any-return,unused-ignore]
    module = getattr(torch, device_type)
    index = _index(device_type, module.device_count(), here.local_rank)
    # Before any collective: a barrier on an unbound rank takes device 0, on every rank of the node.
    module.set_device(index)
    return torch.device(device_type, index)


def _index(device_type: str, count: int, local_rank: int | None) -> int:
    if count == 1:
        return 0
    if local_rank is None:
        raise ValueError(f"{count} {device_type} devices are visible and the local rank is unknown; set LOCAL_RANK")
    if local_rank >= count:
        raise ValueError(
            f"local rank {local_rank} needs {local_rank + 1} {device_type} devices, {count} are visible; "
            f"start fewer ranks on this node"
        )
    return local_rank


def set_tf32(on: bool = True) -> None:
    """Let float32 matrix products use TensorFloat-32 (10 bits of mantissa), or not.

    By the one setter that all readers understand: after `torch.backends.cuda.matmul.fp32_precision = "tf32"`, torch
    2.13's own inductor raises on reading the older settings (pytorch#166387).
    """
    import torch

    torch.set_float32_matmul_precision("high" if on else "highest")


def _accelerator() -> str | None:
    """CUDA or ROCm ("cuda"), XPU, MPS and whatever backend is plugged in; None if there is none."""
    import torch

    with _without_cuda_context():
        if not torch.accelerator.is_available():
            return None
    found = torch.accelerator.current_accelerator()
    return found.type if found is not None else None


@contextmanager
def _without_cuda_context() -> Iterator[None]:
    # torch asks NVML instead of the CUDA runtime then; a runtime once asked is lost to forked children.
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _tpu() -> str | None:
    """ "xla" where torch_xla is installed for TPUs: it is no accelerator in torch's own sense."""
    asked = os.environ.get("PJRT_DEVICE", "").upper()
    return "xla" if asked == "TPU" and importlib.util.find_spec("torch_xla") else None
