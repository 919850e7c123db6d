"""One model everywhere, other data on each rank."""

from __future__ import annotations

import random

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
