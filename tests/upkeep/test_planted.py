"""Symlinks planted in a cache lead none of these calls elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nanocache import Cache, UnsafeCache
from nanocache.upkeep import usage
from tests.upkeep.conftest import Filled, made_old

CALLS: dict[str, Callable[[Cache], object]] = {
    "entries": lambda cache: list(cache.entries()),
    "info": lambda cache: cache.info("0123456789"),
    "verify": lambda cache: cache.verify(repair=True),
    "remove": lambda cache: cache.remove("0123456789"),
    "prune": lambda cache: cache.prune(max_size=0),
    "du": lambda cache: usage.measure(cache.store),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("place", ["blobs-v1", "products-v1", "trees-v1"])
def test_a_symlink_for_a_folder_of_ours_is_refused(
    filled: Filled, base: Path, tmp_path: Path, place: str, call: Callable[[Cache], object]
) -> None:
    made_old(base, 100)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(base / place, elsewhere)
    (base / place).symlink_to(elsewhere)
    before = sorted((path, path.lstat().st_mtime_ns) for path in elsewhere.rglob("*"))
    with pytest.raises(UnsafeCache, match="symlink"):
        call(Cache(base))
    assert sorted((path, path.lstat().st_mtime_ns) for path in elsewhere.rglob("*")) == before


def test_a_symlink_for_the_folder_of_a_digest_is_not_followed(filled: Filled, base: Path, tmp_path: Path) -> None:
    made_old(base, 100)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(filled.weights.parent, elsewhere)
    filled.weights.parent.symlink_to(elsewhere)
    os.chmod(elsewhere / "weights.bin", 0o644)
    (elsewhere / "weights.bin").write_bytes(b"mine")
    before = (elsewhere / "weights.bin").stat().st_mtime_ns
    cache = Cache(base)
    assert filled.weights.parent.name not in {entry.digest for entry in cache.entries() if entry.names}
    cache.verify(repair=True)
    cache.prune(max_size=0)
    assert (elsewhere / "weights.bin").stat().st_mtime_ns == before
