"""What the tests of faults share: a place in memory, since they make and remove thousands of small folders.

On a disk each rmdir, unlink and fsync takes milliseconds, which is half of what a sweep over all file calls costs. What
the calls are, and what comes after each that fails, is the same in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import check_no_secret

SHM = "/dev/shm"
ENOUGH = 1 << 30  # bytes; a container has 64 MiB of it unless told


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder where an fsync costs nothing, if there is one."""
    if not os.access(SHM, os.W_OK) or shutil.disk_usage(SHM).free < ENOUGH:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)
        check_no_secret(Path(folder))


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, memory: Path) -> Path:
    """As everywhere, but in memory."""
    path = memory / "base"
    path.mkdir()
    monkeypatch.setenv("NANOCACHE_DIR", str(path))
    return path
