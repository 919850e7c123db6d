"""What do many hosts that wait for one artifact ask of the disk that they share, and how soon do all of them have it?

    python benchmarks/shared_disk.py [--waiters 8 32 128 256] [--latency 1.0] [--seconds 4] [--json PATH]

Each waiter is a real process that believes to be on a host of its own, and each of its file calls takes `--latency`
milliseconds longer, as on a network file system. One more process downloads, and has its first byte after `--seconds`.

coming     file calls of a waiter until it waits
calls/s    file calls of a waiter in each second of its wait
leaving    file calls of a waiter from the end of its wait to its return
drain      seconds from the first return to the last one
downloads  GETs that the origin saw; one is right

A disk of one machine has no other clients, so what a server does with so many calls at once is not measured; `scale.py`
says what it would cost. All processes share this machine's cores: with 256 of them most of the drain is theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanocache import fetch
from nanocache.cancel import Cancel
from nanocache.coordination import process
from tests.servers.origin import OriginProcess, digest

CALLS = ("lstat", "stat", "open", "unlink", "rename", "mkdir", "listdir", "utime", "link", "access")
SIZE = 200_000  # bytes

Row = dict[str, Any]


class SlowDisk:
    """Counts this process's file calls, and makes each of them wait."""

    def __init__(self, latency: float) -> None:
        self.calls = 0
        self.slept_at: list[int] = []  # how many calls there were at each pause of the waiter
        self._latency = latency
        for name in CALLS:
            setattr(os, name, self._slowly(getattr(os, name)))
        sleep = Cancel.sleep

        def noted(cancel: Cancel, seconds: float) -> None:
            self.slept_at.append(self.calls)
            sleep(cancel, seconds)

        Cancel.sleep = noted  # type: ignore[method-assign]

    def _slowly(self, call: Any) -> Any:
        def slow(*args: Any, **options: Any) -> Any:
            self.calls += 1
            time.sleep(self._latency)
            return call(*args, **options)

        return slow


def on_a_host_of_its_own() -> None:
    read = process._read
    process._me = None
    process._read = lambda path: f"the boot of {os.getpid()}" if path.endswith("boot_id") else read(path)


def one(url: str, base: str, latency: float) -> Row:
    """What one process saw of its fetch."""
    on_a_host_of_its_own()
    disk = SlowDisk(latency)
    begun = time.time()
    fetch(url, sha256=digest(SIZE, 1), base_dir=base, progress=False)
    ended = time.time()
    pauses = disk.slept_at or [disk.calls]
    return {
        "ended": ended,
        "coming": pauses[0],
        "rate": (pauses[-1] - pauses[0]) / (ended - begun),
        "leaving": disk.calls - pauses[-1],
    }


def forked(url: str, base: str, latency: float, out: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.write(out, json.dumps(one(url, base, latency)).encode() + b"\n")
        finally:
            os._exit(0)
    return pid


def measure(waiters: int, latency: float, seconds: float) -> Row:
    with OriginProcess() as origin, tempfile.TemporaryDirectory() as base:
        fetch(f"{origin.base}/bytes/10/0/warm.bin", base_dir=base, progress=False)  # imports all that the children need
        url = f"{origin.base}/bytes/{SIZE}/1/w.bin?delay={seconds}"
        origin.reset()
        reading, writing = os.pipe()
        pids = [forked(url, base, latency, writing)]
        time.sleep(0.5)  # it holds the lock
        pids += [forked(url, base, latency, writing) for _ in range(waiters)]
        os.close(writing)
        with os.fdopen(reading) as lines:
            seen = [json.loads(line) for line in lines]
        for pid in pids:
            os.waitpid(pid, 0)
        downloads = origin.stats()["downloads"]
    ended = sorted(row["ended"] for row in seen)
    middle = {name: statistics.median(row[name] for row in seen) for name in ("coming", "rate", "leaving")}
    return {"waiters": waiters, **middle, "drain": ended[-1] - ended[0], "downloads": downloads}


def table(rows: list[Row]) -> str:
    lines = [f"{'waiters':>8}{'coming':>8}{'calls/s':>9}{'leaving':>9}{'drain s':>9}{'downloads':>11}"]
    lines += [
        f"{row['waiters']:>8}{row['coming']:>8.0f}{row['rate']:>9.1f}{row['leaving']:>9.0f}{row['drain']:>9.2f}"
        f"{row['downloads']:>11}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--waiters", type=int, nargs="+", default=[8, 32, 128, 256])
    parser.add_argument("--latency", type=float, default=1.0, help="ms that each file call takes longer")
    parser.add_argument("--seconds", type=float, default=4.0, help="until the first byte of the download")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    rows = [measure(waiters, given.latency / 1e3, given.seconds) for waiters in given.waiters]
    print(table(rows))
    if given.json:
        where = {"cpus": os.cpu_count(), "latency ms": given.latency, "seconds": given.seconds}
        where |= {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        given.json.write_text(json.dumps(where | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
