"""nanodist.prefetch where several ranks want one shard: it is downloaded once, and taken from there by other disks."""

from __future__ import annotations

import signal
import socket
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.cancel import Cancel
from nanodist.shards import taking
from nanodist.shards.claims import ShardClaim
from nanodist.shards.wire import PeerLost
from tests.nanodist.conftest import Job, outcome
from tests.servers.misbehave import Misbehaving, status
from tests.servers.origin import Origin

Ranks = Callable[..., Any]
Torchrun = Callable[..., list[Job]]

READ = """
    paths = nanodist.prefetch(urls, rank=0, world_size=1)
    report(read=[path.read_bytes().hex() for path in paths])
"""


def apart(folder: Path, count: int) -> list[dict[str, str]]:
    """Each rank has a disk of its own."""
    return [{"NANODIST_SCOPE": "broadcast", "NANOCACHE_DIR": str(folder / f"disk{n}")} for n in range(count)]


def shards(origin: Origin, count: int, size: int = 200_000) -> list[str]:
    return [origin.url(f"/bytes/{size}/{n}/{n}.tar") for n in range(count)]


@pytest.mark.parametrize("store", ["agent", "rank0"])
def test_a_shard_that_several_disks_want_is_downloaded_once(
    ranks: Ranks, origin: Origin, tmp_path: Path, store: str
) -> None:
    run = ranks(READ, 3, store=store, env=apart(tmp_path, 3), urls=shards(origin, 6))
    assert run.codes == [0] * 3, run.err
    first, *others = run.last("read")
    assert len(first) == 6
    assert all(other == first for other in others)
    assert origin.downloads() == 6


def test_ranks_on_one_disk_take_a_shard_once(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    env = [apart(tmp_path, 2)[n % 2] for n in range(4)]
    run = ranks(READ, 4, env=env, urls=shards(origin, 4))
    assert run.codes == [0] * 4, run.err
    assert len({tuple(read) for read in run.last("read")}) == 1
    assert origin.downloads() == 4


def test_what_a_disk_has_from_before_is_given_to_the_others(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    urls, env = shards(origin, 4), apart(tmp_path, 2)
    assert ranks("[nanocache.fetch(url) for url in urls]", 1, env=env[:1], urls=urls).codes == [0]
    code = """
        paths = nanodist.prefetch(urls, rank=0, world_size=1)
        while RANK and not os.path.exists(offered):  # else the rank that lacks them may be first, and has to download
            time.sleep(0.01)
        report(read=[path.read_bytes().hex() for path in paths])
        open(offered, "w").close()
    """
    run = ranks(code, 2, env=env, urls=urls, offered=str(tmp_path / "offered"))
    assert run.codes == [0] * 2, run.err
    assert origin.downloads() == 4


def test_where_each_shard_is_one_ranks_no_store_is_asked(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        names = [path.name for path in nanodist.prefetch(urls)]
        report(names=names, shares="nanodist.shards.shared" in sys.modules, joined=joined() is not None)
    """
    imports = "import sys; from nanodist.coordination.coordinator import joined\n"
    run = ranks(imports + code.replace("\n        ", "\n"), 2, env=apart(tmp_path, 2), urls=shards(origin, 4))
    assert run.codes == [0] * 2, run.err
    assert [one["shares"] or one["joined"] for one in run.all()] == [False, False]
    assert origin.downloads() == 4


def test_scope_disk_has_each_disk_download_its_own(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    env = [disk | {"NANODIST_SCOPE": "disk"} for disk in apart(tmp_path, 2)]
    assert ranks(READ, 2, env=env, urls=shards(origin, 2)).codes == [0] * 2
    assert origin.downloads() == 4


def test_a_reader_that_is_behind_takes_what_the_first_one_brought(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        paths = nanodist.prefetch(urls, rank=0, world_size=1)
        for path in paths:
            time.sleep(RANK * 0.1)
        report(done=True)
    """
    run = ranks(code, 2, env=apart(tmp_path, 2), urls=shards(origin, 8))
    assert run.codes == [0] * 2, run.err
    assert origin.downloads() == 8


def test_a_shard_that_was_evicted_is_downloaded_by_the_reader_that_is_behind(
    ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    code = """
        paths = nanodist.prefetch(urls, rank=0, world_size=1, ahead=1, evict_behind=True)
        if RANK:
            time.sleep(0.5)
        report(read=[path.read_bytes().hex() for path in paths])
    """
    run = ranks(code, 2, env=apart(tmp_path, 2), urls=shards(origin, 6))
    assert run.codes == [0] * 2, run.err
    first, second = run.last("read")
    assert first == second
    assert not list((tmp_path / "disk1").glob("v1/blobs/*/*/*.tar"))  # what was taken is evicted like what came


SIGNALLED = """
import pathlib, signal

def signal_holder(number):
    partials = pathlib.Path(os.environ["NANOCACHE_DIR"], "partials-v1")
    while not any(partials.glob("*")):
        time.sleep(0.01)
    mark("holds")
    time.sleep(0.5)  # until the other one takes from it
    os.kill(os.getpid(), number)
"""


def test_a_holder_that_is_killed_is_replaced(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    slow = [origin.url("/bytes/2000000/7/7.tar?rate=1000000")]
    code = """
        from nanodist.shards import readers
        readers.READERS_LEAVING = 0.5
        if RANK:
            until("holds")
        else:
            threading.Thread(target=signal_holder, args=(signal.SIGKILL,)).start()
        report(size=[path.stat().st_size for path in nanodist.prefetch(urls, rank=0, world_size=1)])
    """
    run = ranks(SIGNALLED + textwrap.dedent(code), 2, env=apart(tmp_path, 2), urls=slow)
    assert run.codes == [-signal.SIGKILL, 0], run.err
    assert run.last("size") == [[2_000_000]]
    assert origin.downloads() == 2


def test_a_holder_that_is_frozen_is_replaced(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    slow = [origin.url("/bytes/2000000/7/7.tar?rate=1000000")]
    code = """
        from nanodist.shards import wire
        wire.SILENCE = 2.0
        if RANK:
            until("holds")
            report(size=[path.stat().st_size for path in nanodist.prefetch(urls, rank=0, world_size=1)])
            os.kill(int(open(shared).read()), signal.SIGCONT)
        else:
            open(shared, "w").write(str(os.getpid()))
            threading.Thread(target=signal_holder, args=(signal.SIGSTOP,)).start()
            report(size=[path.stat().st_size for path in nanodist.prefetch(urls, rank=0, world_size=1)])
    """
    code = SIGNALLED + textwrap.dedent(code)
    run = ranks(code, 2, env=apart(tmp_path, 2), urls=slow, shared=str(tmp_path / "pid"))
    assert run.codes == [0, 0], run.err
    assert run.last("size") == [[2_000_000]] * 2


def test_the_error_of_a_shards_origin_is_every_readers(
    ranks: Ranks, misbehaving: Callable[..., Misbehaving], tmp_path: Path
) -> None:
    code = """
        failing(lambda: next(nanodist.prefetch([url], rank=0, world_size=1)))
    """
    run = ranks(code, 2, env=apart(tmp_path, 2), url=misbehaving().route("/404.tar", status(404)))
    assert run.codes == [0] * 2, run.err
    assert [one["error"] for one in run.all()] == ["DownloadFailed"] * 2
    first, second = run.last("facts")
    assert first == second


def test_a_hook_runs_on_each_disk(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        artifact = nanocache.Artifact(url, postprocess=shout)
        [path] = nanodist.prefetch([artifact], rank=0, world_size=1)
        report(text=path.read_text())
    """
    hook = """
        def shout(src, dst):
            dst.write_text(src.read_bytes()[:4].hex().upper())
    """
    run = ranks(hook + code, 2, env=apart(tmp_path, 2), url=shards(origin, 1)[0])
    assert run.codes == [0] * 2, run.err
    assert len(set(run.last("text"))) == 1
    assert origin.downloads() == 1


def test_the_workers_of_a_dataloader_share_shards(torchrun: Torchrun, origin: Origin, tmp_path: Path) -> None:
    code = """
        import torch

        class Shards(torch.utils.data.IterableDataset):
            def __init__(self, urls, method, workers):
                self.paths = nanodist.prefetch(urls, rank=0, world_size=1)
                self.readers = [f"{method} {rank} {worker}" for rank in range(2) for worker in range(workers)]
                self.own = f"{method} {RANK}"
            def __iter__(self):
                mark(f"{self.own} {torch.utils.data.get_worker_info().id}")
                until(*self.readers)  # those that load torch anew may need longer for it than others for all shards
                for path in self.paths:
                    yield path.name, len(path.read_bytes())

        def names(urls, method, workers):
            loader = torch.utils.data.DataLoader(
                Shards(urls, method, workers), batch_size=None, num_workers=workers, multiprocessing_context=method
            )
            return sorted(name for name, _ in loader)

        if __name__ == "__main__":
            report(names=[names(urls[:6], "fork", 2), names(urls[6:], "spawn", 1)])
    """
    urls = shards(origin, 12)
    env = [disk | {"NANODIST_SCOPE": "auto"} for disk in apart(tmp_path, 2)]
    run = outcome(torchrun(code, agents=2, each=1, env=env, urls=urls))
    assert run.codes == [0, 0], run.err
    assert run.last("names") == [[sorted(f"{n}.tar" for n in part) for part in (range(6), range(6, 12))]] * 2
    assert origin.downloads() == 12, run.err


def test_an_abandoned_iterator_leaves_no_thread(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        paths = nanodist.prefetch(urls, rank=0, world_size=1)
        next(paths)
        paths.close()
        deadline = time.time() + 10
        while any(t.name.startswith("nanodist-shard") for t in threading.enumerate()) and time.time() < deadline:
            time.sleep(0.05)
        report(left=[t.name for t in threading.enumerate() if t.name.startswith("nanodist-shard")])
    """
    run = ranks(code, 2, env=apart(tmp_path, 2), urls=shards(origin, 4))
    assert run.codes == [0] * 2, run.err
    assert run.last("left") == [[], []]


def test_a_host_that_is_out_of_reach_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(address)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(taking, "_unreachable", set())
    holder = ShardClaim(disk="d", host="node7", port=4711, word="w")
    for _ in range(3):
        with pytest.raises(PeerLost):
            taking.take(holder, "shard", nanocache.Artifact("https://host/x"), tmp_path, Cancel())
    assert tried == [("node7", 4711)]
    assert [record.message for record in caplog.records if "node7 cannot be reached (timed out)" in record.message]
