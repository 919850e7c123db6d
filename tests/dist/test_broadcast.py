"""Broadcast: the origin sends once, every disk ends with the verified file, and a fault is its owner's alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.origin import Origin, content, digest

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
