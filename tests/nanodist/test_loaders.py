"""nanodist.prefetch on real ranks: each shard of an epoch exactly once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanodist
from tests.servers.origin import Origin

Ranks = Callable[..., Any]


def test_the_ranks_share_the_shards_and_more_ranks_go_on(ranks: Ranks, origin: Origin, base: Path) -> None:
    urls = [origin.url(f"/bytes/1000/{n}/{n}.tar") for n in range(11)]
    code = """
        paths = nanodist.prefetch(urls, seed=1)
        if states:
            paths.load_state_dict(states)
        names = [path.name for _, path in zip(range(steps), paths)]
        report(names=names, state=paths.state_dict())
        paths.close()
    """
    first = ranks(code, 2, urls=urls, states=None, steps=2)
    assert first.codes == [0] * 2, first.err
    second = ranks(code, 4, urls=urls, states=first.last("state"), steps=100)
    assert second.codes == [0] * 4, second.err
    seen = [name for names in (*first.last("names"), *second.last("names")) for name in names]
    assert sorted(seen) == sorted(f"{n}.tar" for n in range(11))


def test_one_process_gets_all(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    assert len(nanodist.prefetch(["https://host/a", "https://host/b"])) == 2
    assert len(nanodist.prefetch(["https://host/a", "https://host/b"], rank=1, world_size=2)) == 1
