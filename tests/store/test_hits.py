"""What a process remembers of its hits: bounded, however many files it walks over, and the usual ones stay."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

import nanocache
from nanocache.store import hits, recency
from nanocache.store.hits import Hits
from tests.servers.origin import Origin, digest


def test_a_walk_over_any_number_of_files_remembers_so_many(base: Path, origin: Origin) -> None:
    path, sha256 = nanocache.fetch(origin.url("/bytes/10/1/a.bin")), digest(10, 1)
    folder = str(path.parent)
    store = nanocache.Cache().store
    sizes = []
    tracemalloc.start()
    try:
        for n in range(2 * hits.MOST_REMEMBERED):
            store.hits.remember(("the usual", None), path, sha256, folder, product=False, ref=None)
            store.hits.remember((f"https://host/{n}", sha256), Path(str(path)), sha256, folder, product=False, ref=None)
            store.recency.was_marked(f"{n:064}")
            if n % hits.MOST_REMEMBERED == hits.MOST_REMEMBERED - 1:
                sizes.append(tracemalloc.get_traced_memory()[0])
        assert store.hits.recall(("the usual", None)) == path
        assert store.hits.recall((f"https://host/{n}", sha256)) == path
        assert store.hits.recall(("https://host/0", sha256)) is None
    finally:
        tracemalloc.stop()
    assert max(sizes) < 20e6
    assert len(store.recency._marked) <= recency.MOST_MARKS


def test_what_is_asked_for_again_stays(base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits, "MOST_REMEMBERED", 8)
    path, sha256 = nanocache.fetch(origin.url("/bytes/10/1/a.bin")), digest(10, 1)
    folder = str(path.parent)
    known = Hits(nanocache.Cache().store.recency)
    known.remember("often", path, sha256, folder, product=False, ref=None)
    for n in range(50):
        known.remember(n, path, sha256, folder, product=False, ref=None)
        assert known.recall("often") == path
    assert known.recall(0) is None
    known.forget()
    assert known.recall("often") is None
    assert known.recall(49) is None
