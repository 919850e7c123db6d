"""What a small artifact costs a disk: calls that a shared file system's server has to answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from tests.faults.calls import Call, Calls
from tests.servers.origin import Origin, digest

SIZE = 1024


def calls_of(base: Path, url: str, sha256: str) -> list[Call]:
    seen: list[Call] = []
    with Calls(base, before=seen.append):
        nanocache.fetch(url, sha256=sha256)
    return seen


def test_a_small_miss_makes_at_most_fifty_file_calls_half_of_them_by_name(base: Path, origin: Origin) -> None:
    for n in range(3):
        seen = calls_of(base, origin.url(f"/bytes/{SIZE}/{n}/w.bin"), digest(SIZE, n))
    folders = [call for call in seen if call.name in ("mkdir", "chmod", "fsync", "close")]  # more, where one is new
    assert len(seen) - len(folders) <= 42
    assert len([call for call in seen if call.paths and call not in folders]) <= 26


@pytest.mark.parametrize(("warm", "calls"), [("", 28), ("nanocache.fetch(url, base_dir=base + '2')", 25)])
def test_the_first_miss_of_a_process_looks_at_each_folder_once(
    base: Path, origin: Origin, spawn: Callable[..., Any], warm: str, calls: int
) -> None:
    """httpx takes longer to load than a holder stays without a record, which is three more calls."""
    url = origin.url(f"/bytes/{SIZE}/1/w.bin")
    path = nanocache.fetch(url, sha256=digest(SIZE, 1))
    shutil.rmtree(path.parent)
    for file in (*base.glob("refs-v1/*/*"), *base.glob("locks-v1/*/*")):
        file.unlink()
    code = f"{warm}\nseen = calls_of(Path(base), url, sha256); print(len([call for call in seen if call.paths]))"
    setup = "import nanocache; from pathlib import Path; from tests.engine.test_file_calls import calls_of"
    options = {"base": str(base), "url": url, "sha256": digest(SIZE, 1)}
    (named,) = spawn(code, setup=setup, fresh=True, **options).outputs()
    assert int(named) <= calls


def test_a_cap_costs_a_hit_nothing_and_a_small_miss_two_looks_at_the_books(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(n: int) -> list[str]:
        return [call.name for call in calls_of(base, origin.url(f"/bytes/{SIZE}/{n}/w.bin"), digest(SIZE, n))]

    misses, hits = [], []
    for cap in (None, "1GB"):
        if cap is not None:
            monkeypatch.setenv("NANOCACHE_MAX_SIZE", cap)
        fetch(1 if cap is None else 2)  # which makes folders, and counts what is there
        misses.append(fetch(3 if cap is None else 4))
        hits.append(fetch(3))
    assert hits[0] == hits[1]
    assert len(hits[0]) <= 2
    assert len(misses[1]) - len(misses[0]) <= 32
    assert [miss.count("pwrite") for miss in misses] == [1, 3]
