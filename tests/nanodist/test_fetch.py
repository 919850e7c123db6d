"""nanodist.fetch on real processes: one download, the same file or the same error on every rank."""

from __future__ import annotations

import inspect
import os
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import nanocache
import nanodist
from tests.servers.cas import CasServer
from tests.servers.misbehave import Misbehaving, serve
from tests.servers.origin import Origin, Request, content, digest

Ranks = Callable[..., Any]
SIZE = 100_000


def url_of(origin: Origin, seed: int = 1, size: int = SIZE, query: str = "") -> str:
    return origin.url(f"/bytes/{size}/{seed}/f.bin{query}")


def disks(tmp_path: Path, n: int = 8) -> list[dict[str, str]]:
    """Environments for n ranks, half of them on one disk and half on another."""
    return [{"NANOCACHE_DIR": str(tmp_path / f"disk{rank * 2 // n}")} for rank in range(n)]


def test_eight_ranks_download_once_and_all_have_the_file(ranks: Ranks, origin: Origin, base: Path) -> None:
    url = url_of(origin, query="?delay=0.3")
    run = ranks("report(path=str(nanodist.fetch(url, sha256=sha256)))", url=url, sha256=digest(SIZE, 1))
    assert run.codes == [0] * 8, run.err
    paths = {Path(path) for path in run.last("path")}
    assert len(paths) == 1
    assert paths.pop().read_bytes() == content(SIZE, 1)
    assert origin.gets() == 1
    assert not run.err


def test_groups_smaller_than_the_launchers_world_download_once(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        import torch.distributed as dist
        dist.init_process_group("gloo", init_method=f"file://{meet}{RANK // 2}", rank=RANK % 2, world_size=2)
        nanodist.print0("{}")
        report(path=str(nanodist.fetch(url)), value=nanodist.leader_first("k", lambda: 1))
        dist.destroy_process_group()
    """
    run = ranks(code, 4, url=url_of(origin, query="?delay=0.3"), meet=str(base.parent / "meet"))
    assert run.codes == [0] * 4, run.err
    assert run.last("value") == [1] * 4
    assert len(set(run.last("path"))) == 1
    assert origin.gets() == 1
    assert not run.err


def test_without_a_digest_too(ranks: Ranks, origin: Origin, base: Path) -> None:
    url = url_of(origin, query="?delay=0.3")
    run = ranks("for _ in range(2): report(path=str(nanodist.fetch(url)))", url=url)
    assert run.codes == [0] * 8, run.err
    assert len({one["path"] for one in run.all()}) == 1
    assert origin.gets() == 1


def test_leaders_error_is_every_ranks_error_within_a_second(ranks: Ranks, origin: Origin, base: Path) -> None:
    url = url_of(origin, query="?delay=0.5")
    run = ranks("failing(lambda: nanodist.fetch(url, sha256='ab' * 32))", url=url)
    errors = run.all()
    assert [one["error"] for one in errors] == ["ChecksumMismatch"] * 8, run.err
    assert all("ValueError" in one["mro"] and one["facts"] == errors[0]["facts"] for one in errors)
    assert max(one["at"] for one in errors) - min(one["at"] for one in errors) < 1
    assert origin.gets() <= 2  # nanocache's own second try


def test_error_binds_who_comes_a_moment_later(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        time.sleep(RANK / 2)
        failing(lambda: nanodist.fetch(url, sha256='ab' * 32))
    """
    run = ranks(code, 3, url=url_of(origin))
    assert run.last("error") == ["ChecksumMismatch"] * 3, run.err
    assert origin.gets() <= 2


def test_asking_again_is_a_new_try_for_all_who_do(ranks: Ranks, origin: Origin, base: Path, tmp_path: Path) -> None:
    code = """
        failing(lambda: nanodist.fetch(url, sha256=sha256))
        open(f"{folder}/failed{RANK}", "w").close()
        while not os.path.exists(f"{folder}/right"):
            time.sleep(0.01)
        failing(lambda: nanodist.fetch(url, sha256=sha256))
    """
    url = origin.add("/f.bin", b"wrong")

    def correct() -> None:
        while len(list(tmp_path.glob("failed*"))) < 4 and not over.is_set():
            time.sleep(0.01)
        origin.add("/f.bin", content(SIZE, 1))
        (tmp_path / "right").touch()

    over = threading.Event()
    correcting = threading.Thread(target=correct)
    correcting.start()
    try:
        run = ranks(code, 4, url=url, sha256=digest(SIZE, 1), folder=str(tmp_path))
    finally:
        over.set()
        correcting.join()
    assert run.last("error") == ["ChecksumMismatch"] * 4
    assert len(run.last("value")) == 4, run.err
    assert origin.gets() <= 3


def test_bad_argument_is_the_callers_own_error_before_any_word(ranks: Ranks, base: Path) -> None:
    run = ranks("failing(lambda: nanodist.fetch('http://127.0.0.1:9/f', sha256='md5:' + 'a' * 32))", 2)
    assert run.last("error") == ["ValueError"] * 2


def test_killed_leader_is_replaced_within_two_seconds(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        def watch(progress):
            if progress.holder is None and progress.done:
                if not os.path.exists(marker):
                    open(marker, "w").close()
                    report(killed=time.time())
                    os.kill(os.getpid(), 9)
                report(leads=time.time())
        report(path=str(nanodist.fetch(url, sha256=sha256, progress=watch)))
    """
    size = 1_000_000
    run = ranks(
        code,
        url=url_of(origin, size=size, query="?rate=1000000"),
        sha256=digest(size, 1),
        marker=str(base.parent / "marker"),
    )
    assert sorted(run.codes) == [-9] + [0] * 7, run.err
    killed = next(one["killed"] for one in run.all() if "killed" in one)
    assert min(one["leads"] for one in run.all() if "leads" in one) - killed < 2
    paths = run.last("path")
    assert len(paths) == 7
    assert {Path(path).read_bytes() == content(size, 1) for path in paths} == {True}


def test_rank_that_never_calls_holds_up_nobody(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        if RANK:
            report(path=str(nanodist.fetch(url)))
            mark(f"has {RANK}")
        else:
            until("has 1", "has 2", "has 3")  # held up by this one, they would never have it
    """
    run = ranks(code, 4, url=url_of(origin), timeout=20)
    assert run.codes == [0] * 4, run.err
    assert len(run.last("path")) == 3


def test_auto_finds_separate_disks_and_one_rank_acts_on_each(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = "report(path=str(nanodist.fetch(url)))"
    run = ranks(code, url=url_of(origin, query="?delay=0.5"), env=disks(tmp_path))
    assert run.codes == [0] * 8, run.err
    assert all(Path(path).is_relative_to(tmp_path / f"disk{n // 4}") for n, path in enumerate(run.last("path")))
    assert len(set(run.last("path"))) == 2
    assert origin.gets() == 2


def test_auto_finds_one_disk_behind_two_paths(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "disk0").mkdir()
    (tmp_path / "disk1").symlink_to("disk0")
    run = ranks("report(path=str(nanodist.fetch(url)))", url=url_of(origin, query="?delay=0.5"), env=disks(tmp_path))
    assert run.codes == [0] * 8, run.err
    assert len(set(run.last("path"))) == 2, "each by its own path text"
    assert origin.gets() == 1


def test_job_told_of_a_shared_disk_that_is_none_is_not_visible(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    run = ranks(
        "failing(lambda: nanodist.fetch(url, scope='job'))",
        url=url_of(origin, query="?delay=0.5"),
        env=disks(tmp_path),
    )
    values, errors = run.last("value"), run.last("error")
    assert (len(values), errors) == (4, ["NotVisible"] * 4), run.err
    assert origin.gets() == 1
    wrong = next(one for one in run.all() if "error" in one)
    assert "FileNotFoundError" in wrong["mro"]
    assert "NANODIST_SCOPE" in wrong["text"]
    ended = [one["at"] for one in run.all()]
    assert max(ended) - min(ended) < 2


ABSENT = """
absent = []
def noting(name):
    real = getattr(os, name)
    def call(path, *args, **options):
        try:
            return real(path, *args, **options)
        except FileNotFoundError:
            if not options.get("dir_fd"):
                absent.append(os.fsdecode(path))
            raise
    setattr(os, name, call)
for name in ("stat", "lstat", "open", "listdir", "scandir"):
    noting(name)
"""


@pytest.mark.parametrize("options", ["", "sha256=sha256, ", "postprocess=count, "], ids=["url", "digest", "product"])
@pytest.mark.parametrize("scope", ["job", "auto"])
def test_no_name_of_a_shared_disk_is_looked_up_before_the_leader_has_published_it(
    ranks: Ranks, origin: Origin, base: Path, options: str, scope: str
) -> None:
    """NFS and FUSE remember for up to a minute that a name was absent."""
    code = f"""
        def count(src, dst):
            dst.write_text("x")
        count.key = "count"
        if scope == "auto":
            os.environ["LOCAL_WORLD_SIZE"] = "1"  # two nodes
            os.environ["LOCAL_RANK"] = "0"
        if RANK:
            time.sleep(0.3)  # until the other one leads
        path = nanodist.fetch(url, {options}scope=scope)
        missing = [name for name in absent if "-v1/" in name and "nanodist-v1" not in name]
        nanodist.fetch(url, {options}scope=scope)
        report(path=str(path), missing=missing)
    """
    run = ranks(
        ABSENT + textwrap.dedent(code), 2, url=url_of(origin, query="?delay=0.7"), sha256=digest(SIZE, 1), scope=scope
    )
    assert run.codes == [0] * 2, run.err
    assert len(set(run.last("path"))) == 1
    assert run.reports[1][0]["missing"] == []
    assert origin.gets() == 1


def test_pods_of_one_machine_are_as_patient_as_hosts(ranks: Ranks, origin: Origin, base: Path) -> None:
    """They share its boot, but not its mounts."""
    code = """
        import pathlib
        from nanocache.coordination import process
        process._space, process._me = lambda: f"pid:[{RANK}]", None
        exists, first = pathlib.Path.exists, []
        def late(self):
            first.append(time.monotonic())
            return time.monotonic() - first[0] > 1 and exists(self)
        if RANK:
            time.sleep(0.3)
            pathlib.Path.exists = late
        failing(lambda: nanodist.fetch(url, scope="job"))
    """
    run = ranks(code, 2, url=url_of(origin, query="?delay=1"))
    assert len(run.last("value")) == 2, run.err
    assert origin.gets() == 1
    [leader], [other] = run.reports
    assert other["at"] - leader["at"] > 0.9, "it did not take what it could not see yet for gone"


@pytest.mark.parametrize("pinned", [True, False])
def test_job_sees_what_its_leader_published_where_absence_is_cached(
    ranks: Ranks, origin: Origin, mounts: list[str], pinned: bool
) -> None:
    code = """
        time.sleep(0.3 * RANK)
        begun = time.monotonic()
        path = nanodist.fetch(url, sha256=sha256, scope="job")
        report(right=path.read_bytes() == open(expected, "rb").read(), took=time.monotonic() - begun)
    """
    (expected := Path(mounts[0]).parent / "expected").write_bytes(content(SIZE, 1))
    env = [{"NANOCACHE_DIR": mount} for mount in mounts]
    sha256 = digest(SIZE, 1) if pinned else None
    url = url_of(origin, query="?delay=1.5")
    run = ranks(code, 3, url=url, sha256=sha256, expected=str(expected), env=env)
    assert run.codes == [0] * 3, run.err
    assert run.last("right") == [True] * 3
    assert max(run.last("took")) < 10
    assert origin.gets() == 1


@pytest.mark.parametrize("argument", ["", ", scope='disk'"])
def test_environment_names_the_scope_unless_an_argument_does(
    ranks: Ranks, origin: Origin, tmp_path: Path, argument: str
) -> None:
    env = [one | {"NANODIST_SCOPE": "job"} for one in disks(tmp_path, 4)]
    run = ranks(f"failing(lambda: nanodist.fetch(url{argument}))", 4, url=url_of(origin, query="?delay=0.3"), env=env)
    assert len(run.last("error")) == (0 if argument else 2), run.err
    assert origin.gets() == (2 if argument else 1)


def test_scope_nobody_knows_is_a_value_error(base: Path, origin: Origin) -> None:
    with pytest.raises(ValueError, match="auto, job, disk"):
        nanodist.fetch(url_of(origin), scope="node")


def test_without_a_store_locks_alone_coordinate_with_one_warning(ranks: Ranks, origin: Origin, base: Path) -> None:
    run = ranks(
        "for _ in range(2): report(path=str(nanodist.fetch(url)))",
        4,
        url=url_of(origin, query="?delay=0.5"),
        store="none",
    )
    assert run.codes == [0] * 4, run.err
    assert origin.gets() == 1
    assert run.err.count("file locks alone") == 4, run.err


def test_deleted_within_the_minute_is_fetched_again(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        path = nanodist.fetch(url)
        mark(f"has {RANK}")
        if RANK == 0:
            until(*(f"has {rank}" for rank in range(4)))
            path.unlink()
            mark("deleted")
        until("deleted")
        report(path=str(nanodist.fetch(url)))
    """
    run = ranks(code, 4, url=url_of(origin))
    assert run.codes == [0] * 4, run.err
    assert origin.gets() == 2


def test_store_that_dies_costs_coordination_and_not_the_file(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        def watch(progress):
            if RANK == 0 and progress.done:
                mark("leads")
            if RANK == 0 and progress.done > 400_000:
                os.kill(os.getpid(), 9)
        if RANK:
            until("leads")
        report(path=str(nanodist.fetch(url, sha256=sha256, progress=watch)))
    """
    size = 1_000_000
    run = ranks(code, 4, store="rank0", url=url_of(origin, size=size, query="?rate=1000000"), sha256=digest(size, 1))
    assert run.codes == [-9, 0, 0, 0], run.err
    assert [Path(path).read_bytes() == content(size, 1) for path in run.last("path")] == [True] * 3
    assert run.err.count("file locks alone") == 3


def test_store_that_is_stopped_costs_coordination_and_not_the_file(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        import signal
        from nanodist.coordination import store_client
        store_client.ANSWER = 2.0
        def watch(progress):
            if progress.holder is None and progress.done > 400_000:
                os.kill(int(os.environ["STORE_PID"]), signal.SIGSTOP)
        report(path=str(nanodist.fetch(url, sha256=sha256, progress=watch)))
    """
    size = 1_000_000
    run = ranks(code, 4, url=url_of(origin, size=size, query="?rate=1000000"), sha256=digest(size, 1), timeout=20)
    assert run.codes == [0] * 4, run.err
    assert [Path(path).read_bytes() == content(size, 1) for path in run.last("path")] == [True] * 4
    assert run.err.count("file locks alone") == 3
    assert origin.downloads() == 1


def test_before_and_after_init_and_longer_than_its_time_out(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        import torch, torch.distributed as dist
        report(before=str(nanodist.fetch(before)))
        nanodist.compute_init("cpu", timeout=3)
        report(after=str(nanodist.fetch(after, sha256=sha256)))
        ones = torch.ones(1)
        dist.all_reduce(ones)
        report(sum=ones.item())
        nanodist.compute_cleanup()
        nanodist.compute_cleanup()
    """
    size = 1_000_000
    run = ranks(
        code,
        4,
        before=url_of(origin, 2),
        after=url_of(origin, size=size, query="?delay=3.5"),
        sha256=digest(size, 1),
    )
    assert run.codes == [0] * 4, run.err
    assert run.last("sum") == [4.0] * 4
    assert origin.gets() == 2


@pytest.mark.parametrize("method", ["tcp", "file"])
def test_with_a_group_made_by_hand(ranks: Ranks, origin: Origin, base: Path, method: str, tmp_path: Path) -> None:
    code = """
        import socket, torch.distributed as dist
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
        dist.init_process_group("gloo", init_method=method, rank=RANK, world_size=4)
        report(path=str(nanodist.fetch(url)), info=nanodist.topology().launcher)
        dist.destroy_process_group()
    """
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run = ranks(
        code,
        4,
        store="none",
        url=url_of(origin, query="?delay=0.5"),
        method=f"tcp://127.0.0.1:{port}" if method == "tcp" else f"file://{tmp_path}/rendezvous",
    )
    assert run.codes == [0] * 4, run.err
    assert run.last("info") == ["group"] * 4
    assert origin.gets() == 1
    assert run.err.count("file locks alone") == (0 if method == "tcp" else 4), run.err


def test_forked_loader_workers_use_the_lock_alone(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        import torch.utils.data
        from nanodist.coordination.coordinator import coordination
        class Files(torch.utils.data.Dataset):
            def __len__(self):
                return 4
            def __getitem__(self, n):
                assert coordination() is None
                return str(nanodist.fetch(url))
        nanodist.fetch(other)
        assert coordination() is not None
        loader = torch.utils.data.DataLoader(Files(), num_workers=2, multiprocessing_context="fork")
        report(paths=sorted({path for batch in loader for path in batch}))
        assert coordination() is not None
        nanodist.fetch(third)
    """
    run = ranks(code, 2, url=url_of(origin, query="?delay=0.5"), other=url_of(origin, 2), third=url_of(origin, 3))
    assert run.codes == [0, 0], run.err
    assert [len(paths) for paths in run.last("paths")] == [1, 1]
    assert origin.gets() == 3


def test_many_come_in_order_from_one_download_each(ranks: Ranks, origin: Origin, base: Path) -> None:
    urls = [url_of(origin, seed, 1000) for seed in range(150)]
    run = ranks("report(paths=[str(p) for p in nanodist.fetch_many(urls)])", 4, urls=urls)
    assert run.codes == [0] * 4, run.err
    [first, *others] = run.last("paths")
    assert all(paths == first for paths in others)
    assert [Path(path).read_bytes() for path in first] == [content(1000, seed) for seed in range(150)]
    assert origin.gets() == 150


def test_many_with_exceptions_in_place_are_the_same_on_every_rank(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        wanted = [nanocache.Artifact(url, sha256=sha256) for url, sha256 in artifacts]
        got = nanodist.fetch_many(wanted, return_exceptions=True)
        report(got=[type(one).__name__ if isinstance(one, Exception) else str(one) for one in got])
        failing(lambda: nanodist.fetch_many(wanted[1:]))
    """
    artifacts = [(url_of(origin, 1), digest(SIZE, 1)), (url_of(origin, 2), "ab" * 32)]
    run = ranks(code, 4, artifacts=artifacts)
    assert run.codes == [0] * 4, run.err
    assert {tuple(got) for got in run.last("got")} == {(run.last("got")[0][0], "ChecksumMismatch")}
    assert run.last("error") == ["ChecksumMismatch"] * 4


@pytest.mark.parametrize("env", [{"RANK": "1"}, {"RANK": "0", "LOCAL_WORLD_SIZE": "2"}], ids=["rank 1", "one node"])
def test_a_hit_asks_no_store_and_loads_no_torch(
    base: Path, origin: Origin, spawn: Callable[..., Any], env: dict[str, str]
) -> None:
    """But where other nodes look for the store, which rank 0 serves."""
    path = nanocache.fetch(url_of(origin))
    code = """
import sys
print(nanodist.fetch(url))
assert "torch" not in sys.modules and "nanodist.coordination.coordinator" in sys.modules
"""
    env = env | {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    group = spawn(code, setup="import nanodist", env=env, url=url_of(origin))
    assert group.outputs() == [str(path)]


def test_one_process_without_a_launcher_is_nanocache(base: Path, origin: Origin) -> None:
    path = nanodist.fetch(url_of(origin), sha256=digest(SIZE, 1))
    assert path == nanocache.lookup(url_of(origin), sha256=digest(SIZE, 1))
    assert nanodist.fetch_many([url_of(origin), url_of(origin, 2)])[0] == path
    assert not (base / "nanodist-v1").exists()


@pytest.mark.parametrize("name", ["fetch", "fetch_many"])
def test_signatures_are_nanocaches_with_a_scope(name: str) -> None:
    ours = dict(inspect.signature(getattr(nanodist, name)).parameters)
    assert ours.pop("scope").default == "auto"
    theirs = inspect.signature(getattr(nanocache, name)).parameters
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}


def test_ranks_have_the_artifact_in_a_folder_of_theirs_as_well(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        one = nanodist.fetch(url, sha256=sha256, into=folder)
        [two] = nanodist.fetch_many([url], into=folder + "2")
        report(paths=[str(one), str(two)], same=one.read_bytes() == two.read_bytes())
    """
    folder = str(base.parent / "mine")
    run = ranks(code, 4, url=url_of(origin), sha256=digest(SIZE, 1), folder=folder)
    assert run.codes == [0] * 4, run.err
    assert run.last("paths") == [[f"{folder}/f.bin", f"{folder}2/f.bin"]] * 4
    assert run.last("same") == [True] * 4


def test_what_a_read_only_cache_of_one_node_has_is_sent_to_the_node_that_lacks_it(
    ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    here, new = url_of(origin), url_of(origin, 2)
    nanocache.Cache(tmp_path / "site").fetch(here)
    origin.reset()
    env = disks(tmp_path, 2)
    env[0]["NANOCACHE_READONLY_DIRS"] = str(tmp_path / "site")
    code = "report(paths=[str(path) for path in nanodist.fetch_many(wanted, scope='broadcast')])"
    run = ranks(code, 2, env=env, wanted={here: digest(SIZE, 1), new: digest(SIZE, 2)})
    assert run.codes == [0] * 2, run.err
    places = [[Path(path).relative_to(tmp_path).parts[0] for path in paths] for paths in run.last("paths")]
    assert places == [["site", "disk0"], ["disk1", "disk1"]]
    assert origin.gets() == 1


def test_ranks_that_do_not_see_the_read_only_cache_of_their_leader_download_for_themselves(
    ranks: Ranks, origin: Origin, base: Path, tmp_path: Path
) -> None:
    """It is found by the one that leads once its lost seal made it read; the others cannot open it."""
    url, sha256 = url_of(origin), digest(SIZE, 1)
    site = nanocache.Cache(tmp_path / "site").fetch(url)
    os.utime(site)
    code = """
        if RANK:
            os.environ.pop("NANOCACHE_READONLY_DIRS")
            stat = os.stat
            os.stat = lambda path, **o: stat("/gone" if str(path).startswith(hidden) else path, **o)
            until("found")
        report(path=str(nanodist.fetch(url, sha256=sha256)))
        mark("found")
    """
    run = ranks(
        code,
        2,
        env={"NANOCACHE_READONLY_DIRS": str(tmp_path / "site")},
        url=url,
        sha256=sha256,
        hidden=str(tmp_path / "site"),
    )
    assert run.codes == [0] * 2, run.err
    assert [Path(path).is_relative_to(base) for path in run.last("path")] == [False, True]


@pytest.mark.parametrize("scope", ["auto", "broadcast"])
def test_the_rank_that_downloads_fills_the_remote_and_no_rank_waits_for_that(
    scope: str, ranks: Ranks, origin: Origin, tmp_path: Path
) -> None:
    with CasServer() as cas:
        cas.pause["PUT"] = 2.5
        env = [one | {"NANOCACHE_REMOTE": cas.url} for one in disks(tmp_path, 4)]
        if scope == "auto":
            env = [one | {"NANOCACHE_DIR": str(tmp_path / "disk")} for one in env]
        code = """
            began = time.monotonic()
            path = nanodist.fetch(url, sha256=sha256, scope=scope)
            report(path=str(path), seconds=time.monotonic() - began)
        """
        run = ranks(code, 4, env=env, url=url_of(origin), sha256=digest(SIZE, 1), scope=scope)
        assert run.codes == [0] * 4, run.err
        assert (origin.gets(), cas.asked("PUT")) == (1, 1)
        assert cas.objects == {digest(SIZE, 1): content(SIZE, 1)}
        seconds = sorted(run.last("seconds"))
        assert seconds[3] - seconds[2] > 1


def test_a_header_that_chooses_another_content_is_another_question(
    ranks: Ranks, base: Path, misbehaving: Callable[..., Misbehaving]
) -> None:
    """A rank that asked for one language was given the file of a rank that asked for another at the same moment."""

    def by_language(request: Request) -> Iterable[Any]:
        yield 0.5
        yield from serve(f"in {request.headers['accept-language']}".encode())(request)

    code = """
        language = ("de", "fr")[RANK]
        report(said=nanodist.fetch(url, headers={"Accept-Language": language}).read_text())
    """
    run = ranks(code, 2, url=misbehaving().route("/page.txt", by_language))
    assert run.codes == [0] * 2, run.err
    assert run.last("said") == ["in de", "in fr"]


def test_a_hook_with_another_default_is_another_question(ranks: Ranks, origin: Origin, base: Path) -> None:
    code = """
        def build(src, dst, text=str(RANK)):
            dst.write_text(text)

        report(said=nanodist.fetch(url, postprocess=build).read_text())
    """
    run = ranks(code, 2, url=url_of(origin, query="?delay=0.5"))
    assert run.codes == [0] * 2, run.err
    assert run.last("said") == ["0", "1"]


def test_ranks_whose_urls_are_signed_apart_share_one_download(ranks: Ranks, origin: Origin, tmp_path: Path) -> None:
    code = """
        signed = f"{url}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k&X-Amz-Signature=ab{RANK}"
        report(path=str(nanodist.fetch(signed, scope="broadcast")))
    """
    run = ranks(code, 4, env=disks(tmp_path, 4), url=url_of(origin))
    assert run.codes == [0] * 4, run.err
    assert len(set(run.last("path"))) == 2
    assert sum(request.range is None for request in origin.requests(method="GET")) == 1
