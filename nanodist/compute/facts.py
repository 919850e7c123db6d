"""What compiled code depends on beside its source: for the key of what is built once (`nanodist.build_once`).

Not what a program should run on (`device`). Invariants: the same texts on every rank of like machines, whether or not a
device is in use already; no device is touched and no CUDA context made, so that a later fork stays safe; without torch
the facts are fewer, and none is guessed.
"""

from __future__ import annotations

import glob
import importlib.util
import platform
import re
from collections.abc import Iterator

__all__ = ["facts"]

NVIDIA = "/proc/driver/nvidia"  # the kernel module's own word; the libraries' would make a context, or take a second


def facts() -> tuple[str, ...]:
    """Texts that tell apart what was compiled here from what has to be compiled anew elsewhere.

    Python, system, C library and CPU; of torch its version, the CUDA or ROCm that it was built for, and the vector
    instructions that it compiles for; NVIDIA's GPUs by name, and their driver. What is not there, or cannot be told
    without a device, is left out.
    """
    return (*_machine(), *_torch(), *_gpus())


def _machine() -> Iterator[str]:
    yield f"python {platform.python_implementation()} {platform.python_version()}"
    yield f"system {platform.system()} {platform.machine()}"
    libc = " ".join(filter(None, platform.libc_ver()))
    if libc:
        yield f"libc {libc}"
    macos = platform.mac_ver()[0]
    if macos:
        yield f"macos {macos}"


def _torch() -> Iterator[str]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    yield f"torch {torch.__version__}"
    for name in ("cuda", "hip", "xpu"):
        version = getattr(torch.version, name, None)
        if version:
            yield f"{name} {version}"
    yield f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _gpus() -> Iterator[str]:
    driver = re.search(r"\b\d+\.\d+(\.\d+)?\b", _read(f"{NVIDIA}/version"))
    if driver:
        yield f"driver {driver[0]}"
    yield from sorted({f"gpu {name}" for name in map(_model, glob.glob(f"{NVIDIA}/gpus/*/information")) if name})


def _model(path: str) -> str:
    model = re.search(r"^Model:\s*(.+)$", _read(path), re.MULTILINE)
    return model[1].strip() if model else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
