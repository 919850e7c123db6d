"""What does a repository of the Hub cost, beside the Hub's own client?

    python benchmarks/hub.py [--repeat 5] [--size 128] [--rate 50] [--json PATH]

A stand-in for the Hub, in a process of its own, serves 37 small files and three large ones of `--size` MiB, each
connection at `--rate` MB/s. Both clients run in a fresh process with an empty cache; imports are not counted. Only
nanocache verifies what came; both are asked once more, for the hit. Medians; the ratio is that of the rounds, in which
they take turns. Goal: at most 0.6 of `snapshot_download`'s time.
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

MIB = 1 << 20

SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.servers.hub import HubServer
from tests.servers.origin import content
size, rate = int(sys.argv[2]), float(sys.argv[3])
files = {f"small/{n}.json": content(2_000 + n, f"s{n}") for n in range(37)}
files |= {f"model-{n}.safetensors": content(size, f"m{n}") for n in range(3)}
with HubServer() as hub:
    hub.rate = rate
    hub.commit("owner/name", files)
    print(hub.endpoint, flush=True)
    sys.stdin.read()
"""
WAYS = {
    "nanocache.snapshot": """
import time, nanocache
import nanocache.engine.snapshots, nanocache.engine.many, nanocache.sources.hf, httpx, httpcore
def run(): return nanocache.snapshot("hf://owner/name", progress=False)
""",
    "huggingface_hub.snapshot_download": """
import time
from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars
disable_progress_bars()
def run(): return snapshot_download("owner/name")
""",
}
TIMED = """
began = time.perf_counter(); run(); first = time.perf_counter() - began
began = time.perf_counter(); run(); print(first, time.perf_counter() - began)
"""


def run(way: str, endpoint: str, folder: str) -> tuple[float, float]:
    """Seconds of a download and of a hit, in a fresh process with an empty cache."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": f"{folder}/hf", "NANOCACHE_DIR": f"{folder}/nanocache"}
    environment = os.environ | variables | {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WAYS[way] + TIMED], env=environment, capture_output=True, text=True, check=True
    )
    first, again = map(float, done.stdout.split()[-2:])
    return first, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="MiB of each large file")
    parser.add_argument("--rate", type=float, default=50, help="MB/s of a connection, 0: as fast as it goes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = [way for way in WAYS if find_spec(way.split(".")[0]) is not None]
    print(*(f"{way} is not installed, and left out" for way in WAYS if way not in ways), sep="\n", end="")
    command = [sys.executable, "-c", SERVER, str(ROOT), str(options.size * MIB), str(options.rate * 1e6)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        times = measure(ways, endpoint, options.repeat)
        assert server.stdin is not None
        server.stdin.close()
    report(times, options.json)


def measure(ways: list[str], endpoint: str, repeat: int) -> dict[str, list[tuple[float, float]]]:
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(repeat):
        for way in ways:
            with tempfile.TemporaryDirectory() as folder:
                times[way].append(run(way, endpoint, folder))
    return times


def report(times: dict[str, list[tuple[float, float]]], path: Path | None) -> None:
    print(f"{'':36}{'download':>10}{'hit':>12}")
    for way, rounds in times.items():
        first, again = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{way:36}{first:8.2f} s{1000 * again:9.2f} ms")
    if len(times) == 2:
        ours, theirs = times.values()
        ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
        print(f"{'ratio':36}{ratio:8.2f}")
    if path is not None:
        path.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
