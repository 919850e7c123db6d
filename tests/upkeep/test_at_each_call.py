"""A fetch, and between any two of its calls of the system whatever else is done to the same cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import nanocache
from nanocache import Cache
from tests.archives import samples
from tests.servers.origin import content
from tests.upkeep.conftest import Filled, copy, made_old


class BetweenCalls:
    """Does `act` before and after each call of the system that this thread makes."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._acting = False
        self.times = 0

    def __enter__(self) -> BetweenCalls:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        if self._acting or event not in ("c_call", "c_return") or getattr(arg, "__module__", None) != "posix":
            return
        self._acting = True
        try:
            self.times += 1
            self._act()
        finally:
            self._acting = False


def verified(cache: Cache) -> None:
    found = cache.verify(workers=1, repair=True)
    if found.damage:
        raise RuntimeError(found)


def pruned(cache: Cache) -> None:
    cache.prune(max_size=0)


def new(filled: Filled, tmp_path: Path) -> bytes:
    return nanocache.fetch(filled.origin.add("/new.bin", content(100_000, "new"))).read_bytes()


def old(filled: Filled, tmp_path: Path) -> bytes:
    made_old(Path(filled.cache.base_dir), 5)
    return filled.cache.fetch(filled.url).read_bytes()


def old_under_another_name(filled: Filled, tmp_path: Path) -> bytes:
    made_old(Path(filled.cache.base_dir), 5)
    return nanocache.fetch(filled.origin.add("/again.bin", content(50_000, "weights"))).read_bytes()


def touched(filled: Filled, tmp_path: Path) -> bytes:
    os.utime(filled.weights)
    return filled.cache.fetch(filled.url, rehash=True).read_bytes()


def changed(filled: Filled, tmp_path: Path) -> bytes:
    filled.origin.add("/a/weights.bin", content(50_001, "changed"))
    return nanocache.fetch(filled.url, max_age=0).read_bytes()


def built(filled: Filled, tmp_path: Path) -> bytes:
    url = filled.origin.add("/built.bin", content(3000, "built"))
    return (nanocache.fetch(url, postprocess=copy) / "a.txt").read_bytes()


def unpacked(filled: Filled, tmp_path: Path) -> bytes:
    url = filled.origin.add("/packed.tar", samples.tar(samples.member("x.bin", content(3000, "packed"))))
    return (nanocache.fetch(url, postprocess=nanocache.Unpack()) / "x.bin").read_bytes()


def placed(filled: Filled, tmp_path: Path) -> bytes:
    url = filled.origin.add("/placed.bin", content(3000, "placed"))
    return nanocache.fetch(url, into=tmp_path / "placed.bin").read_bytes()


def folder(filled: Filled, tmp_path: Path) -> bytes:
    filled.hub.commit("owner/other", {"a/b.txt": content(2000, "other"), "c.txt": b"c"})
    return (nanocache.snapshot("hf://owner/other") / "a/b.txt").read_bytes()


@pytest.mark.parametrize("act", [verified, pruned])
@pytest.mark.parametrize("fetch", [new, old, old_under_another_name, touched, changed, built, unpacked, placed, folder])
def test_nothing_between_its_calls_harms_a_fetch(
    fetch: Callable[[Filled, Path], bytes], act: Callable[[Cache], None], filled: Filled, tmp_path: Path, base: Path
) -> None:
    with BetweenCalls(lambda: act(filled.cache)) as between:
        got = fetch(filled, tmp_path)
    assert between.times > 100
    assert got
    assert filled.cache.verify().sound
