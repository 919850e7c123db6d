"""What a hit costs, in multiples of the `os.stat` it cannot do without, and what importing costs.

    python benchmarks/hit.py [--json PATH]

with a digest      nanocache.fetch(url, sha256=...)    at most 4 times os.stat of the same path
without            nanocache.fetch(url)                at most 8 times: the ref and the blob are looked at
afetch             the same with a digest, awaited in a running loop; no target
import nanocache   over a bare interpreter             at most 20 ms

Calls are timed in batches that take turns, because the clock of a shared machine drifts; medians over the batches.
Imports are whole processes, interleaved with bare ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

import nanocache  # noqa: E402
from tests.servers.origin import Origin, digest  # noqa: E402

BATCHES, CALLS, IMPORTS = 200, 200, 30
SIZE = 1 << 20
TARGETS = {"with a digest": 4.0, "without": 8.0, "import nanocache": 20.0}  # times os.stat; ms


def batch(call: Callable[[], object]) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS


async def async_batch(url: str, sha256: str, base: str) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        await nanocache.afetch(url, sha256=sha256, base_dir=base)
    return (time.perf_counter() - start) / CALLS


def hits(base: str) -> dict[str, float]:
    """Seconds per call, by what is called."""
    sha256 = digest(SIZE, "hit")
    with Origin() as origin:
        url = origin.url(f"/bytes/{SIZE}/hit/weights.bin")
        path = str(nanocache.fetch(url, base_dir=base))  # os.stat of a Path costs half as much again
        calls: dict[str, Callable[[], float]] = {
            "os.stat": lambda: batch(lambda: os.stat(path)),
            "with a digest": lambda: batch(lambda: nanocache.fetch(url, sha256=sha256, base_dir=base)),
            "without": lambda: batch(lambda: nanocache.fetch(url, base_dir=base)),
            "afetch": lambda: asyncio.run(async_batch(url, sha256, base)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(BATCHES):
            for name, call in calls.items():
                seconds[name].append(call())
        assert origin.gets() == 1, "a hit asked the origin"
    return {name: statistics.median(values) for name, values in seconds.items()}


def import_seconds() -> float:
    """What `import nanocache` adds to a bare interpreter."""
    added = []
    for _ in range(IMPORTS):
        bare, full = (process(code) for code in ("pass", "import nanocache"))
        added.append(full - bare)
    return statistics.median(added)


def process(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        figures: dict[str, Any] = hits(base)
    figures["import nanocache"] = import_seconds()

    stat = figures["os.stat"]
    for name, seconds in figures.items():
        target = TARGETS.get(name)
        if name == "import nanocache":
            value, shown, unit = seconds * 1e3, f"{seconds * 1e3:.1f} ms", "ms"
        else:
            value, shown, unit = seconds / stat, f"{seconds * 1e6:.2f} us   {seconds / stat:.2f} x", "x"
        verdict = f"   at most {target:g} {unit}: {'yes' if value <= target else 'NO'}" if target else ""
        print(f"{name:<18}{shown:>20}{verdict}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": figures, "targets": TARGETS}, indent=1) + "\n")


if __name__ == "__main__":
    main()
