"""nanodist: which rank, which device, which group, and one rank downloads for all.

    from nanodist import *
    ddp, rank, local_rank, world_size, device = compute_init()
    path = nanodist.fetch(url, sha256=...)

Names are resolved on first use (PEP 562): `import nanodist` loads no torch and touches no device. `from nanodist
import *` binds COMPUTE_DTYPE and so does both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from nanocache import download_file_with_lock, get_base_dir

    from .artifacts import fetch, fetch_many, snapshot
    from .building import build_once
    from .compute.console import ColoredFormatter, DummyWandb, print_banner, setup_default_logging
    from .compute.device import autodetect_device_type, set_tf32
    from .compute.facts import facts
    from .compute.group import compute_cleanup, compute_init
    from .compute.peaks import get_peak_bandwidth, get_peak_flops
    from .compute.seeds import data_seed, seed_all, worker_init_fn
    from .coordination.leader import leader_first
    from .errors import CoordinatorLost, LeaderError, LeaderLost, NanodistError, NotVisible
    from .loaders import prefetch
    from .rank import get_dist_info, is_ddp, is_ddp_initialized, is_ddp_requested, print0, topology

    COMPUTE_DTYPE: torch.dtype
    COMPUTE_DTYPE_REASON: str

__all__ = [
    "topology",
    "get_dist_info",
    "is_ddp",
    "is_ddp_initialized",
    "is_ddp_requested",
    "print0",
    "autodetect_device_type",
    "set_tf32",
    "COMPUTE_DTYPE",
    "COMPUTE_DTYPE_REASON",
    "get_peak_flops",
    "get_peak_bandwidth",
    "seed_all",
    "data_seed",
    "worker_init_fn",
    "compute_init",
    "compute_cleanup",
    "fetch",
    "fetch_many",
    "snapshot",
    "prefetch",
    "leader_first",
    "build_once",
    "facts",
    "get_base_dir",
    "download_file_with_lock",
    "NanodistError",
    "LeaderError",
    "LeaderLost",
    "CoordinatorLost",
    "NotVisible",
    "print_banner",
    "ColoredFormatter",
    "setup_default_logging",
    "DummyWandb",
]

_HOMES = {
    "nanocache": ("get_base_dir", "download_file_with_lock"),
    ".artifacts": ("fetch", "fetch_many", "snapshot"),
    ".building": ("build_once",),
    ".compute.console": ("ColoredFormatter", "DummyWandb", "print_banner", "setup_default_logging"),
    ".compute.device": ("autodetect_device_type", "set_tf32"),
    ".compute.facts": ("facts",),
    ".errors": ("NanodistError", "LeaderError", "LeaderLost", "CoordinatorLost", "NotVisible"),
    ".compute.group": ("compute_init", "compute_cleanup"),
    ".coordination.leader": ("leader_first",),
    ".loaders": ("prefetch",),
    ".compute.peaks": ("get_peak_flops", "get_peak_bandwidth"),
    ".rank": ("topology", "get_dist_info", "is_ddp", "is_ddp_initialized", "is_ddp_requested", "print0"),
    ".compute.seeds": ("seed_all", "data_seed", "worker_init_fn"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("COMPUTE_DTYPE", "COMPUTE_DTYPE_REASON"):
        from .compute.dtype import compute_dtype

        value = compute_dtype()[name == "COMPUTE_DTYPE_REASON"]
    elif name in _HOME:
        value = getattr(import_module(_HOME[name], __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
