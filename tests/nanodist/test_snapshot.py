"""nanodist.snapshot on real processes: one listing, one download of each file, a folder on each disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.hub import LARGE, HubServer
from tests.servers.origin import content

Ranks = Callable[..., Any]

FILES = {"config.json": b"{}", "model.safetensors": content(LARGE + 5, "model"), "sub/vocab.txt": b"a\nb\n"}
CODE = """
    import os
    os.environ |= {"HF_ENDPOINT": endpoint, "HF_HOME": "/nonexistent"}
    folder = nanodist.snapshot("hf://owner/name", scope=scope)
    report(path=str(folder), files=sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.commit("owner/name", FILES)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_four_ranks_of_one_disk_ask_once_and_share_the_folder(ranks: Ranks, hub: HubServer, base: Path) -> None:
    run = ranks(CODE, 4, endpoint=hub.endpoint, scope="auto")
    assert run.codes == [0] * 4, run.err
    [folder] = {Path(path) for path in run.last("path")}
    assert contents(folder) == FILES
    assert not run.err
    paths = [request.path for request in hub.requests(method="GET")]
    assert len(paths) == len(set(paths))


def test_two_disks_cost_the_hub_one_download(ranks: Ranks, hub: HubServer, tmp_path: Path) -> None:
    disks = [{"NANOCACHE_DIR": str(tmp_path / f"disk{rank // 2}")} for rank in range(4)]
    run = ranks(CODE, 4, env=disks, endpoint=hub.endpoint, scope="broadcast")
    assert run.codes == [0] * 4, run.err
    folders = {Path(path) for path in run.last("path")}
    assert len(folders) == 2
    for folder in folders:
        assert contents(folder) == FILES
    assert hub.cdn.gets() == 1
    assert len([r for r in hub.requests() if "/tree/" in r.path]) == 1
