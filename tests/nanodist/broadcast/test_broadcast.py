"""Broadcast: the origin sends once, every disk ends with the verified file, and a fault is its owner's alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanodist.broadcast.tree import TreePosition
from tests.nanodist.conftest import Job, outcome
from tests.servers.misbehave import in_turn, status, truncated
from tests.servers.origin import Origin, content, digest

Ranks = Callable[..., Any]
SIZE = 10_000_000  # bytes: three frames
BROADCAST = {"NANODIST_SCOPE": "broadcast"}


def url_of(origin: Origin, seed: int = 1, size: int = SIZE, query: str = "") -> str:
    return origin.url(f"/bytes/{size}/{seed}/f.bin{query}")


def disks(tmp_path: Path, n: int, each: int = 1) -> list[dict[str, str]]:
    """Environments of n ranks, `each` on one disk."""
    return [BROADCAST | {"NANOCACHE_DIR": str(tmp_path / f"disk{rank // each}")} for rank in range(n)]


@pytest.mark.parametrize("pinned", [True, False])
def test_origin_sends_once_and_every_disk_has_the_verified_file(
    ranks: Ranks, origin: Origin, tmp_path: Path, pinned: bool
) -> None:
    sha256 = digest(SIZE, 1) if pinned else None
    run = ranks(
        "for _ in range(2): report(path=str(nanodist.fetch(url, sha256=sha256)))",
        4,
        url=url_of(origin, query="?delay=0.2"),
        sha256=sha256,
        env=disks(tmp_path, 4, each=2),
    )
    assert run.codes == [0] * 4, run.err
    paths = {Path(path) for path in run.last("path")}
    assert len(paths) == 2
    assert all(path.read_bytes() == content(SIZE, 1) for path in paths)
    assert origin.downloads() == 1
    assert not run.err


# --- faults -----------------------------------------------------------------------------------------------------------

HOOKS = """
from nanodist.broadcast import broadcast, buffers, link, tree
from nanocache import peers

source = False
def as_source(*args, send=broadcast.send):
    global source
    source = True
    send(*args)
broadcast.send = as_source

def once(name):
    try:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def before(owner, name, act):
    real = getattr(owner, name)
    setattr(owner, name, lambda *args: (act(*args), real(*args))[1])
"""
SMALL_FRAMES = """
link.FRAME_BYTES = buffers.FRAME_BYTES = 1 << 18
"""
FETCH = """
begun = time.monotonic()
failing(lambda: nanodist.fetch(url, sha256=sha256))
took = time.monotonic() - begun
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < begun + took + 1:
    time.sleep(0.01)
report(took=took, source=source, threads=len(os.listdir("/proc/self/task")))
"""


def right(run: Any) -> int:
    """How many ranks ended with the right bytes, each on its own disk."""
    paths = {Path(path) for path in run.last("value")}
    assert all(path.read_bytes() == content(SIZE, 1) for path in paths)
    return len(paths)


@pytest.mark.parametrize("each", [1, 2])
def test_source_killed_in_the_middle_is_replaced_by_one_of_the_others(
    ranks: Ranks, origin: Origin, tmp_path: Path, each: int
) -> None:
    code = """
        sent = []
        def kill(self, kind, *rest):
            sent.append(kind)
            if source and len(sent) > 20 and once("killed"):
                os.kill(os.getpid(), 9)
        before(link.Link, "send", kill)
    """
    run = ranks(
        HOOKS + SMALL_FRAMES + textwrap.dedent(code) + FETCH,
        4,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 4, each),
    )
    assert sorted(run.codes) == [-9, 0, 0, 0], run.err
    assert right(run) == (3 if each == 1 else 2)
    assert len(run.last("value")) == 3
    assert origin.downloads() <= 3
    assert max(run.last("took")) < 10


def test_receiver_killed_costs_those_below_it_their_stream_and_nobody_else(
    ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    code = """
        def kill(self, data):
            if self.size > 1_000_000 and once("killed"):
                os.kill(os.getpid(), 9)
        before(peers.IncomingBlob, "write", kill)
    """
    run = ranks(
        HOOKS + SMALL_FRAMES + textwrap.dedent(code) + FETCH,
        5,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 5),
    )
    assert sorted(run.codes) == [-9, 0, 0, 0, 0], run.err
    assert right(run) == 4
    assert origin.downloads() <= 2
    assert max(run.last("took")) < 10


def test_source_slower_than_the_groups_time_out_is_waited_for(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    run = ranks(
        HOOKS + "link.PEER_TIMEOUT = 1; tree.STEP = 1\n" + FETCH,
        4,
        url=url_of(origin, query="?delay=2.5"),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 4),
    )
    assert run.codes == [0] * 4, run.err
    assert right(run) == 4
    assert origin.downloads() == 1
    assert not run.err


@pytest.mark.parametrize("full", ["receiver", "source"])
def test_full_disk_is_its_owners_error_alone(ranks: Ranks, origin: Origin, tmp_path: Path, full: str) -> None:
    code = """
        import resource
        if RANK == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
        if (RANK == 1) == (full == "receiver"):
            time.sleep(0.3)
    """
    run = ranks(
        HOOKS + textwrap.dedent(code) + FETCH,
        4,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        full=full,
        env=disks(tmp_path, 4),
    )
    assert run.codes == [0] * 4, run.err
    assert right(run) == 3
    assert run.last("error") == ["NoSpace"]
    assert "error" in run.reports[1][0]
    assert origin.downloads() <= 3
    assert max(run.last("took")) < 10


def test_wrong_bytes_on_the_way_are_refused_and_had_from_the_origin(
    ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    code = """
        real = link.Link.body
        def body(self, buffer, size):
            real(self, buffer, size)
            if size > 100_000 and once("flipped"):
                buffer.bytes[5] ^= 1
        link.Link.body = body
    """
    run = ranks(
        HOOKS + textwrap.dedent(code) + FETCH,
        3,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 3),
    )
    assert run.codes == [0] * 3, run.err
    assert right(run) == 3
    assert origin.downloads() == 2
    assert run.err.count("is not taken from a peer") == 1


def test_late_comer_has_it_from_the_origin(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        from nanodist.broadcast import roll_call
        roll_call.SILENT_DISK_PATIENCE = 1.0
        mark(f"here {RANK}")
        until(*("here 0", "here 1") if RANK < 2 else ("done 0", "done 1"))
    """
    run = ranks(
        HOOKS + textwrap.dedent(code) + FETCH + 'mark(f"done {RANK}")',
        3,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 3),
    )
    assert run.codes == [0] * 3, run.err
    assert right(run) == 3
    assert origin.downloads() == 2
    assert max(run.last("took")) < 4


def test_origin_that_refuses_is_asked_once_and_is_the_same_error_for_all(
    ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    run = ranks(
        HOOKS + FETCH,
        4,
        url=origin.url("/missing"),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 4),
    )
    errors = [one for one in run.all() if "error" in one]
    assert [one["error"] for one in errors] == ["DownloadFailed"] * 4, run.err
    assert all(one["facts"] == errors[0]["facts"] and one["facts"]["status"] == 404 for one in errors)
    assert origin.gets() == 1
    assert max(one["at"] for one in errors) - min(one["at"] for one in errors) < 1


def test_origin_that_breaks_off_in_the_middle_is_one_process_s_trouble(
    ranks: Ranks, misbehaving: Callable[..., Any], tmp_path: Path
) -> None:
    server = misbehaving()
    url = server.route("/f.bin", in_turn(truncated(content(SIZE, 1), SIZE // 2), status(404)))
    run = ranks(
        HOOKS + FETCH,
        4,
        url=url,
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 4),
    )
    errors = [one for one in run.all() if "error" in one]
    assert [one["error"] for one in errors] == ["DownloadFailed"] * 4, run.err
    assert all(one["facts"] == errors[0]["facts"] for one in errors)
    assert server.downloads() == 1


@pytest.mark.parametrize("victim", ["source", "receiver"])
def test_member_that_dies_before_the_tree_is_there_costs_seconds(
    ranks: Ranks, origin: Origin, tmp_path: Path, victim: str
) -> None:
    code = """
        link.MEETING = 2
        def die(self, place):
            if (place.position == 0) == (victim == "source") and once("dead"):
                os.kill(os.getpid(), 9)
        before(broadcast.Broadcast, "_tree", die)
    """
    run = ranks(
        HOOKS + textwrap.dedent(code) + FETCH,
        4,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        victim=victim,
        env=disks(tmp_path, 4),
    )
    assert sorted(run.codes) == [-9, 0, 0, 0], run.err
    assert right(run) == 3
    assert origin.downloads() <= 2
    assert max(run.last("took")) < 10


def test_store_that_dies_with_the_source_costs_downloads_and_not_the_file(
    ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    code = """
        sent = []
        def kill(self, kind, *rest):
            sent.append(kind)
            if source and len(sent) > 20:
                os.kill(os.getpid(), 9)
        before(link.Link, "send", kill)
        if RANK:
            time.sleep(0.3)
    """
    run = ranks(
        HOOKS + SMALL_FRAMES + textwrap.dedent(code) + FETCH,
        4,
        store="rank0",
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 4),
    )
    assert run.codes == [-9, 0, 0, 0], run.err
    assert right(run) == 3
    assert origin.downloads() == 4
    assert max(run.last("took")) < 10


@pytest.mark.parametrize("last", [1, 2])
def test_node_that_gloo_cannot_reach_downloads_by_itself_and_tries_no_more(
    ranks: Ranks, origin: Origin, tmp_path: Path, last: int
) -> None:
    code = """
        if RANK == 1:
            os.environ["GLOO_SOCKET_IFNAME"] = "nowhere0"
        if RANK:
            time.sleep(0.6 if RANK == last else 0.3)
        link.PEER_TIMEOUT = tree.STEP = 2
    """
    run = ranks(
        HOOKS + textwrap.dedent(code) + FETCH + "failing(lambda: nanodist.fetch(other, sha256=sha256))",
        3,
        url=url_of(origin),
        other=url_of(origin, query="?2").replace("f.bin", "g.bin"),
        last=last,
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 3),
    )
    assert run.codes == [0] * 3, run.err
    assert right(run) == 3
    assert origin.downloads(f"/bytes/{SIZE}/1/f.bin") == 2
    assert run.err.count("GLOO_SOCKET_IFNAME") == 1


def test_stopped_receiver_holds_up_the_others_for_seconds_only(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        import signal
        def stop(self, data):
            if self.size > 1_000_000 and once("stopped"):
                os.write(os.open(f"{folder}/stopped", os.O_WRONLY), str(os.getpid()).encode())
                os.kill(os.getpid(), signal.SIGSTOP)
        before(peers.IncomingBlob, "write", stop)
        link.PEER_TIMEOUT = 3
        tree.STEP = 1.5
    """
    tail = """
once(f"ended{RANK}")
if len([name for name in os.listdir(folder) if name.startswith("ended")]) == 2:
    os.kill(int(open(f"{folder}/stopped").read()), signal.SIGCONT)
"""
    run = ranks(
        HOOKS + SMALL_FRAMES + textwrap.dedent(code) + FETCH + tail,
        3,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 3),
    )
    assert run.codes == [0] * 3, run.err
    assert right(run) == 3
    assert origin.downloads() == 2
    assert sorted(run.last("took"))[1] < 8, "those that were not stopped"


@pytest.mark.parametrize("interrupted", ["source", "receiver"])
def test_interrupt_ends_within_two_seconds_and_spoils_nobody_else(
    ranks: Ranks, origin: Origin, tmp_path: Path, interrupted: str
) -> None:
    code = """
        import signal
        def interrupt(self, *rest):
            if source == (interrupted == "source") and once("interrupted"):
                report(interrupted=True)
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)
        before(*((link.Link, "send") if interrupted == "source" else (peers.IncomingBlob, "write")), interrupt)
    """
    run = ranks(
        HOOKS + SMALL_FRAMES + textwrap.dedent(code) + FETCH,
        3,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        interrupted=interrupted,
        env=disks(tmp_path, 3),
    )
    assert run.codes == [0] * 3, run.err
    assert run.last("error") == ["KeyboardInterrupt"]
    assert right(run) == 2
    [sent] = [one["at"] for one in run.all() if "interrupted" in one]
    [ended] = [one["at"] for one in run.all() if "error" in one]
    assert ended - sent < 2
    assert origin.downloads() <= 2
    assert max(run.last("took")) < 8
    assert run.last("threads") == [1] * 3


def test_interrupt_ends_a_receiver_whose_source_is_stopped(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        import signal
        def stop(self, kind, *rest):
            if source and kind is link.FrameKind.DATA and once("stopped"):
                open(f"{folder}/pid", "w").write(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
        before(link.Link, "send", stop)
        def interrupt():
            while not os.path.exists(f"{folder}/pid"):
                time.sleep(0.01)
            time.sleep(0.3)
            if not source:
                report(interrupted=True)
                os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
    """
    tail = """
if not source:
    os.kill(int(open(f"{folder}/pid").read()), signal.SIGCONT)
"""
    run = ranks(
        HOOKS + SMALL_FRAMES + textwrap.dedent(code) + FETCH + tail,
        2,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 2),
    )
    assert run.codes == [0] * 2, run.err
    assert run.last("error") == ["KeyboardInterrupt"]
    [sent] = [one["at"] for one in run.all() if "interrupted" in one]
    [ended] = [one["at"] for one in run.all() if "error" in one]
    assert ended - sent < 2


@pytest.mark.parametrize("size", [1, 2, 7, 8, 1000])
def test_tree_has_each_member_once_and_patience_that_grows_upwards(size: int) -> None:
    trees = [TreePosition(None, "", position, size) for position in range(size)]  # type: ignore[arg-type]
    assert sorted(child for tree in trees for child in tree.children()) == list(range(1, size))
    for tree in trees:
        assert all(trees[child].height() < tree.height() for child in tree.children())
        assert max((trees[child].height() + 1 for child in tree.children()), default=0) == tree.height()


# --- who takes part ---------------------------------------------------------------------------------------------------


def test_warm_disk_says_so_and_one_that_never_calls_is_waited_for_two_seconds(
    ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    code = """
        if RANK == 0:
            nanodist.fetch(url, sha256=sha256, scope="disk")
            once("warm")
        while not os.path.exists(f"{folder}/warm"):
            time.sleep(0.01)
        if RANK < callers:
    """
    for callers, least, most in ((2, 1.9, 4.0), (3, 0.0, 1.5)):
        folder = tmp_path / str(callers)
        folder.mkdir()
        run = ranks(
            HOOKS + textwrap.dedent(code) + textwrap.indent(FETCH, "    "),
            3,
            url=url_of(origin),
            sha256=digest(SIZE, 1),
            folder=str(folder),
            callers=callers,
            env=disks(folder, 3),
        )
        assert run.codes == [0] * 3, run.err
        assert right(run) == callers
        assert origin.downloads() == 2, "the warm disk's, and one for all cold ones"
        assert least <= max(run.last("took")) < most
        origin.reset()


def test_where_nobody_else_comes_the_wait_grows_shorter(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        from nanodist.broadcast import roll_call
        roll_call.SILENT_DISK_PATIENCE = 1.0
        if RANK == 0:
            begun = time.monotonic()
            for seed in range(8):
                nanodist.fetch(f"{url}?{seed}")
            report(took=time.monotonic() - begun)
    """
    run = ranks(code, 2, url=url_of(origin, size=1000), env=disks(tmp_path, 2))
    assert run.codes == [0, 0], run.err
    assert run.last("took")[0] < 5  # 2 s, where 8 rolls of the first one's patience are 8


def test_eight_members_pass_it_on_in_a_tree(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        sent = []
        before(link.Link, "send", lambda self, kind, *rest: sent.append((id(self), kind)))
    """
    tail = """
report(edges=len({one for one, kind in sent if kind is link.FrameKind.DATA}))
"""
    run = ranks(
        HOOKS + SMALL_FRAMES + textwrap.dedent(code) + FETCH + tail,
        8,
        url=url_of(origin),
        sha256=digest(SIZE, 1),
        folder=str(tmp_path),
        env=disks(tmp_path, 8),
    )
    assert run.codes == [0] * 8, run.err
    assert right(run) == 8
    assert origin.downloads() == 1
    assert sorted(run.last("edges")) == [0, 0, 0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("backend", ["gloo", "fake"])
def test_before_and_after_a_default_group_and_without_its_doing(
    ranks: Ranks, origin: Origin, tmp_path: Path, backend: str
) -> None:
    """ "fake" stands for NCCL: a backend that can't carry what lies in memory, and makes no gloo group."""
    code = """
        import torch.distributed as dist
        from torch.testing._internal.distributed.fake_pg import FakeStore
        report(value=str(nanodist.fetch(url, sha256=sha256)))
        if backend == "fake":
            dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=3)
        else:
            nanodist.compute_init("cpu", timeout=30)
        if RANK:  # of those in need only
            report(value=str(nanodist.fetch(other, sha256=sha256)))
        dist.destroy_process_group()
    """
    names = ("a", "b")
    urls = [origin.url(f"/bytes/{SIZE}/1/{name}") for name in names]
    run = ranks(code, 3, url=urls[0], other=urls[1], sha256=digest(SIZE, 1), backend=backend, env=disks(tmp_path, 3))
    assert run.codes == [0] * 3, run.err
    assert right(run) == 3
    assert origin.downloads() <= 2


# --- many -------------------------------------------------------------------------------------------------------------


def test_many_are_sent_while_the_next_are_downloaded(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        ends = []
        def slow(self, kind, *rest):
            if source and kind is link.FrameKind.DATA:
                time.sleep(0.2)
            if source and kind is link.FrameKind.END:
                ends.append(time.time())
        before(link.Link, "send", slow)
        paths = nanodist.fetch_many(urls, workers=1)
        report(paths=[str(path) for path in paths], ends=ends)
    """
    urls = [url_of(origin, seed, query="?delay=0.2") for seed in range(4)]
    run = ranks(HOOKS + textwrap.dedent(code), 2, urls=urls, folder=str(tmp_path), env=disks(tmp_path, 2))
    assert run.codes == [0] * 2, run.err
    for paths in run.last("paths"):
        assert [Path(path).read_bytes() == content(SIZE, seed) for seed, path in enumerate(paths)] == [True] * 4
    assert origin.downloads() == 4
    begun = {one.path: one.time for one in reversed(origin.requests())}
    ended = max(run.last("ends"), key=len)
    assert all(begun[f"/bytes/{SIZE}/{seed + 1}/f.bin"] < ended[seed] for seed in range(3))


def test_many_that_are_small_partly_here_and_one_of_them_missing(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        nanodist.fetch_many(urls[RANK * 10:RANK * 10 + 10], scope="disk")
        got = nanodist.fetch_many(urls + [missing], return_exceptions=True)
        report(got=[str(one) for one in got[:-1]], failure=type(got[-1]).__name__)
        failing(lambda: nanodist.fetch_many([missing, *more]))
    """
    urls = [url_of(origin, seed, 1000) for seed in range(100)]
    more = [url_of(origin, seed, 1000) for seed in range(200, 210)]
    run = ranks(code, 3, urls=urls, more=more, missing=origin.url("/missing"), env=disks(tmp_path, 3))
    assert run.codes == [0] * 3, run.err
    assert run.last("failure") == ["DownloadFailed"] * 3
    assert run.last("error") == ["DownloadFailed"] * 3
    for got in run.last("got"):
        assert [Path(path).read_bytes() for path in got] == [content(1000, seed) for seed in range(100)]
    assert origin.gets("/missing") == 2
    assert len([one for one in origin.requests() if one.path != "/missing"]) <= 100 + 30 + 10


def test_products_are_built_on_each_disk(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        def count(src, dst):
            dst.write_text(str(len(src.read_bytes())))
        count.key = "count"
        report(text=nanodist.fetch(url, postprocess=count).read_text())
    """
    run = ranks(code, 3, url=url_of(origin), env=disks(tmp_path, 3))
    assert run.codes == [0] * 3, run.err
    assert run.last("text") == [str(SIZE)] * 3
    assert origin.downloads() == 1


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_three_agents_one_warm_one_cold_one_that_never_calls(
    torchrun: Callable[..., list[Job]], origin: Origin, tmp_path: Path
) -> None:
    env = [{"NANOCACHE_DIR": str(tmp_path / name)} for name in ("warm", "cold", "silent")]
    url, sha256 = url_of(origin), digest(SIZE, 1)
    nanocache.fetch(url, sha256=sha256, base_dir=tmp_path / "warm")
    code = """
        import torch.distributed, nanodist.broadcast.broadcast  # which takes seconds
        disk = os.path.basename(os.environ["NANOCACHE_DIR"])
        if disk == "silent":
            while not os.path.exists(f"{folder}/over"):
                time.sleep(0.01)
        else:
            begun = time.monotonic()
            report(path=str(nanodist.fetch(url, sha256=sha256)))
            report(disk=disk, took=time.monotonic() - begun)
        if disk == "cold":
            open(f"{folder}/over", "w").close()
    """
    run = outcome(torchrun(code, agents=3, each=1, env=env, url=url, sha256=sha256, folder=str(tmp_path)))
    assert run.codes == [0] * 3, run.err
    assert {Path(path).read_bytes() == content(SIZE, 1) for path in run.last("path")} == {True}
    took = dict(zip(run.last("disk"), run.last("took"), strict=True))
    assert took["warm"] < 0.5
    assert took["cold"] < 2 + 2, "two seconds of silence, and the download"
    assert origin.downloads() == 2
