"""Compile once for the whole job: what torch.compile makes is built by one rank, and every rank starts from it.

    torchrun --nproc_per_node=8 examples/compile_cache.py

Inductor and Triton write to their caches while they use them, and what nanocache keeps is shared and not to be changed.
So each process works on a copy of its own. Change `KEY` with the code that is compiled.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import nanodist

KEY = "step-v1"


def caches_in(folder: Path) -> None:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")


def step(rows: int) -> float:
    """Stands for the first step of a training run, which compiles the model."""
    import torch

    @torch.compile
    def loss(x: "torch.Tensor") -> "torch.Tensor":
        return (x * 2 + 1).relu().sum()

    return float(loss(torch.ones(rows, 16)))


def compile_into(folder: Path) -> None:
    caches_in(folder)
    step(rows=8)


def main() -> None:
    began = time.monotonic()
    kept = nanodist.build_once(KEY, compile_into, name="compile-cache", facts=nanodist.facts())
    with tempfile.TemporaryDirectory(prefix="compile-cache-") as own:
        shutil.copytree(kept, own, dirs_exist_ok=True)
        caches_in(Path(own))
        value = step(rows=8)
        print(f"rank {nanodist.topology().rank}: {value:g} after {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
