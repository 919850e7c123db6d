"""What does a training loop wait for its shards, beside the loaders that people use?

    python benchmarks/loaders.py [--repeat 3] [--shards 12] [--json PATH]

12 shards of 8 MiB from an origin that gives each connection 10 MB/s; each shard is read, and half a second computed.
`prefetch` verifies nothing here, as the others do not, for no digests are given. Each way runs in a fresh process with
an empty cache; imports are not counted. Medians. Goal: at most 6.9 s, where computing alone takes 6.0. What is not
installed is named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

from tests.servers.origin import OriginProcess  # noqa: E402

SIZE = 8 << 20  # bytes of a shard
RATE = 10_000_000  # bytes/s of a connection
COMPUTE = 0.5  # seconds for each shard

LOOP = f"""
import sys, time
folder, urls = sys.argv[1], sys.argv[2:]
def compute(data):
    assert len(data) == {SIZE}
    time.sleep({COMPUTE})
"""
# The shards of the benchmark are random bytes and no tar: what is timed is how whole shards come.
WAYS = {
    "nanocache.prefetch, ahead=2": """
import nanocache, nanocache.loaders, nanocache.engine.window, httpx, httpcore, filelock
began = time.perf_counter()
for path in nanocache.prefetch(urls, ahead=2, base_dir=folder):
    compute(path.read_bytes())
""",
    "nanocache.fetch, one after the other": """
import nanocache, nanocache.engine.steps, httpx, httpcore, filelock
began = time.perf_counter()
for url in urls:
    compute(nanocache.fetch(url, base_dir=folder, progress=False).read_bytes())
""",
    "webdataset, with cache_dir": """
import webdataset as wds, webdataset.cache
began = time.perf_counter()
opener = wds.cache.FileCache(cache_dir=folder, validator=None)
for item in opener(dict(url=url) for url in urls):
    compute(item["stream"].read())
""",
    "webdataset, streaming": """
import webdataset as wds
began = time.perf_counter()
for url in urls:
    with wds.gopen(f"pipe:curl -s -L {url}", "rb") as stream:
        compute(stream.read())
""",
}
END = "\nprint(time.perf_counter() - began)"


def run(way: str, urls: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-c", LOOP + WAYS[way] + END, folder, *urls]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = [way for way in WAYS if find_spec(way.split(".")[0].split(",")[0]) is not None]
    for way in WAYS:
        if way not in ways:
            print(f"{way}: not installed, and left out")
    times: dict[str, list[float]] = {way: [] for way in ways}
    with OriginProcess() as origin:
        urls = [origin.url(f"/bytes/{SIZE}/{n}/{n}.tar?rate={RATE}") for n in range(options.shards)]
        for _ in range(options.repeat):
            for way in ways:
                times[way].append(run(way, urls))
    print(f"{'computing alone':40}{options.shards * COMPUTE:8.2f} s")
    for way, seconds in times.items():
        print(f"{way:40}{statistics.median(seconds):8.2f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
