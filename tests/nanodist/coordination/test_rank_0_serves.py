"""The store that lives in rank 0's process: when it is there, and what it costs when it is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers.origin import Origin

Ranks = Callable[..., Any]
NODES = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # each rank is a node of its own


def url_of(origin: Origin, seed: int = 1) -> str:
    return origin.url(f"/bytes/1000/{seed}/f.bin")


def on_disks(tmp_path: Path, count: int) -> list[dict[str, str]]:
    return [NODES | {"NANOCACHE_DIR": str(tmp_path / f"disk{rank}")} for rank in range(count)]


def test_rank_0_serves_the_store_after_a_hit_too(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        if RANK == 0:
            nanocache.fetch(url)
            mark("fetched")
        until("fetched")
        report(path=str(nanodist.fetch(url)))
        mark(f"has {RANK}")
        if RANK == 0:
            until("has 1", "has 2")
    """
    run = ranks(code, 3, store="rank0", env=on_disks(tmp_path, 3), url=url_of(origin))
    assert run.codes == [0] * 3, run.err
    assert origin.gets() == 2  # rank 0's own, and one for both others
    assert "file locks alone" not in run.err


def test_store_of_a_rank_0_that_has_ended_costs_two_seconds_once(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        if RANK == 0:
            sys.exit(0)
        begun = time.monotonic()
        for url in urls:
            nanodist.fetch(url)
        report(seconds=time.monotonic() - begun)
    """
    urls = [url_of(origin, seed) for seed in range(3)]
    run = ranks(code, 2, store="rank0", env=on_disks(tmp_path, 2), urls=urls)
    assert run.codes == [0] * 2, run.err
    assert run.last("seconds")[0] < 5  # 10 s it was for each, and 2 s thrice would be more
    assert run.err.count("file locks alone") == 1


def test_rank_0_that_comes_late_is_found_at_the_next_call(ranks: Ranks) -> None:
    code = """
        from nanodist.coordination.coordinator import coordination
        if RANK == 0:
            until("alone")
            coordination()
            mark("served")
            until("found")
        else:
            assert coordination() is None
            mark("alone")
            until("served")
            assert coordination() is not None
            mark("found")
    """
    run = ranks(code, 2, store="rank0")
    assert run.codes == [0] * 2, run.err


def test_leader_first_waits_longer_for_a_late_rank_0(ranks: Ranks) -> None:
    code = """
        from nanodist.coordination.coordinator import REFUSED_FOR
        if RANK == 0:
            until("waits")
            time.sleep(REFUSED_FOR + 0.5)
        mark("waits")
        report(value=nanodist.leader_first("work", lambda: 5))
        mark(f"has {RANK}")
        until("has 0", "has 1")
    """
    run = ranks(code, 2, store="rank0")
    assert run.last("value") == [5, 5], run.err


def test_a_worker_of_rank_0_takes_no_port_from_it(origin: Origin, tmp_path: Path) -> None:
    """However it is started: spawned, forked by a server, or forked."""
    script = """
import multiprocessing
from contextlib import ExitStack

def fetch(url):
    return nanodist.fetch(url).name

if __name__ == "__main__":
    with ExitStack() as pools:
        names = []
        for method, url in urls.items():
            pool = pools.enter_context(multiprocessing.get_context(method).Pool(1))
            names += pool.map(fetch, [url])
        nanodist.compute_init("cpu", timeout=30)
        print(len(names), flush=True)
        nanodist.compute_cleanup()
"""
    urls = {method: url_of(origin, seed) for seed, method in enumerate(("spawn", "forkserver", "fork"))}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "rank.py").write_text(f"import nanodist\nurls = {urls!r}\n{script}")
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [
        _start(folder / "rank.py", env | disk | {"RANK": str(rank), "LOCAL_RANK": "0"})
        for rank, disk in enumerate(on_disks(tmp_path, 2))
    ]
    said = [process.communicate(timeout=60) for process in started]
    assert [out.strip() for out, _ in said] == ["3", "3"], said


def test_a_child_that_is_given_its_rank_is_no_worker(tmp_path: Path) -> None:
    script = """
import multiprocessing, os
from nanodist.launchers import is_spawned_worker

def ask(rank):
    if rank:
        os.environ["RANK"] = rank
    return is_spawned_worker()

if __name__ == "__main__":
    print(is_spawned_worker(), end=" ")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(ask, ["", "3"]))
"""
    (tmp_path / "parent.py").write_text(script)
    process = _start(tmp_path / "parent.py", {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"})
    assert process.communicate(timeout=60)[0].strip() == "False [True, False]"


def test_a_child_that_joined_a_group_is_a_rank(tmp_path: Path) -> None:
    """Of a script that runs its training in a process of its own, under a launcher."""
    script = """
import multiprocessing, torch
import nanodist
from nanodist.coordination.coordinator import coordination

def train():
    before = coordination()
    nanodist.compute_init("cpu", timeout=30)
    print(before is None, nanodist.leader_first("work", lambda: 5))
    torch.distributed.barrier()  # or the store may end with rank 0 before rank 1 has asked it
    nanodist.compute_cleanup()

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=train)
    process.start()
    process.join()
"""
    (tmp_path / "train.py").write_text(script)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [_start(tmp_path / "train.py", env | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)]
    said = [process.communicate(timeout=60) for process in started]
    assert [out.strip() for out, _ in said] == ["True 5"] * 2, said


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_end_of_a_process_of_multiprocessing_is_an_end_too(tmp_path: Path, method: str) -> None:
    """Such a process runs no `atexit`: a rank 0 ended at once, and its store with it, while others were reading."""
    script = f"""
import multiprocessing
from nanodist.coordination.at_end import at_end

def work():
    at_end(lambda: print("second", flush=True))
    at_end(lambda: print("first", flush=True))

if __name__ == "__main__":
    at_end(lambda: print("third", flush=True))
    process = multiprocessing.get_context({method!r}).Process(target=work)
    process.start()
    process.join()
"""
    (tmp_path / "ends.py").write_text(script)
    assert _start(tmp_path / "ends.py", {}).communicate(timeout=60)[0].split() == ["first", "second", "third"]


def test_ranks_that_a_launcher_spawned_are_ranks(tmp_path: Path) -> None:
    """As torch.multiprocessing.spawn does it, which would load torch here too."""
    script = """
import multiprocessing, os
import nanodist

def rank(n):
    os.environ |= {"RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": "2"}
    nanodist.compute_init("cpu", timeout=60)
    print(nanodist.topology().rank, flush=True)
    nanodist.compute_cleanup()

if __name__ == "__main__":
    for process in (ranks := [multiprocessing.get_context("spawn").Process(target=rank, args=(n,)) for n in range(2)]):
        process.start()
    for process in ranks:
        process.join()
"""
    (tmp_path / "launch.py").write_text(script)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    launcher = _start(tmp_path / "launch.py", env)
    assert sorted(launcher.communicate(timeout=90)[0].split()) == ["0", "1"]


def _start(script: Path, env: dict[str, str]) -> Any:
    line = [sys.executable, str(script)]
    root = str(Path(__file__).parents[3])
    environment = os.environ | env | {"PYTHONPATH": root}
    return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
