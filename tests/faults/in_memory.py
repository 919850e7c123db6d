"""A base directory in memory, for sweeps that make and remove thousands of small folders.

On a disk each rmdir, unlink and fsync takes milliseconds, which is half of what a sweep over all file calls costs. What
the calls are, and what comes after each that fails, is the same in memory. Not for tests that
look at what is around the base directory.
"""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["base"]


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, memory: Path) -> Path:
    """As everywhere, but in memory."""
    path = memory / "base"
    path.mkdir()
    monkeypatch.setenv("NANOCACHE_DIR", str(path))
    return path
