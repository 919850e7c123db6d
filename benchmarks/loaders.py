"""What does a training loop wait for its shards, beside the loaders that people use?

    python benchmarks/loaders.py [--repeat 3] [--shards 12] [--json PATH]

12 shards of 8 MiB from an origin that gives each connection 10 MB/s; each shard is read, and half a second computed.
`prefetch` verifies nothing here, as the others do not, for no digests are given. Each way runs in a fresh process with
an empty cache; imports are not counted. Medians. Goal: at most 6.9 s, where computing alone takes 6.0. What is not
installed is named and left out. litdata and mosaicml-streaming read formats of their own, here one chunk for each
shard, which a stand-in of S3 gives at the same rate; `pip install litdata mosaicml-streaming` in an environment of
their own, for they bring much along.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

from tests.servers.objects import ObjectServer  # noqa: E402
from tests.servers.origin import OriginProcess, content  # noqa: E402

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
    "litdata": """
import litdata, litdata.streaming.downloader
litdata.streaming.downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
place = {"endpoint_url": urls[0], "aws_access_key_id": "key", "aws_secret_access_key": "secret"}
began = time.perf_counter()
for data in litdata.StreamingDataset("s3://bucket/litdata", cache_dir=folder, storage_options=place):
    compute(data)
""",
    "mosaicml-streaming": """
import os
os.environ |= {"S3_ENDPOINT_URL": urls[0], "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
import streaming
began = time.perf_counter()
for item in streaming.StreamingDataset(remote="s3://bucket/streaming", local=folder, batch_size=1, predownload=2):
    compute(item["data"])
""",
}
MODULES = {"mosaicml-streaming": "streaming"}
WRITE = {  # a data set of the shards' bytes, in the format of a loader that has its own
    "litdata": """
import sys, litdata
def read(path):
    with open(path, "rb") as file:
        return file.read()
if __name__ == "__main__":
    litdata.optimize(read, sys.argv[2:], output_dir=sys.argv[1], chunk_size=1, num_workers=1)
""",
    "mosaicml-streaming": """
import sys, streaming
with streaming.MDSWriter(out=sys.argv[1], columns={"data": "bytes"}, size_limit=1 << 20) as out:
    for path in sys.argv[2:]:
        with open(path, "rb") as file:
            out.write({"data": file.read()})
""",
}
END = "\nprint(time.perf_counter() - began)"


def run(way: str, urls: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-c", LOOP + WAYS[way] + END, folder, *urls]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def is_here(way: str) -> bool:
    package = way.split(".")[0].split(",")[0]
    return find_spec(MODULES.get(package, package)) is not None


@contextmanager
def buckets(ways: list[str], shards: int) -> Iterator[str]:
    """A stand-in of S3, in a process of its own, with the data sets that `ways` need. Its address."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(n)) for n in range(shards)]
        for n, path in enumerate(paths):
            path.write_bytes(content(SIZE, n))
        for way in set(ways) & set(WRITE):
            script = Path(folder, "write.py")
            script.write_text(WRITE[way])
            out = Path(folder, "bucket", MODULES.get(way, way))
            subprocess.run([sys.executable, script, out, *paths], check=True, capture_output=True)
        line = [sys.executable, __file__, "--serve", folder]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            yield server.stdout.readline().strip()
            server.stdin.close()


def serve(folder: Path) -> None:
    """Give the files below `folder`, at the rate of the benchmark, until stdin ends."""
    with ObjectServer() as server:
        for path in folder.glob("bucket/*/*"):
            server.add(f"/{path.relative_to(folder)}", path.read_bytes(), rate=RATE)
        print(server.url(""), flush=True)
        sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    ways = [way for way in WAYS if is_here(way)]
    for way in WAYS:
        if way not in ways:
            print(f"{way}: not installed, and left out")
    times: dict[str, list[float]] = {way: [] for way in ways}
    with OriginProcess() as origin, buckets(ways, options.shards) as bucket:
        urls = [origin.url(f"/bytes/{SIZE}/{n}/{n}.tar?rate={RATE}") for n in range(options.shards)]
        for _ in range(options.repeat):
            for way in ways:
                times[way].append(run(way, [bucket] if way in WRITE else urls))
    print(f"{'computing alone':40}{options.shards * COMPUTE:8.2f} s")
    for way, seconds in times.items():
        print(f"{way:40}{statistics.median(seconds):8.2f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
