"""The example is a program that people copy: it runs as it says, plain and as two nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nanodist.conftest import Job, meeting

TRAIN = str(Path(__file__).parents[2] / "examples" / "train.py")

pytestmark = [pytest.mark.timeout(180), pytest.mark.alone]


def test_plain(base: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, TRAIN, "--steps=40"], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "downloads at the origin: 1" in run.stdout


def test_two_nodes_with_a_disk_each(tmp_path: Path, jobs: Callable[..., Job]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", *meeting(2), "--nproc-per-node=2", TRAIN, "--steps=40"]
    started = [
        jobs(command, env={"NANOCACHE_DIR": str(tmp_path / node)}, folder=tmp_path, name=node) for node in ("a", "b")
    ]
    for job in started:
        assert job.finish(120) == 0, job.err.read_text()
    assert "downloads at the origin: 1" in "".join(job.out.read_text() for job in started)
