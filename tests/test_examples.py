"""The examples do what the README says of them."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.servers.hub import HubServer
from tests.servers.origin import MIB, Origin, content

EXAMPLES = Path(__file__).parent.parent / "examples"
DATA = content(MIB, "an asset")


def example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# --- a scheme of one's own --------------------------------------------------------------------------------------------


@pytest.fixture
def api(base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    asset = {
        "name": "tool.tar.gz",
        "size": len(DATA),
        "digest": f"sha256:{hashlib.sha256(DATA).hexdigest()}",
        "updated_at": "2026-11-28T00:00:00Z",
        "browser_download_url": origin.add("/download/tool.tar.gz", DATA),
    }
    origin.add("/repos/owner/name/releases/tags/v1", json.dumps({"assets": [asset]}).encode())
    monkeypatch.setenv("GITHUB_API_URL", origin.url(""))
    return origin


def test_a_release_is_fetched_and_verified_by_what_its_host_says(api: Origin) -> None:
    done = example("releases.py", "release://owner/name@v1/tool.tar.gz")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == DATA
    api.reset()
    assert example("releases.py", "release://owner/name@v1/tool.tar.gz").stdout == done.stdout
    assert api.requests() == []


def test_an_asset_that_is_not_there_is_said_with_those_that_are(api: Origin) -> None:
    assert "has no other.zip, but tool.tar.gz" in example("releases.py", "release://owner/name@v1/other.zip").stderr
    assert "404" in example("releases.py", "release://owner/name@v2/other.zip").stderr


# --- nanochat's dataset -----------------------------------------------------------------------------------------------


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    shards = {f"shard_{number:05d}.parquet": content(MIB + number, "shard") for number in (0, 1, 2, 3, 1822)}
    hub.commit("karpathy/fineweb-edu-100b-shuffle", shards, kind="datasets")
    return hub


def test_nanochats_shards_lie_in_its_folder_and_are_not_fetched_twice(hub: HubServer, base: Path) -> None:
    done = example("dataset.py", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(base / "base_data" / f"shard_{n:05d}.parquet") for n in (0, 1, 1822)]
    hub.reset()
    hub.cdn.reset()
    assert len(example("dataset.py", "3").stdout.split()) == 4
    assert len(hub.cdn.requests()) == 1
    assert sorted(path.name for path in (base / "base_data").iterdir()) == [
        f"shard_{n:05d}.parquet" for n in (0, 1, 2, 1822)
    ]


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_prometheus_is_told_of_hits_bytes_and_what_took_how_long(base: Path, origin: Origin) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import metrics
from prometheus_client import generate_latest
cache = metrics.watched()
for _ in range(3):
    cache.fetch({origin.add("/a.bin", DATA)!r})
print(generate_latest().decode())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = set(done.stdout.splitlines())
    assert {
        "nanocache_hits_total 2.0",
        "nanocache_misses_total 1.0",
        "nanocache_downloaded_bytes_total 1.048576e+06",
        "nanocache_download_seconds_count 1.0",
        "nanocache_wait_seconds_count 0.0",
    } <= lines


def test_the_example_of_metrics_serves_them_while_it_fetches(base: Path, origin: Origin) -> None:
    done = example("metrics.py", "--port", "0", origin.add("/a.bin", DATA))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == DATA


# --- shards -----------------------------------------------------------------------------------------------------------

STAGES = {
    "shards": "module.Shards(urls)",
    # What webdataset leaves open is its own.
    "webdataset_shards": "wds.DataPipeline(module.Shards(urls), wds.tarfile_to_samples(), wds.to_tuple('__key__ txt'))",
}


def shard(number: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for sample in range(3):
            member = tarfile.TarInfo(f"{number}-{sample}.txt")
            member.size = number + sample
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return packed.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", STAGES)
def test_each_sample_of_the_shards_comes_once(base: Path, origin: Origin, name: str, workers: int) -> None:
    if name == "webdataset_shards":
        pytest.importorskip("webdataset")
    urls = [origin.add(f"/train-{number}.tar", shard(number)) for number in range(4)]
    code = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import {name} as module
from torch.utils.data import DataLoader
wds, urls = getattr(module, "wds", None), {urls!r}
for name, data in DataLoader({STAGES[name]}, batch_size=None, num_workers={workers}):
    print(name.removesuffix(".txt"), len(data))
"""
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"{n}-{k} {n + k}" for n in range(4) for k in range(3))
    assert origin.gets() == 4
