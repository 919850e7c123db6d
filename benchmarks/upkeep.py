"""What it costs to look at a large cache, in multiples of a bare walk with a stat of each file.

    python benchmarks/upkeep.py [--entries 100000] [--json PATH]

entries, ls, du, prune --dry-run    at most 2.5 times the walk
verify                              at least 0.8 of the speed of sha256sum on all cores

The entries are made by hand: one blob of a few bytes, its ref and its lock, as a fetch leaves them. Medians of rounds
in which all take turns, because the clock of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

from nanocache import Cache  # noqa: E402
from nanocache.cli.main import main as nanocache  # noqa: E402
from nanocache.store import refs, seal  # noqa: E402
from nanocache.store.blobs import Store  # noqa: E402

ROUNDS = 5
MIB = 1 << 20
LARGE_FILES, LARGE_MIB = 8, 128
TARGET = 2.5  # times the walk


def fill(base: Path, entries: int) -> None:
    store = Store(str(base))
    store.prepare()
    for n in range(entries):
        data = str(n).encode()
        digest = hashlib.sha256(data).hexdigest()
        path = Path(store.blob(digest, f"shard-{n:06}.bin"))
        path.parent.mkdir(parents=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            seal.put(file.fileno(), digest)
        key = hashlib.sha256(digest.encode()).hexdigest()
        ref = refs.Ref(f"https://host/shard-{n:06}.bin", digest, len(data), '"etag"', None, fetched_at=time.time())
        refs.write(store, key, ref)
        Path(store.lock_place(digest).path).touch()


def walk(base: Path) -> None:
    """What no tool that looks at each file can do without."""
    for folder, _, names in os.walk(base):
        for name in names:
            os.lstat(os.path.join(folder, name))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def command(base: Path, *arguments: str) -> Callable[[], object]:
    def run() -> None:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            assert nanocache([*arguments, "--dir", str(base)]) == 0

    return run


def hashing(base: Path) -> dict[str, float]:
    """Bytes a second, of files that are in memory."""
    store = Store(str(base))
    store.prepare()
    for n in range(LARGE_FILES):
        data = os.urandom(MIB) * LARGE_MIB
        digest = hashlib.sha256(data).hexdigest()
        path = Path(store.blob(digest, f"{n}.bin"))
        path.parent.mkdir(parents=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            seal.put(file.fileno(), digest)
    files = [str(path) for path in base.glob("blobs-v1/sha256/*/*/*.bin")]
    cores = str(os.cpu_count())
    sums = ["xargs", "-0", "-n", "1", "-P", cores, "sha256sum"]
    calls: dict[str, Callable[[], object]] = {
        "sha256sum on all cores": lambda: subprocess.run(sums, input="\0".join(files), text=True, capture_output=True),
        "verify": lambda: Cache(base).verify(progress=False),
    }
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    size = LARGE_FILES * LARGE_MIB * MIB
    return {name: size / statistics.median(one[name] for one in rounds) for name in calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        fill(base, options.entries)
        calls: dict[str, Callable[[], object]] = {
            "a bare walk with stat": lambda: walk(base),
            "entries": lambda: sum(1 for _ in Cache(base).entries()),
            "ls": command(base, "ls"),
            "du": command(base, "du"),
            "prune --dry-run": command(base, "prune", "--max-size", "1MB", "--dry-run", "--explain"),
        }
        rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
        speeds = hashing(base / "large")
    medians = {name: statistics.median(one[name] for one in rounds) for name in calls}
    bare = medians["a bare walk with stat"]
    for name, taken in medians.items():
        note = "" if taken <= TARGET * bare else f"   above {TARGET}"
        print(f"{name:<24}{taken:8.2f} s{taken / bare:8.2f} times{note}")
    for name, speed in speeds.items():
        print(f"{name:<24}{speed / 1e9:8.2f} GB/s")
    if options.json:
        options.json.write_text(json.dumps({"seconds": medians, "bytes a second": speeds}))


if __name__ == "__main__":
    main()
