"""A small training run, from a download to a trained model, on one process or many.

    python examples/train.py
    torchrun --standalone --nproc-per-node=2 examples/train.py

and as two nodes, each with a disk of its own (run both at once, here or on two machines):

    NANOCACHE_DIR=/tmp/a torchrun --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:29400 --rdzv-id=1 \\
        --nproc-per-node=2 examples/train.py
    NANOCACHE_DIR=/tmp/b torchrun ... the same

One rank starts an origin on loopback and tells the others its address (`leader_first`). One rank downloads the raw
bytes for all disks, and one rank per disk makes the dataset from them (`nanodist.fetch` with a hook). The DataLoader's
workers are no ranks: they call `nanocache.fetch`, which is a hit. The model learns to add two numbers of two digits,
digit by digit.
"""

from __future__ import annotations

import argparse
import atexit
import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, RandomSampler

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for tests.servers.origin, which is not installed

import nanocache  # noqa: E402
import nanodist  # noqa: E402
from tests.servers.origin import OriginProcess, digest, stats  # noqa: E402

SIZE = 100_000  # bytes of raw data: two make a line
LINE = len("12+34=046\n")
BATCH = 128


# --- data -------------------------------------------------------------------------------------------------------------


def write_sums(src: Path, dst: Path) -> None:
    """The hook: lines like `12+34=046`, from two raw bytes each."""
    raw = src.read_bytes()
    pairs = zip(raw[::2], raw[1::2], strict=True)
    dst.write_text("".join(f"{a % 100:02}+{b % 100:02}={a % 100 + b % 100:03}\n" for a, b in pairs))


write_sums.name = "sums.txt"  # type: ignore[attr-defined]


class Sums(Dataset):
    """Lines as (the five characters of the question, the three digits of the answer)."""

    def __init__(self, url: str, sha256: str) -> None:
        self.url, self.sha256 = url, sha256
        self.text = b""

    def __len__(self) -> int:
        return SIZE // 2

    def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        # In a worker, forked or spawned, this is one stat, and then the worker reads the file itself.
        self.text = self.text or nanocache.fetch(self.url, sha256=self.sha256, postprocess=write_sums).read_bytes()
        line = torch.tensor(list(self.text[n * LINE : (n + 1) * LINE - 1]))
        return line[:5], line[6:] - ord("0")


# --- model ------------------------------------------------------------------------------------------------------------


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 16)
        self.body = nn.Sequential(nn.Linear(5 * 16, 256), nn.ReLU(), nn.Linear(256, 3 * 10))

    def forward(self, question: torch.Tensor) -> torch.Tensor:
        return self.body(self.embed(question).flatten(1)).view(-1, 3, 10)  # (batch, digit, 0..9)


# --- one rank ---------------------------------------------------------------------------------------------------------


def start_origin() -> str:
    """Serve raw bytes from a process of its own until this one ends; its address."""
    origin = OriginProcess().__enter__()
    atexit.register(origin.__exit__, None, None, None)
    return origin.base


def train(steps: int) -> float:
    """Train; the loss of the last step on this rank."""
    ddp, _, _, world_size, device = nanodist.compute_init("cpu")
    base = nanodist.leader_first("origin", start_origin)
    url, sha256 = f"{base}/bytes/{SIZE}/sums/raw.bin", digest(SIZE, "sums")
    path = nanodist.fetch(url, sha256=sha256, postprocess=write_sums)
    nanodist.print0(f"ranks: {world_size}; {path}: {path.stat().st_size:,} bytes")

    model = Adder().to(device)
    wrapped = DistributedDataParallel(model) if ddp else model
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=3e-3)
    data = Sums(url, sha256)
    generator = torch.Generator().manual_seed(nanodist.data_seed())
    loader = DataLoader(
        data,
        batch_size=BATCH,
        sampler=RandomSampler(data, num_samples=steps * BATCH, generator=generator),
        num_workers=2,
        worker_init_fn=nanodist.worker_init_fn,
    )
    loss = math.inf
    for step, (question, answer) in enumerate(loader):
        optimizer.zero_grad()
        logits = wrapped(question.to(device))
        error = nn.functional.cross_entropy(logits.flatten(0, 1), answer.to(device).flatten())
        error.backward()
        optimizer.step()
        loss = error.item()
        if step % 20 == 0 or step == steps - 1:
            nanodist.print0(f"step {step:4d}  loss {loss:.3f}")
    # All ranks wait here for the answer, so that the leader does not stop the origin while another rank asks it.
    downloads = nanodist.leader_first("downloads", lambda: stats(base)["downloads"])
    nanodist.print0(f"downloads at the origin: {downloads}")
    nanodist.compute_cleanup()
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a model of this size is slower on more
    nanodist.setup_default_logging()
    nanodist.print_banner()
    if not train(arguments.steps) < 2.0:
        sys.exit("the model learned nothing")


if __name__ == "__main__":
    main()
