"""What the tests of upkeep share: a cache with something of each kind in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

import nanocache
from nanocache import Cache
from tests.servers.hub import LARGE, HubServer
from tests.servers.origin import Origin, content

HOUR = 3600.0


class Filled(NamedTuple):
    """A cache, and what was fetched into it."""

    cache: Cache
    url: str
    weights: Path
    copied: Path  # what a hook made of the same artifact
    pinned: Path  # fetched by its digest, from `pinned_url`
    pinned_url: str
    folder: Path  # a snapshot
    origin: Origin
    hub: HubServer


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    (target / "a.txt").write_bytes(source.read_bytes()[:1000])
    (target / "b.txt").write_bytes(b"b")


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("owner/name", {"config.json": b"{}", "deep/model.safetensors": content(LARGE, "model")})
    return hub


@pytest.fixture
def filled(base: Path, origin: Origin, hub: HubServer) -> Filled:
    url = origin.add("/a/weights.bin", content(50_000, "weights"))
    pinned_url = origin.add("/a/pinned.bin", content(20_000, "pinned"))
    pinned = nanocache.fetch(pinned_url)
    return Filled(
        cache=Cache(base),
        url=url,
        weights=nanocache.fetch(url),
        copied=nanocache.fetch(url, postprocess=copy),
        pinned=pinned,
        pinned_url=pinned_url,
        folder=nanocache.snapshot("hf://owner/name"),
        origin=origin,
        hub=hub,
    )


def made_old(base: Path, hours: float) -> None:
    """Have all that is in `base` look as if it was last used so long ago. Seals hold: they go by the time of day."""
    for top in ("blobs-v1/sha256", "products-v1", "trees-v1"):
        for folder in [*base.glob(f"{top}/*"), *base.glob(f"{top}/*/*")]:
            if folder.is_dir() and len(folder.name) == 64:
                then = folder.stat().st_mtime - hours * HOUR
                os.utime(folder, (then, then))
