"""A store that lives in rank 0's process: there only while, and only if, rank 0 is at it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.servers.origin import Origin

FETCH = """
import os, sys, time, nanocache, nanodist
rank, url, base = os.environ["RANK"], sys.argv[1], sys.argv[2] + os.environ["RANK"]
if sys.argv[3] == "warm" and rank == "0":
    nanocache.fetch(url, base_dir=base, progress=False)
if rank != "0":
    time.sleep(4)
begun = time.monotonic()
nanodist.fetch(url, base_dir=base, progress=False)
print(f"{time.monotonic() - begun:.1f}", flush=True)
if sys.argv[3] == "warm" and rank == "0":
    sys.stdin.read()
"""
SPAWNED_RANKS = """
import os, torch.multiprocessing as mp
import nanodist

def rank(n):
    os.environ |= {"RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": "2"}
    nanodist.compute_init("cpu", timeout=60)
    print(nanodist.topology().rank, flush=True)
    nanodist.compute_cleanup()

if __name__ == "__main__":
    mp.spawn(rank, nprocs=2)
"""


def job(ranks: int) -> list[dict[str, str]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    here |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    return [os.environ | here | {"RANK": str(rank)} for rank in range(ranks)]


def start(line: list[str], environments: list[dict[str, str]]) -> list[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    return [
        subprocess.Popen([sys.executable, *line], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for environment in environments
    ]


def test_rank_0_serves_also_after_a_hit(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("/warm.bin", b"hello")
    ranks = start(["-c", FETCH, url, str(tmp_path / "base"), "warm"], job(3))
    for rank in (*ranks[1:], ranks[0]):
        rank.communicate(timeout=60)
    assert origin.gets() == 2  # rank 0's own, and one for the others together


def test_a_rank_0_that_has_ended_costs_the_others_two_seconds(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("/cold.bin", b"hello")
    ranks = start(["-c", FETCH, url, str(tmp_path / "base"), "cold"], job(3))
    ended, *others = [rank.communicate(timeout=60) for rank in ranks]
    for out, err in others:
        assert float(out) >= 0  # it has the file
        assert err.count("is out of reach") == 1
    assert not ended[1]


def test_ranks_that_a_launcher_spawned_are_ranks(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text(SPAWNED_RANKS)
    [environment] = job(1)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        del environment[name]
    [launcher] = start([str(tmp_path / "launch.py")], [environment])
    assert sorted(launcher.communicate(timeout=90)[0].split()) == ["0", "1"]
