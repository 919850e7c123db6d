"""nanodist.build_once on real processes: one build for the job, on every disk, or the same error."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
import nanodist
from nanocache import PostprocessFailed
from tests.nanodist.conftest import Job, Run, outcome

Ranks = Callable[..., Any]

# What is built: an executable, an empty file and folder, a link, times, a file of several frames, and many small ones.
BUILD = """
from nanodist.broadcast import link
sent = []
real_send = link.Link.send
def counting(self, kind, number=0, buffer=None, size=0):
    sent.append(24 + size)
    real_send(self, kind, number, buffer, size)
link.Link.send = counting

def log(line):
    with open(f"{folder}/log", "a") as file:
        file.write(line + "\\n")

def make(dst):
    log(str(RANK))
    assert not dst.exists() and dst.name == "kernels"
    (dst / "sub" / "empty").mkdir(parents=True)
    (dst / "large.bin").write_bytes(os.urandom(9_000_000))
    for n in range(2000):
        (dst / "sub" / f"{n}.o").write_bytes(os.urandom(1000))
    (dst / "tool").write_text("#!/bin/sh")
    (dst / "tool").chmod(0o755)
    (dst / "none").touch()
    (dst / "link").symlink_to("sub/0.o")
    os.utime(dst / "tool", (1, 1))
    time.sleep(0.5)

def build(key="k", fn=make, name="kernels"):
    path = failing(lambda: nanodist.build_once(key, fn, name=name, facts=["a", "b"]))
    report(sent=sum(sent))
    return path
"""
SIZE = 11_000_000  # bytes


def disks(tmp_path: Path, n: int, each: int = 2) -> list[dict[str, str]]:
    return [{"NANOCACHE_DIR": str(tmp_path / f"disk{rank // each}")} for rank in range(n)]


def builds(tmp_path: Path) -> int:
    return len((tmp_path / "log").read_text().split())


def contents(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): _what(path) for path in sorted(folder.rglob("*"))}


def _what(path: Path) -> Any:
    if path.is_symlink():
        return os.readlink(path)
    if path.is_dir():
        return "folder"
    return path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR), path.stat().st_mtime_ns


def same_everywhere(run: Run, disks: int) -> list[Path]:
    """The folders, one on each disk, of which each holds the same."""
    assert set(run.codes) == {0}, run.err
    folders = sorted({Path(path) for path in run.last("value")})
    assert len(folders) == disks
    first = contents(folders[0])
    assert len(first) == 2006
    assert all(contents(folder) == first for folder in folders)
    return folders


def test_eight_ranks_on_four_disks_build_once_and_each_disk_gets_it_in_its_bytes(ranks: Ranks, tmp_path: Path) -> None:
    run = ranks(BUILD + "build()", 8, folder=str(tmp_path), env=disks(tmp_path, 8))
    same_everywhere(run, 4)
    assert builds(tmp_path) == 1
    assert sum(run.last("sent")) <= 1.2 * 3 * SIZE
    assert not run.err


def test_under_torchrun_too(torchrun: Callable[..., list[Job]], tmp_path: Path) -> None:
    setup = """
        os.environ["NANOCACHE_DIR"] = f"{folder}/disk{RANK}"
    """
    run = outcome(torchrun(textwrap.dedent(setup) + BUILD + "build()", each=2, folder=str(tmp_path)))
    same_everywhere(run, 2)
    assert builds(tmp_path) == 1


SMALL = """
def small(dst):
    log(str(RANK))
    dst.mkdir()
    (dst / "a").write_bytes(b"a" * 1000)
    (dst / "b").write_bytes(b"b" * 1_000_000)
"""


def test_ranks_of_one_disk_build_once_and_send_nothing(ranks: Ranks, tmp_path: Path) -> None:
    run = ranks(BUILD + SMALL + "build(fn=small); build(fn=small)", 8, folder=str(tmp_path), env=disks(tmp_path, 8, 8))
    assert set(run.codes) == {0}, run.err
    assert len(set(run.last("value"))) == 1
    assert builds(tmp_path) == 1
    assert sum(run.last("sent")) == 0


def test_failed_build_is_the_same_error_everywhere_publishes_nothing_and_runs_again(
    ranks: Ranks, tmp_path: Path
) -> None:
    code = """
        def broken(dst):
            small(dst)
            raise ZeroDivisionError("no compiler")
        build(fn=broken)
        mark(f"failed {RANK}")
        until(*(f"failed {rank}" for rank in range(8)))
        build(fn=small)
    """
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 8, folder=str(tmp_path), env=disks(tmp_path, 8))
    errors = [one for one in run.all() if "error" in one]
    assert len(errors) == 8
    assert {one["error"] for one in errors} == {"PostprocessFailed"}
    assert len({str(one["facts"]) for one in errors}) == 1
    assert "no compiler" in errors[0]["text"]
    assert len(set(run.last("value"))) == 4
    assert builds(tmp_path) == 2


@pytest.mark.parametrize(
    ("raised", "leads", "follow"),
    [
        ("SystemExit(3)", "SystemExit", "LeaderError"),
        ("nanocache.NoSpace(path='x', needed=1, available=0)", "NoSpace", "NoSpace"),
    ],
)
def test_other_errors_cross_ranks_as_those_of_fetch_do(
    ranks: Ranks, tmp_path: Path, raised: str, leads: str, follow: str
) -> None:
    code = f"""
        def broken(dst):
            time.sleep(0.5)
            raise {raised}
        build(fn=broken)
    """
    run = ranks(BUILD + textwrap.dedent(code), 4, folder=str(tmp_path), env=disks(tmp_path, 4))
    assert sorted(run.last("error")) == sorted([leads, follow, follow, follow])


def test_killed_builder_is_replaced_by_one_rank(ranks: Ranks, tmp_path: Path) -> None:
    code = """
        def killed(dst):
            small(dst)
            if len(open(f"{folder}/log").readlines()) == 1:
                time.sleep(0.5)
                os.kill(os.getpid(), 9)
        build(fn=killed)
    """
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 8, folder=str(tmp_path), env=disks(tmp_path, 8))
    assert sorted(run.codes) == [-9, *[0] * 7], run.err
    assert len(set(run.last("value"))) == 4
    assert builds(tmp_path) == 2


def test_source_killed_while_it_sends_is_replaced_by_a_new_build_for_all_that_lack_it(
    ranks: Ranks, tmp_path: Path
) -> None:
    code = """
        from nanodist.broadcast import buffers
        link.FRAME_BYTES = buffers.FRAME_BYTES = 1 << 16
        def killing(self, kind, number=0, buffer=None, size=0):
            if kind is link.FrameKind.DATA and number == 1 and not os.path.exists(f"{folder}/killed"):
                open(f"{folder}/killed", "x").close()
                os.kill(os.getpid(), 9)
            counting(self, kind, number, buffer, size)
        link.Link.send = killing
        build(fn=small)
    """
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 4, folder=str(tmp_path), env=disks(tmp_path, 4, 1))
    assert sorted(run.codes) == [-9, 0, 0, 0], run.err
    assert len(set(run.last("value"))) == 3
    assert builds(tmp_path) <= 2


def test_disk_that_has_it_from_before_sends_it_and_none_builds(ranks: Ranks, tmp_path: Path) -> None:
    code = """
        if RANK == 2:
            nanocache.build('k ["a", "b"]', small, name="kernels")
            mark("has it")
        until("has it")
        build(fn=small)
    """
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 8, folder=str(tmp_path), env=disks(tmp_path, 8))
    assert set(run.codes) == {0}, run.err
    folders = {Path(path) for path in run.last("value")}
    assert len(folders) == 4
    assert all((folder / "b").read_bytes() == b"b" * 1_000_000 for folder in folders)
    assert builds(tmp_path) == 1
    assert sum(run.last("sent")) <= 1.2 * 3 * 1_001_000


def test_disk_that_has_some_of_its_files_is_sent_the_others(ranks: Ranks, tmp_path: Path) -> None:
    code = """
        path = nanocache.build('k ["a", "b"]', small, name="kernels")
        if RANK == 0:
            (path / "a").unlink()
        else:
            time.sleep(0.2)
        build(fn=small)
        build(key="k2", fn=small)  # another version, of which much is the same
    """
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 2, folder=str(tmp_path), env=disks(tmp_path, 2, 1))
    assert set(run.codes) == {0}, run.err
    assert all((Path(path) / "a").read_bytes() == b"a" * 1000 for path in run.last("value"))
    assert builds(tmp_path) == 3  # one on each disk before, and one of the other version
    assert sum(run.last("sent")) < 5000


IMPATIENT = """
from nanodist import building
from nanodist.broadcast import handover, roll_call
building.SILENT_DISK_PATIENCE = handover.SILENT_DISK_PATIENCE = roll_call.SILENT_DISK_PATIENCE = 0.5
"""


def test_ranks_that_do_not_call_hold_up_the_others_for_seconds_at_most(ranks: Ranks, tmp_path: Path) -> None:
    code = """
        begun = time.monotonic()
        if RANK in (2, 3):
            build(fn=small)
            mark(f"built {RANK}")
        report(took=time.monotonic() - begun)
        until("built 2", "built 3")
    """
    run = ranks(BUILD + SMALL + IMPATIENT + textwrap.dedent(code), 6, folder=str(tmp_path), env=disks(tmp_path, 6))
    assert len(run.last("value")) == 2
    assert max(run.last("took")) < 3
    assert builds(tmp_path) == 1


def test_disk_that_comes_when_none_sends_any_more_builds_by_itself(ranks: Ranks, tmp_path: Path) -> None:
    code = """
        if RANK:
            until("built")
        build(fn=small)
        mark("built")
    """
    run = ranks(BUILD + SMALL + IMPATIENT + textwrap.dedent(code), 2, folder=str(tmp_path), env=disks(tmp_path, 2, 1))
    assert set(run.codes) == {0}, run.err
    assert builds(tmp_path) == 2


@pytest.mark.parametrize("fault", ["full", "locked"])
def test_disk_that_cannot_take_it_holds_up_no_other_and_builds(ranks: Ranks, tmp_path: Path, fault: str) -> None:
    code = """
        from nanocache.engine.unpacking import Unpacking
        from nanodist.broadcast import handover
        def full(self, contents):
            raise OSError(28, "No space left on device")
        def locked(*args):
            raise nanocache.LockTimeout(path="x", waited=0.0, pid=1, host="h", done=None, total=None)
        if "disk1" in os.environ["NANOCACHE_DIR"]:
            if fault == "full":
                Unpacking.begin = full
            else:
                handover.receive_built = locked
        link.MEETING = 2
        begun = time.monotonic()
        if RANK == 1:
            time.sleep(0.3)
        build(fn=small)
        report(took=time.monotonic() - begun)
    """
    env = disks(tmp_path, 3, 1)
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 3, folder=str(tmp_path), env=env, fault=fault)
    assert set(run.codes) == {0}, run.err
    assert len(set(run.last("value"))) == 3
    assert builds(tmp_path) == 2
    assert max(run.last("took")) < 15


def test_where_gloo_cannot_connect_the_nodes_each_disk_builds_with_one_warning(ranks: Ranks, tmp_path: Path) -> None:
    code = """
        def refuse(self, *args, **options):
            raise link.LinkUnreachable("no route")
        link.Link.__init__ = refuse
        for key in "ab":
            build(key, small)
    """
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 2, folder=str(tmp_path), env=disks(tmp_path, 2, 1))
    assert set(run.codes) == {0}, run.err
    assert len(set(run.last("value"))) == 2
    assert 1 <= run.err.count("gloo cannot connect") <= 2  # of each rank that was to take something
    assert builds(tmp_path) == 4


def test_rank_0_that_serves_the_store_may_be_slow_to_start(ranks: Ranks, tmp_path: Path) -> None:
    code = """
        time.sleep(0 if RANK else 2.5)
        build(fn=small)
    """
    env = disks(tmp_path, 2, 1)
    run = ranks(BUILD + SMALL + textwrap.dedent(code), 2, store="rank0", folder=str(tmp_path), env=env)
    assert set(run.codes) == {0}, run.err
    assert builds(tmp_path) == 1


@pytest.mark.parametrize("scope", ["job", "disk"])
def test_scope_of_the_environment_counts(ranks: Ranks, tmp_path: Path, scope: str) -> None:
    env = [one | {"NANODIST_SCOPE": scope} for one in disks(tmp_path, 4, 4 if scope == "job" else 2)]
    run = ranks(BUILD + SMALL + "build(fn=small)", 4, folder=str(tmp_path), env=env)
    assert set(run.codes) == {0}, run.err
    assert builds(tmp_path) == len(set(run.last("value"))) == (1 if scope == "job" else 2)


# --- one process ------------------------------------------------------------------------------------------------------


def test_without_a_launcher_it_is_nanocaches_build(base: Path) -> None:
    calls: list[Path] = []

    def make(dst: Path) -> None:
        calls.append(dst)
        dst.write_text("built")

    path = nanodist.build_once("k", make, name="f")
    assert nanocache.build("k", make, name="f") == path
    assert nanodist.build_once("k", make, name="f", facts=["torch 3", "gpu x"]) != path
    assert nanodist.build_once("k", make, name="f", facts=["gpu x", "torch 3"]).read_text() == "built"
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["link", "fifo", "name"])
def test_what_could_not_be_the_same_elsewhere_is_refused_and_not_kept(base: Path, tmp_path: Path, kind: str) -> None:
    def make(dst: Path) -> None:
        dst.mkdir()
        match kind:
            case "link":
                (dst / "l").symlink_to(tmp_path)
            case "fifo":
                os.mkfifo(dst / "p")
            case "name":
                (dst / os.fsdecode(b"\xff")).touch()

    with pytest.raises(PostprocessFailed, match=r"leads out|is a fifo|not UTF-8"):
        nanodist.build_once("k", make, name="f")
    assert not list(base.glob("products-v1/*/*/*"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"key": ""}, "key"),
        ({"name": "a/b"}, "segment"),
        ({"fn": "make"}, "fn"),
        ({"facts": "torch"}, "facts"),
        ({"facts": [1]}, "facts"),
        ({"facts": None}, "facts"),
    ],
)
def test_wrong_arguments_are_value_errors(base: Path, arguments: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"key": "k", "fn": Path.touch, "name": "f", "facts": ()} | arguments
    with pytest.raises(ValueError, match=reason):
        nanodist.build_once(given["key"], given["fn"], name=given["name"], facts=given["facts"])
    assert not list(base.iterdir())
