"""The names that the seed's users import, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nanodist

SEED = {
    *("is_ddp_requested", "is_ddp_initialized", "is_ddp", "get_dist_info", "autodetect_device_type", "compute_init"),
    *("compute_cleanup", "print0", "print_banner", "ColoredFormatter", "setup_default_logging", "DummyWandb"),
    *("get_peak_flops", "get_peak_bandwidth", "COMPUTE_DTYPE", "COMPUTE_DTYPE_REASON"),
    *("get_base_dir", "download_file_with_lock"),
}
BEYOND = {
    *(
        "topology",
        "seed_all",
        "data_seed",
        "worker_init_fn",
        "set_tf32",
        "fetch",
        "fetch_many",
        "snapshot",
        "prefetch",
        "leader_first",
        "build_once",
        "facts",
    ),
    *("LeaderError", "LeaderLost", "CoordinatorLost", "NotVisible", "NanodistError"),
}


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_all_names_are_the_promised_ones() -> None:
    assert set(nanodist.__all__) == SEED | BEYOND
    assert all(getattr(nanodist, name) is not None for name in nanodist.__all__)
    assert set(nanodist.__all__) <= set(dir(nanodist))
    with pytest.raises(AttributeError, match="nobody"):
        _ = nanodist.nobody


def test_import_loads_no_torch_and_configures_no_logging() -> None:
    code = (
        "import logging, sys, nanodist; from nanodist import fetch, leader_first, topology, print0; "
        "print('torch' in sys.modules, logging.getLogger().handlers)"
    )
    assert run(code) == "False []"


def test_star_import_gives_all_names_and_a_real_dtype() -> None:
    missing = f"[name for name in {sorted(SEED)} if name not in globals()]"
    told = f"isinstance(COMPUTE_DTYPE, torch.dtype), {missing}, COMPUTE_DTYPE_REASON"
    assert run(f"from nanodist import *; import torch; print({told})").startswith("True [] ")
