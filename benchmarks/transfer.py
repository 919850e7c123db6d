"""How fast do bytes come, beside the tools that people use?

    python benchmarks/transfer.py [--repeat 5] [--json PATH] [--only large|limited|many|tasks]

large      1 GiB from an nginx that sends as fast as it can: at most 0.65 of `curl -o`, then `sha256sum`
limited    100 MiB from an nginx that gives each request 20 MB/s: at most 1.1 of `aria2c -x16 -s16 -k1M`
many       500 artifacts of 1 KiB by `fetch_many`: at most 1.2 of `aria2c -j16` on the same list, and 0.8 of pooch
tasks      200 of them by 200 tasks that each await `afetch`: the same

Only nanocache verifies, syncs and publishes; what the others leave out is in the table. Medians; the ratios are medians
of the ratios within a round, in which the ways take turns, because a shared machine drifts. CPU is that of the client
alone, which a busy machine distorts least. Python's ways run in a process of their own that has fetched a small file
before, so that imports don't count; their memory is the peak above that. All is loopback. What is not installed is
named and left out; without nginx a server in Python takes its place, which is slower than the clients it serves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

from tests.servers.nginx import Nginx  # noqa: E402
from tests.servers.origin import OriginProcess, content  # noqa: E402

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
RATE = 20_000_000  # bytes/s for each request of the limited server
SMALL = KIB
COUNTS = {"many": 500, "tasks": 200}  # artifacts of a case; of the others 1


@dataclass(frozen=True)
class Job:
    """What is to be fetched: the URLs, and the SHA-256 of each."""

    urls: list[str]
    digests: list[str]
    warm: str  # the URL of a small file


@dataclass(frozen=True)
class Case:
    title: str
    targets: dict[
        str, float
    ]  # another way -> the share of its time that nanocache may take; the first makes the ratios
    ways: tuple[str, ...]  # nanocache's first

    @property
    def reference(self) -> str:
        return next(iter(self.targets))


SMALL_TARGETS = {"aria2c": 1.2, "pooch": 0.8}
CASES = {
    "large": Case(
        "1 GiB, unlimited",
        {"curl + sha256sum": 0.65},
        ("nanocache", "curl + sha256sum", "curl", "aria2c", "pooch", "hf"),
    ),
    "limited": Case(
        "100 MiB, 20 MB/s per request", {"aria2c": 1.1}, ("nanocache", "aria2c", "curl + sha256sum", "pooch", "hf")
    ),
    "many": Case("500 x 1 KiB", SMALL_TARGETS, ("nanocache", "aria2c", "curl", "pooch", "hf")),
    "tasks": Case("200 x 1 KiB", SMALL_TARGETS, ("nanocache afetch", "aria2c", "curl", "pooch", "hf")),
}
DOES = {  # beyond bringing the bytes
    "nanocache": "verifies, syncs, publishes",
    "nanocache afetch": "verifies, syncs, publishes",
    "curl": "nothing",
    "curl + sha256sum": "hashes",
    "aria2c": "nothing",
    "pooch": "verifies, renames",
    "hf": "checks the size",
}
NEEDS = {"curl": "curl", "curl + sha256sum": "curl", "aria2c": "aria2c"}  # programs
MODULES = {"pooch": "pooch", "hf": "huggingface_hub"}


# --- the ways of Python, each in a process of its own -----------------------------------------------------------------


def by_nanocache(job: Job, folder: Path) -> None:
    import nanocache

    artifacts = [nanocache.Artifact(url, sha256=digest) for url, digest in zip(job.urls, job.digests, strict=True)]
    nanocache.fetch_many(artifacts, base_dir=folder, progress=False)


def by_afetch(job: Job, folder: Path) -> None:
    import nanocache

    async def all_of_them() -> None:
        pairs = zip(job.urls, job.digests, strict=True)
        await asyncio.gather(*(nanocache.afetch(u, sha256=d, base_dir=folder, progress=False) for u, d in pairs))

    asyncio.run(all_of_them())


def by_pooch(job: Job, folder: Path) -> None:
    import pooch

    for url, digest in zip(job.urls, job.digests, strict=True):
        pooch.retrieve(url, known_hash=f"sha256:{digest}", path=folder, progressbar=False)


def by_hf(job: Job, folder: Path) -> None:
    from huggingface_hub.file_download import http_get

    for number, url in enumerate(job.urls):
        with (folder / str(number)).open("wb") as file:
            http_get(url, file)


PYTHON: dict[str, Callable[[Job, Path], None]] = {
    "nanocache": by_nanocache,
    "nanocache afetch": by_afetch,
    "pooch": by_pooch,
    "hf": by_hf,
}


def peak() -> int:
    """The most memory that this process has used so far, in bytes."""
    with contextlib.suppress(OSError):  # the process's own; ru_maxrss begins with the parent's
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cpu(whose: int) -> float:
    """Seconds of CPU that this process, or its children that ended, have used so far."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def child(way: str) -> None:
    """Run one way on the job on standard input; print seconds, seconds of CPU, and bytes of memory."""
    import logging

    logging.disable(logging.WARNING)
    given = json.load(sys.stdin)
    job, folder = Job(**given["job"]), Path(given["folder"])
    for name in ("warm", "cold"):
        (folder / name).mkdir()
    PYTHON[way](Job([job.warm], [hashlib.sha256(b"warm").hexdigest()], job.warm), folder / "warm")
    before, used, start = peak(), cpu(resource.RUSAGE_SELF), time.perf_counter()
    PYTHON[way](job, folder / "cold")
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "cpu": cpu(resource.RUSAGE_SELF) - used, "memory": peak() - before}))


def run_python(way: str, job: Job, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way]
    given = json.dumps({"job": vars(job), "folder": str(folder)})
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    ended = subprocess.run(command, input=given, text=True, stdout=subprocess.PIPE, check=True, env=environment)
    figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


# --- the ways of programs ---------------------------------------------------------------------------------------------


def commands(way: str, job: Job, folder: Path) -> list[list[str]]:
    target = str(folder / "file")
    if way == "curl" and len(job.urls) > 1:
        lines = [f'url = "{url}"\noutput = "{folder}/{number}"' for number, url in enumerate(job.urls)]
        (folder / "list").write_text("\n".join(lines))
        return [["curl", "-s", "--no-progress-meter", "-Z", "--parallel-max", "16", "-K", str(folder / "list")]]
    if way.startswith("curl"):
        fetch = [["curl", "-s", "-o", target, job.urls[0]]]
        return fetch if way == "curl" else [*fetch, ["sha256sum", target]]
    (folder / "list").write_text("\n".join(job.urls))
    parallel = ["-j16"] if len(job.urls) > 1 else ["-x16", "-s16", "-k1M"]
    return [["aria2c", "-q", *parallel, "--file-allocation=none", "-d", str(folder), "-i", str(folder / "list")]]


def run_program(way: str, job: Job, folder: Path) -> dict[str, float]:
    chain = commands(way, job, folder)
    used, start = cpu(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in chain:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - start, "cpu": cpu(resource.RUSAGE_CHILDREN) - used}


# --- the servers ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(case: str, folder: Path) -> Iterator[tuple[Job, Callable[[], int]]]:
    """The job of a case, and how many connections were opened so far."""
    size = {"large": GIB, "limited": 100 * MIB}.get(case, SMALL)
    count = COUNTS.get(case, 1)
    bodies = [content(size, number) for number in range(count)]
    digests = [hashlib.sha256(body).hexdigest() for body in bodies]
    if shutil.which("nginx") is None:
        with OriginProcess() as origin:
            rate = f"?rate={RATE}" if case == "limited" else ""
            urls = [origin.url(f"/bytes/{size}/{number}/f{number}.bin{rate}") for number in range(count)]
            yield Job(urls, digests, origin.url("/bytes/4/warm/warm")), lambda: origin.stats()["connections"]
        return
    with Nginx(folder, rate=RATE, workers=2) as nginx:
        for number, body in enumerate(bodies):
            nginx.add(f"f{number}.bin", body)
        del bodies
        urls = [nginx.url(f"f{number}.bin", limited=case == "limited") for number in range(count)]
        yield Job(urls, digests, nginx.add("warm", b"warm")), nginx.connections


def available(ways: tuple[str, ...]) -> list[str]:
    """The ways that can be run here; the others are named."""
    there = []
    for way in ways:
        if (program := NEEDS.get(way)) and shutil.which(program) is None:
            print(f"  {way}: no {program} on the PATH, left out")
        elif (module := MODULES.get(way)) and find_spec(module) is None:
            print(f"  {way}: no {module} installed, left out")
        else:
            there.append(way)
    return there


def measure(case: str, repeat: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Per way: seconds of each round, ratios to the reference, memory, connections."""
    ways, results = available(CASES[case].ways), dict[str, dict[str, Any]]()
    with served(case, folder / "server") as (job, connections):
        for way in ways:
            results[way] = {"seconds": [], "cpu": [], "memory": [], "connections": []}
        for round_number in range(repeat):
            for way in ways[round_number % len(ways) :] + ways[: round_number % len(ways)]:
                scratch = Path(tempfile.mkdtemp(dir=folder))
                before = connections()
                figures = (run_python if way in PYTHON else run_program)(way, job, scratch)
                for name, figure in (figures | {"connections": connections() - before}).items():
                    results[way][name].append(figure)
                # Not what is small: an ext4 without a journal passes over each inode that was freed in the last minutes
                # when it looks for a free one, and the next way would pay for it.
                if case not in COUNTS:
                    shutil.rmtree(scratch)
    for figures in results.values():
        figures["ratios"] = {name: ratio(figures, results.get(name)) for name in CASES[case].targets}
    return results


def ratio(mine: dict[str, Any], theirs: dict[str, Any] | None) -> float | None:
    """The median of the ratios within a round; None if there is nothing to compare with."""
    if theirs is None:
        return None
    return statistics.median(a / b for a, b in zip(mine["seconds"], theirs["seconds"], strict=True))


def table(case: str, results: dict[str, dict[str, Any]]) -> str:
    about = CASES[case]
    lines = [f"{'':20}{'seconds':>9}{'ratio':>8}{'CPU':>9}{'memory':>10}{'connections':>13}   does"]
    for way, figures in results.items():
        seconds, used = statistics.median(figures["seconds"]), statistics.median(figures["cpu"])
        times = figures["ratios"][about.reference]
        shown = "" if times is None else f"{times:.2f}"
        memory = f"{statistics.median(figures['memory']) / MIB:.0f} MiB" if figures["memory"] else ""
        opened = statistics.median(figures["connections"])
        lines.append(f"{way:20}{seconds:9.2f}{shown:>8}{used:9.2f}{memory:>10}{opened:13.0f}   {DOES[way]}")
    own = results[about.ways[0]]["ratios"]
    lines += [verdict(limit, name, own[name]) for name, limit in about.targets.items()]
    if case in COUNTS:
        each = statistics.median(results[about.ways[0]]["cpu"]) / COUNTS[case]
        lines.append(f"{about.ways[0]}: {each * 1e3:.2f} ms of CPU for each artifact")
    return "\n".join(lines)


def verdict(limit: float, name: str, found: float | None) -> str:
    if found is None:
        return f"at most {limit} of {name}: it is not here, nothing to compare with"
    return f"at most {limit} of {name}: {found:.2f}, {'met' if found <= limit else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", choices=CASES, action="append", help="one of the cases (may be repeated)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="disk to work on: 4 GiB of it")
    parser.add_argument("--child", choices=PYTHON, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child)
    if shutil.which("nginx") is None:
        print("no nginx on the PATH: a server in Python takes its place, and is the slower end in all that follows")
    everything: dict[str, Any] = {}
    for case in arguments.only or CASES:
        print(f"\n{CASES[case].title}, median of {arguments.repeat}")
        folder = Path(tempfile.mkdtemp(prefix="transfer-", dir=arguments.dir))
        try:
            everything[case] = measure(case, arguments.repeat, folder)
        finally:
            shutil.rmtree(folder)
        print(table(case, everything[case]), flush=True)
    if arguments.json:
        about = {"python": platform.python_version(), "cpus": os.cpu_count(), "repeat": arguments.repeat}
        arguments.json.write_text(json.dumps(about | {"results": everything}, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
