"""The examples are programs that people copy: they run as they say, plain, and on several disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nanodist.conftest import Job, meeting

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = str(EXAMPLES / "train.py")
COMPILES = bool(shutil.which("g++")) and Path(sysconfig.get_path("include"), "Python.h").exists()
DISKS, EACH = (4, 2) if os.environ.get("NANOCACHE_SOAK") else (2, 1)  # ranks on each; a rank takes seconds of a core

pytestmark = [pytest.mark.timeout(180), pytest.mark.alone]


def test_plain(base: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, TRAIN, "--steps=40"], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "downloads at the origin: 1" in run.stdout


def test_two_nodes_with_a_disk_each(tmp_path: Path, jobs: Callable[..., Job]) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *meeting(2),
        f"--nproc-per-node={EACH}",
        TRAIN,
        "--steps=40",
    ]
    started = [
        jobs(command, env={"NANOCACHE_DIR": str(tmp_path / node)}, folder=tmp_path, name=node) for node in ("a", "b")
    ]
    for job in started:
        assert job.finish(120) == 0, job.err.read_text()
    assert "downloads at the origin: 1" in "".join(job.out.read_text() for job in started)


ON_ITS_DISK = """
import os, runpy, sys
os.environ["NANOCACHE_DIR"] = f"{sys.argv[1]}/disk{int(os.environ['RANK']) // int(sys.argv[3])}"
runpy.run_path(sys.argv[2], run_name="__main__")
"""
# Without what Inductor tries first: vectors by interpreters that load torch, headers, and a pool of processes.
BARE = {
    "TORCHINDUCTOR_VEC_ISA_OK": "0",
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
COUNTING = """#!/bin/sh
case " $* " in *" -shared "*) echo "$RANK" >> "$COMPILED";; esac
exec g++ "$@"
"""


@pytest.mark.skipif(not COMPILES, reason="there is no g++, or no Python.h for it")
@pytest.mark.timeout(400)
def test_compile_caches_are_filled_by_one_rank_of_all(tmp_path: Path, jobs: Callable[..., Job]) -> None:
    (tmp_path / "rank.py").write_text(ON_ITS_DISK)
    (tmp_path / "cxx").write_text(COUNTING)
    (tmp_path / "cxx").chmod(0o755)
    log = tmp_path / "compiled"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={EACH * DISKS}"]
    command += [str(tmp_path / "rank.py"), str(tmp_path), str(EXAMPLES / "compile_cache.py"), str(EACH)]
    job = jobs(command, env=BARE | {"CXX": str(tmp_path / "cxx"), "COMPILED": str(log)}, folder=tmp_path)
    assert job.finish(350) == 0, job.err.read_text()
    assert len(set(log.read_text().split())) == 1
    assert job.out.read_text().count(": 384 after") == EACH * DISKS
    kept = {path.parent for path in tmp_path.glob("disk*/products-v1/*/*/compile-cache/inductor")}
    assert len(kept) == DISKS
