"""Eight ranks ask for one artifact at the same moment: what does each way of sharing it cost?

    torchrun --standalone --nproc_per_node=8 benchmarks/lock_contention.py [--repeat 5] [--json PATH]
    python benchmarks/lock_contention.py --ranks 8         # the same with plain processes, without torch

nanocache   nanocache.fetch(url, sha256=...): verified, synced to disk, published by rename
seed        the helper that nanocache grew out of: exists?, FileLock, exists?, the whole body into memory, written in
            place, neither verified nor synced; FileLock polls every 50 ms
no lock     each rank downloads to a name of its own and renames, neither verified nor synced

Cold: nobody has it. Warm: the same call again. Times of a cold call run from the moment that all ranks agreed on, those
of a warm call from the rank's own call (a sleeping process wakes up later than such a call takes). A waiter is any rank
but the one that used the most CPU. Everything is a median over the repetitions; the ways take turns within each. The
origin is a process of its own and counts: a download is a GET for the whole, GETs include the ranges that join it. With
an origin that gives each connection 50 MB/s, waiting is what most ranks do, as in real life.

Ranks meet in a folder: rank 0 publishes a trial with its starting time, every rank leaves its sample.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

from tests.servers.origin import OriginProcess, digest  # noqa: E402

KIB, MIB, MB = 1 << 10, 1 << 20, 1_000_000
TIMES = ("first", "median", "last", "spread")
PATIENCE = 60.0  # seconds until a rank that hears nothing from another gives up


# --- the ways ---------------------------------------------------------------------------------------------------------


def nanocache_way(url: str, sha256: str, folder: Path) -> Path:
    import nanocache

    return nanocache.fetch(url, sha256=sha256, base_dir=folder, progress=False)


def seed_way(url: str, sha256: str, folder: Path) -> Path:
    from filelock import FileLock

    path = folder / sha256
    if path.exists():
        return path
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with urllib.request.urlopen(url) as response:
                body = response.read()
            path.write_bytes(body)
    return path


def unlocked_way(url: str, sha256: str, folder: Path) -> Path:
    path = folder / sha256
    if path.exists():
        return path
    mine = path.with_suffix(f".{os.getpid()}")
    with urllib.request.urlopen(url) as response, mine.open("wb") as file:
        shutil.copyfileobj(response, file, MIB)
    mine.rename(path)
    return path


WAYS: dict[str, Callable[[str, str, Path], Path]] = {
    "nanocache": nanocache_way,
    "seed": seed_way,
    "no lock": unlocked_way,
}


# --- a trial ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One line of the table. `rate` in bytes per second and connection; 0 is as fast as loopback goes."""

    size: int
    rate: int
    cache: str  # cold, warm
    way: str


@dataclass(frozen=True)
class Trial:
    case: Case
    url: str
    sha256: str
    start: float  # time.monotonic(), which all processes of a machine share


@dataclass(frozen=True)
class Sample:
    """What one rank measured: seconds, and the size of what it was given."""

    waited: float
    cpu: float
    size: int
    path: str


def measure(trial: Trial, folder: Path) -> Sample:
    way = WAYS[trial.case.way]
    time.sleep(max(0.0, trial.start - time.monotonic()))
    cpu, called = time.process_time(), time.monotonic()
    path = way(trial.url, trial.sha256, folder)
    returned, burnt = time.monotonic(), time.process_time() - cpu
    since = trial.start if trial.case.cache == "cold" else called
    return Sample(returned - since, burnt, path.stat().st_size, str(path))


def put(path: Path, record: Any) -> None:
    """Write JSON that appears whole."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(record))
    draft.rename(path)


def take(path: Path) -> Any:
    """The JSON at `path`, once it is there."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no rank wrote {path} within {PATIENCE} s")
        time.sleep(0.002)
    return json.loads(path.read_text())


def follow(meeting: Path, rank: int) -> None:
    """Take part in every trial that rank 0 announces."""
    number = 0
    while record := take(meeting / f"trial{number}"):
        trial = Trial(Case(**record.pop("case")), **record)
        sample = measure(trial, meeting / trial.case.way)
        put(meeting / f"sample{number}-{rank}", asdict(sample))
        number += 1
    put(meeting / f"sample{number}-{rank}", None)  # rank 0 removes the folder after that


# --- rank 0 -----------------------------------------------------------------------------------------------------------


class Lead:
    """Announces trials, takes part in them, and gathers everybody's samples."""

    def __init__(self, meeting: Path, ranks: int, origin: OriginProcess) -> None:
        self.meeting, self.ranks, self.origin = meeting, ranks, origin
        self._number = 0

    def announce(self, record: Any) -> int:
        put(self.meeting / f"trial{self._number}", record)
        self._number += 1
        return self._number - 1

    def gather(self, number: int) -> list[Any]:
        return [take(self.meeting / f"sample{number}-{rank}") for rank in range(1, self.ranks)]

    def finish(self) -> None:
        self.gather(self.announce(None))

    def trial(self, case: Case, seed: str) -> dict[str, Any]:
        """Run one trial on all ranks; the figures of it."""
        query = f"?rate={case.rate}" if case.rate else ""
        url = self.origin.url(f"/bytes/{case.size}/{seed}/artifact.bin{query}")
        sha256 = digest(case.size, seed)
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD")).close()  # the origin makes it now
        self.origin.reset()
        trial = Trial(case, url, sha256, time.monotonic() + 0.1)
        number = self.announce(asdict(trial))
        mine = measure(trial, self.meeting / case.way)
        samples = [mine, *(Sample(**record) for record in self.gather(number))]
        figures = summary(case, samples, self.origin.stats())
        if case.cache == "warm":
            for path in {sample.path for sample in samples}:
                Path(path).unlink(missing_ok=True)  # a hundred of these would fill the disk
        return figures


def summary(case: Case, samples: list[Sample], seen: dict[str, Any]) -> dict[str, Any]:
    waited = [s.waited for s in samples]
    waiters = sorted(samples, key=lambda s: s.cpu)[:-1] if seen["downloads"] == 1 and case.way != "no lock" else []
    return {
        "downloads": seen["downloads"],
        "gets": seen["gets"],
        "bytes": seen["bytes"],
        "first": min(waited),
        "median": statistics.median(waited),
        "last": max(waited),
        "spread": max(waited) - min(waited),
        "waiter_cpu": statistics.median(s.cpu for s in waiters) if waiters else None,
        "waiter_core": statistics.median(s.cpu / s.waited for s in waiters) if waiters else None,
        "incomplete": sum(s.size != case.size for s in samples),
    }


def medians(figures: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: None if figures[0][name] is None else statistics.median(f[name] for f in figures if f[name] is not None)
        for name in figures[0]
    }


def cases() -> Iterator[tuple[int, int]]:
    yield from ((size, 0) for size in (KIB, MIB, 100 * MIB))
    yield 100 * MIB, 50 * MB


def lead(meeting: Path, ranks: int, repeat: int) -> list[dict[str, Any]]:
    """Every case, `repeat` times; the medians and the samples behind them."""
    results: dict[Case, list[dict[str, Any]]] = {}
    with OriginProcess() as origin:
        leader = Lead(meeting, ranks, origin)
        for way in WAYS:
            leader.trial(Case(1, 0, "cold", way), "warm-up")  # imports, and the first use of a folder
        for repetition in range(repeat):
            for size, rate in cases():
                for way in WAYS:
                    for cache in ("cold", "warm"):
                        case = Case(size, rate, cache, way)
                        results.setdefault(case, []).append(leader.trial(case, f"{repetition}-{way[:2]}-{rate}"))
        leader.finish()
    return [asdict(case) | medians(figures) | {"samples": figures} for case, figures in results.items()]


# --- the table --------------------------------------------------------------------------------------------------------


def named(size: int, rate: int) -> str:
    name = f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
    return name + (f" at {rate // MB} MB/s" if rate else "")


def table(results: list[dict[str, Any]], ranks: int) -> str:
    lines = [
        f"{ranks} ranks, one artifact at the same moment; ms until the first, the median and the last of them has it",
        "",
        f"{'':<16}{'downloads':>10}{'GETs':>6}" + "".join(f"{name:>11}" for name in TIMES) + f"{'CPU per waiter':>17}",
    ]
    block = None
    for r in sorted(results, key=lambda r: (r["rate"], r["size"], r["cache"])):
        if block != (block := (r["size"], r["rate"], r["cache"])):
            lines.append(f"{named(r['size'], r['rate'])}, {r['cache']}")
        cpu = f"{r['waiter_cpu'] * 1e3:.2f} {r['waiter_core']:>6.1%}" if r["waiter_cpu"] is not None else "-"
        wrong = f"   {r['incomplete']:.0f} given an incomplete file" if r["incomplete"] else ""
        times = "".join(f"{r[name] * 1e3:>11.3f}" for name in TIMES)
        lines.append(f"    {r['way']:<12}{r['downloads']:>10.0f}{r['gets']:>6.0f}{times}{cpu:>17}{wrong}")
    return "\n".join(lines)


def about() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--ranks", type=int, default=8, help="processes to start when there is no launcher")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="disk to work on")
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        sys.exit(launch(arguments.ranks))

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = arguments.dir / f"lock-contention-{os.getppid()}"  # the launcher is the parent of every rank
    for way in WAYS:
        (meeting / way).mkdir(parents=True, exist_ok=True)
    if rank > 0:
        return follow(meeting, rank)
    try:
        results = lead(meeting, ranks, arguments.repeat)
    finally:
        shutil.rmtree(meeting)
    print(table(results, ranks))
    if arguments.json:
        arguments.json.write_text(json.dumps(about() | {"ranks": ranks, "results": results}, indent=1) + "\n")
    return None


def launch(ranks: int) -> int:
    """What torchrun would do, without torch."""
    places = [{"RANK": f"{i}", "LOCAL_RANK": f"{i}", "WORLD_SIZE": f"{ranks}"} for i in range(ranks)]
    started = [subprocess.Popen([sys.executable, *sys.argv], env=os.environ | place) for place in places]
    try:
        return max(process.wait() for process in started)
    finally:
        for process in started:
            process.kill()


if __name__ == "__main__":
    main()
