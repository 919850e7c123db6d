"""prefetch: the next shard is there, in order, and an iterator can be left anywhere."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import ChecksumMismatch, DownloadFailed
from tests.servers.origin import MIB, Origin, content, digest

Spawn = Callable[..., Any]

SIZE = 50_000


def shards(origin: Origin, count: int = 8, size: int = SIZE, query: str = "") -> list[str]:
    return [origin.url(f"/bytes/{size}/{n}/{n}.tar{query}") for n in range(count)]


def names(paths: Any) -> list[str]:
    return [path.name for path in paths]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nanocache")]


def wait(true: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def test_the_paths_come_in_order_and_complete(base: Path, origin: Origin) -> None:
    for n, path in enumerate(nanocache.prefetch(shards(origin), ahead=3)):
        assert path.read_bytes() == content(SIZE, n)
    assert names(nanocache.prefetch(shards(origin), ahead=0)) == [f"{n}.tar" for n in range(8)]
    assert origin.gets() == 8


def test_the_next_ones_come_while_the_caller_works_and_no_more(base: Path, origin: Origin) -> None:
    with nanocache.prefetch(shards(origin), ahead=2) as paths:
        assert origin.gets() == 0  # nothing before the first is asked for
        next(paths)
        wait(lambda: origin.gets() == 3)
        time.sleep(0.2)
        assert origin.gets() == 3
        next(paths)
        wait(lambda: origin.gets() == 4)


def test_async_for_yields_the_same(base: Path, origin: Origin) -> None:
    async def run() -> list[str]:
        return [path.name async for path in nanocache.prefetch(shards(origin))]

    assert asyncio.run(run()) == [f"{n}.tar" for n in range(8)]


def test_a_cancelled_await_ends_at_once(base: Path, origin: Origin) -> None:
    async def run() -> float:
        paths = nanocache.prefetch(shards(origin, query="?delay=20"))
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(paths), 0.3)
        paths.close()
        return time.monotonic() - began

    assert asyncio.run(run()) < 3


def test_an_error_is_raised_at_its_own_shard_and_the_rest_comes(base: Path, origin: Origin) -> None:
    urls = shards(origin, 5)
    urls[2] = origin.url("/missing")
    paths = nanocache.prefetch(urls, ahead=3)
    assert names([next(paths), next(paths)]) == ["0.tar", "1.tar"]
    wait(lambda: origin.gets() >= 5)
    for _ in range(2):
        with pytest.raises(DownloadFailed):
            next(paths)
    paths.close()
    found = list(nanocache.prefetch(urls, on_error="skip"))
    assert isinstance(found[2], DownloadFailed)
    assert names(found[:2] + found[3:]) == ["0.tar", "1.tar", "3.tar", "4.tar"]


def test_a_mismatch_belongs_to_its_shard(base: Path, origin: Origin) -> None:
    wanted = {url: digest(SIZE, n if n != 1 else 99) for n, url in enumerate(shards(origin, 3))}
    paths = nanocache.prefetch(wanted)
    next(paths)
    with pytest.raises(ChecksumMismatch):
        next(paths)
    paths.close()


@pytest.mark.parametrize("end", ["break", "error", "collected", "closed"])
def test_what_is_abandoned_leaves_nothing_running(base: Path, origin: Origin, end: str) -> None:
    def use() -> None:
        paths = nanocache.prefetch(shards(origin, query="?delay=0.05") + shards(origin, 4, query="?delay=20"), ahead=9)
        for path in paths:
            if end == "error":
                raise RuntimeError(path)
            if end == "closed":
                paths.close()
            break

    try:
        use()
    except RuntimeError as e:
        del e
    gc.collect()
    wait(lambda: not threads(), 3)


def test_a_state_goes_on_at_once_and_touches_nothing_before(base: Path, origin: Origin) -> None:
    paths = nanocache.prefetch(shards(origin), ahead=0)
    for _ in range(5):
        next(paths)
    state = paths.state_dict()
    paths.close()
    origin.reset()
    again = nanocache.prefetch(shards(origin), ahead=0)
    again.load_state_dict(state)
    assert names(again) == ["5.tar", "6.tar", "7.tar"]
    assert {request.path.rpartition("/")[2] for request in origin.requests()} == {"5.tar", "6.tar", "7.tar"}
    assert len(again) == 3


def blobs(base: Path) -> int:
    return len(list(base.glob("blobs-v1/sha256/*/*")))


def test_what_it_downloaded_goes_once_it_is_passed_and_nothing_else(base: Path, origin: Origin) -> None:
    urls = shards(origin)
    mine = nanocache.fetch(urls[1])
    most = 0
    for path in nanocache.prefetch(urls, ahead=2, evict_behind=True):
        assert path.exists()
        most = max(most, blobs(base))
    assert most <= 1 + 2 + 1 + 1  # in use, ahead, one on its way, and the caller's own
    assert mine.exists()
    assert blobs(base) == 1
    assert len(list(nanocache.prefetch(urls, ahead=2, evict_behind=True))) == 8


def test_what_a_hook_made_of_a_shard_goes_with_it(base: Path, origin: Origin) -> None:
    urls = [nanocache.Artifact(url, postprocess=halved) for url in shards(origin)]
    for path in nanocache.prefetch(urls, evict_behind=True):
        assert path.stat().st_size == SIZE // 2
    assert blobs(base) == 0
    assert not list(base.glob("products-v1/*/*/*.tar"))


def halved(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes()[: SIZE // 2])


def test_what_is_held_or_linked_elsewhere_is_not_evicted(base: Path, origin: Origin, tmp_path: Path) -> None:
    kept = []
    for path in nanocache.prefetch(shards(origin, 3), ahead=0, evict_behind=True):
        if path.name == "1.tar":
            os.link(path, tmp_path / "mine.tar")
            kept.append(path)
    assert [path.exists() for path in kept] == [True]
    assert blobs(base) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ahead": -1}, "ahead"),
        ({"rank": 1}, "come together"),
        ({"world_size": 2}, "come together"),
        ({"rank": 2, "world_size": 2}, "below world_size"),
        ({"on_error": "ignore"}, "on_error"),
        ({"epoch": "1"}, "epoch"),
        ({"seed": "a"}, "seed"),
        ({"start": -1}, "start"),
    ],
)
def test_wrong_arguments_are_value_errors(base: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        nanocache.prefetch(["https://host/a"], **options)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"count": 3}, "3 artifacts"), ({"version": 9}, "another version"), ({"rank": None}, "not a state")],
)
def test_a_state_of_something_else_is_refused(base: Path, change: dict[str, Any], reason: str) -> None:
    paths = nanocache.prefetch(["https://host/a", "https://host/b"])
    with pytest.raises(ValueError, match=reason):
        paths.load_state_dict(paths.state_dict() | change)
    with pytest.raises(ValueError, match="different runs"):
        paths.load_state_dict([paths.state_dict(), paths.state_dict() | {"epoch": 2}])


def test_a_shuffled_order_is_the_epochs_own_and_the_same_on_all_ranks(base: Path, origin: Origin) -> None:
    urls = shards(origin)
    orders = [names(nanocache.prefetch(urls, seed=1, epoch=epoch)) for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    halves = [names(nanocache.prefetch(urls, seed=1, rank=rank, world_size=2)) for rank in range(2)]
    assert halves[0] == orders[0][::2]
    assert halves[1] == orders[0][1::2]


def test_it_pickles_and_goes_on_where_it_was(base: Path, origin: Origin) -> None:
    paths = nanocache.prefetch(shards(origin))
    next(paths)
    copy = pickle.loads(pickle.dumps(paths))
    paths.close()
    assert names(copy) == [f"{n}.tar" for n in range(1, 8)]


def test_a_forked_child_goes_on_without_its_parents_threads(base: Path, origin: Origin) -> None:
    paths = nanocache.prefetch(shards(origin))
    next(paths)
    wait(lambda: not threads())  # a fork beside threads warns
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, ",".join(names(paths)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 1000).decode().split(",") == [f"{n}.tar" for n in range(1, 8)]
    assert names(paths) == [f"{n}.tar" for n in range(1, 8)]


@pytest.fixture
def limited(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.mark.alone
def test_the_shard_that_is_waited_for_has_the_connections_first(limited: Origin) -> None:
    size = 32 * MIB

    def first(ahead: int, seed: int) -> float:
        urls = [limited.url(f"/bytes/{size}/{seed + n}/{n}.tar?rate={4 * MIB}") for n in range(ahead + 1)]
        for url in urls:  # made before it is timed
            limited._find(url.removeprefix(limited.url("")).partition("?")[0])
        with nanocache.prefetch(urls, ahead=ahead) as paths:
            began = time.monotonic()
            next(paths)
            return time.monotonic() - began

    alone = min(first(0, seed) for seed in (100, 200))
    beside = (first(8, seed) for seed in (300, 400))  # the second only where the machine was busy
    assert any(seconds <= 1.5 * alone for seconds in beside)  # with equal shares it would be several times that


WORKERS = """
import os, sys
import torch.utils.data as data
import nanocache

class Shards(data.IterableDataset):
    def __init__(self, urls): self.urls = urls
    def __iter__(self):
        for path in nanocache.prefetch(self.urls): yield path.name

if __name__ == "__main__":
    urls = sys.argv[3:]
    loader = data.DataLoader(Shards(urls), batch_size=None, num_workers=int(sys.argv[2]),
                             multiprocessing_context=sys.argv[1])
    print(*sorted(loader), sep=",")
    made_before = nanocache.prefetch(urls)

    class Given(data.IterableDataset):
        def __iter__(self): return (path.name for path in made_before)

    if sys.argv[1] == "fork":
        print(*sorted(data.DataLoader(Given(), batch_size=None, num_workers=int(sys.argv[2]))), sep=",")
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_dataloaders_workers_share_the_shards(base: Path, origin: Origin, tmp_path: Path, context: str) -> None:
    import subprocess
    import sys

    script = tmp_path / "train.py"
    script.write_text(WORKERS)
    line = [sys.executable, "-W", "error", str(script), context, "2", *shards(origin)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, env=os.environ)
    assert done.returncode == 0, done.stderr
    for printed in done.stdout.split():
        assert printed.split(",") == [f"{n}.tar" for n in range(8)]
    assert origin.gets() == 8


BESIDE = """
import random
most = 0
with nanocache.prefetch(urls, ahead=2, evict_behind=True) as paths:
    for n, path in enumerate(paths):
        meet(n)
        time.sleep(random.random() * 0.05)
        path.read_bytes()
        most = max(most, len(list(pathlib.Path(base).glob("blobs-v1/sha256/*/*"))))
print(most)
"""
MEET = """
import nanocache, pathlib, time
def meet(n):
    \"\"\"As in a training step: no reader is a shard further than another.\"\"\"
    pathlib.Path(there, f"{n}-{INDEX}").touch()
    deadline = time.monotonic() + 20
    while len(list(pathlib.Path(there).glob(f"{n}-*"))) < readers:
        assert time.monotonic() < deadline
        time.sleep(0.002)
"""


def test_readers_of_the_same_shards_evict_what_all_of_them_have_passed(
    base: Path, origin: Origin, tmp_path: Path, spawn: Spawn
) -> None:
    """The one that downloaded a shard took it from under the others, which had its path and had yet to open it."""
    there = tmp_path / "there"
    there.mkdir()
    options: dict[str, Any] = {"urls": shards(origin, 20), "base": str(base), "there": str(there), "readers": 4}
    most = spawn(BESIDE, 4, setup=MEET, **options).outputs()
    assert max(map(int, most)) <= 2 + 2 + 1  # ahead, in use, one that only some have passed
    assert origin.downloads() == 20
    assert blobs(base) == 0
    assert not list(base.glob("leases-v1/*-*-*"))


def test_an_iterator_that_is_left_holds_nothing(base: Path, origin: Origin) -> None:
    paths = nanocache.prefetch(shards(origin), ahead=2, evict_behind=True)
    next(paths)
    assert list(base.glob("leases-v1/*-*-*"))
    del paths
    gc.collect()
    wait(lambda: not list(base.glob("leases-v1/*-*-*")))
