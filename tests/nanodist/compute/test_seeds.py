"""One model everywhere, other data on each rank."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nanodist


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch):
    def be(number: int) -> None:
        for name, value in {"RANK": str(number), "WORLD_SIZE": "8", "LOCAL_RANK": str(number)}.items():
            monkeypatch.setenv(name, value)

    return be


def drawn() -> tuple[float, float, float]:
    return random.random(), torch.rand(1).item(), np.random.rand()


def test_same_seed_draws_the_same_on_every_rank(rank) -> None:
    results = []
    for number in range(3):
        rank(number)
        nanodist.seed_all(7)
        results.append(drawn())
    assert len(set(results)) == 1


def test_numpy_draws_other_numbers_than_torch() -> None:
    """Both are mt19937 of a 32-bit seed."""
    for reseed in (lambda: nanodist.seed_all(42), lambda: nanodist.worker_init_fn(0)):
        reseed()
        ours = [torch.randint(1 << 30, ()).item() for _ in range(20)]
        theirs = [int(np.random.randint(1 << 30)) for _ in range(20)]
        words = [int(np.random.randint(1 << 32, dtype=np.uint32)) & (1 << 30) - 1 for _ in range(20)]
        assert not set(ours) & set(theirs + words)


@pytest.mark.parametrize("seed", [-1, 0, 2**32, 2**63 - 1])
def test_any_seed_of_torchs_is_one_of_numpys(seed: int) -> None:
    nanodist.seed_all(seed)
    first = np.random.rand()
    nanodist.seed_all(seed)
    assert np.random.rand() == first


LOADER = """
import random, sys
import numpy, torch, torch.distributed as dist
import nanodist

class Draws(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, n):
        return torch.randint(1 << 30, ()).item(), random.getrandbits(30), int(numpy.random.randint(1 << 30))

if __name__ == "__main__":
    rank, meet = sys.argv[1:]
    dist.init_process_group("gloo", init_method=meet, rank=int(rank), world_size=2)
    # The last two import torch in each worker.
    for context, epochs, workers in (("fork", 2, 2), ("spawn", 1, 1), ("forkserver", 1, 1)):
        nanodist.seed_all(42)
        options = {"num_workers": workers, "batch_size": None, "multiprocessing_context": context}
        loader = torch.utils.data.DataLoader(Draws(), worker_init_fn=nanodist.worker_init_fn, **options)
        for epoch in range(epochs):
            print(context, *[number for sample in loader for number in sample], flush=True)
    dist.destroy_process_group()
"""


def test_workers_of_a_group_made_by_hand_draw_differently(tmp_path: Path) -> None:
    """However they are started: forked, spawned, or forked by a server that knows nothing of the group."""
    (script := tmp_path / "rank.py").write_text(LOADER)
    command = [sys.executable, str(script)]
    started = [
        subprocess.Popen([*command, str(rank), f"file://{tmp_path}/meet"], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    lines = [line.split() for process in started for line in process.communicate(timeout=100)[0].splitlines()]
    for context, epochs in (("fork", 2), ("spawn", 1), ("forkserver", 1)):
        numbers = [int(number) for name, *drawn in lines for number in drawn if name == context]
        assert len(numbers) == 2 * epochs * 4 * 3, context
        assert len(set(numbers)) == len(numbers), context


def test_worker_init_carries_a_rank_of_several_and_no_other(rank) -> None:
    def seeded(init) -> float:
        torch.manual_seed(1000)
        init(0)
        return torch.rand(1).item()

    before = pickle.dumps(nanodist.worker_init_fn)  # as a program does that spawns its ranks
    rank(3)
    third = seeded(nanodist.worker_init_fn)
    along = pickle.dumps(nanodist.worker_init_fn)
    rank(5)
    assert seeded(pickle.loads(pickle.dumps(pickle.loads(along)))) == third
    assert seeded(pickle.loads(before)) == seeded(nanodist.worker_init_fn) != third


def test_data_seeds_differ_by_rank_epoch_and_seed(rank) -> None:
    seeds = set()
    for seed in (1, 2, 3):
        nanodist.seed_all(seed)
        for number in range(8):
            rank(number)
            seeds |= {nanodist.data_seed(epoch) for epoch in range(3)}
    assert len(seeds) == 3 * 8 * 3, "seed + rank would make neighbours meet"
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_workers_of_all_ranks_draw_differently(rank, monkeypatch: pytest.MonkeyPatch) -> None:
    results = set()
    for number in range(4):
        rank(number)
        for worker in range(4):
            torch.manual_seed(1000 + worker)  # as the DataLoader does, alike on all ranks
            nanodist.worker_init_fn(worker)
            results.add(drawn())
    assert len({result[0] for result in results}) == len({result[2] for result in results}) == 16


def test_compute_init_seeds_and_gives_the_seeds_tuple() -> None:
    compute = nanodist.compute_init("cpu")
    first = torch.rand(1).item()
    assert nanodist.compute_init() == compute == (False, 0, 0, 1, torch.device("cpu"))
    assert torch.rand(1).item() == first
    *_, device = compute
    assert compute.device == device
    nanodist.compute_cleanup()
