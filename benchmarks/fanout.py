"""One file to every node of a job whose nodes share no disk: what does each way ask of the origin, and how fast is it?

    python benchmarks/fanout.py [--agents 2 4] [--each 1] [--mib 256] [--repeat 3] [--json PATH]

It starts so many real torchrun agents, each a node with a disk (a base directory) of its own and `each` ranks.

broadcast   nanodist.fetch(scope="broadcast"): one rank downloads, the bytes go from disk to disk
  of it     the part from the end of the download to the last published file: file to file, verified, synced
disk        nanodist.fetch(scope="disk"): every node downloads by itself, at the same time
nginx       the same from an nginx on loopback, which is faster than the counting origin: what a node gets that has the
            network to itself; "of it" is to be measured against this (left out where no nginx is on the PATH)
job         nanodist.fetch(scope="job"), with one base directory for all: what a shared disk would cost
memory      what people write: rank 0 downloads, reads the whole file, dist.broadcast, the others write it; neither
            verified nor synced, and the file is in memory three times

Seconds are from the moment that all ranks agreed on to the last rank's return, the median of the repetitions; MB/s is
the file's size by that, for each disk. Bytes and requests are what the origin, a process of its own, counted. Memory is
what the largest rank grew by. On one machine all nodes share its cores, its disk and the loopback: what a network would
change is the origin's column.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

from tests.servers.nginx import Nginx  # noqa: E402
from tests.servers.origin import OriginProcess, content, digest, reset, stats  # noqa: E402

MIB, MB = 1 << 20, 1_000_000
WAYS = ("broadcast", "disk", "nginx", "job", "memory")

Row = dict[str, Any]


# --- one rank ---------------------------------------------------------------------------------------------------------


def grown(call: Callable[[], object]) -> int:
    """Bytes that the process grew by at most during `call`."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def in_memory(url: str, sha256: str, folder: str, size: int) -> None:
    import torch
    import torch.distributed as dist

    import nanocache

    if dist.get_rank() == 0:
        data = Path(nanocache.fetch(url, sha256=sha256, base_dir=folder)).read_bytes()
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    else:
        tensor = torch.empty(size, dtype=torch.uint8)
    dist.broadcast(tensor, 0)
    if int(os.environ["LOCAL_RANK"]) == 0 and dist.get_rank():
        out = bytearray(size)
        torch.frombuffer(out, dtype=torch.uint8).copy_(tensor)
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "file").write_bytes(out)


def worker(plan: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    import nanocache
    import nanodist
    from nanodist.broadcast import broadcast

    sent: list[float] = []
    describe_blob = broadcast.describe_blob

    def describe(artifact: nanocache.Artifact, base_dir: Path) -> Any:
        sent.append(time.time())
        return describe_blob(artifact, base_dir)

    broadcast.describe_blob = describe  # type: ignore[assignment]

    rank = nanodist.compute_init("cpu", timeout=120).rank
    node = os.environ["GROUP_RANK"]
    size, url, sha256, origin = plan["size"], plan["url"], plan["sha256"], plan["origin"]

    def ways(way: str, turn: int) -> Callable[[], object]:
        folder = f"{plan['folder']}/{way}{turn}/{0 if way == 'job' else node}"
        if way == "memory":
            return lambda: in_memory(url, sha256, folder, size)
        if way == "nginx":
            return lambda: nanocache.fetch(plan["nginx"], sha256=sha256, base_dir=folder, progress=False)
        return lambda: nanodist.fetch(url, sha256=sha256, base_dir=folder, scope=way, progress=False)

    def largest(value: float) -> float:
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    rows = []
    for turn in range(plan["repeat"]):
        for way in WAYS:
            if way == "nginx" and not plan["nginx"]:
                continue
            sent.clear()
            if rank == 0:
                reset(origin)
            dist.barrier()
            begun = time.time()
            memory = grown(ways(way, turn))
            ended, began_to_send, most = largest(time.time()), largest(sent[0] if sent else 0.0), largest(memory)
            row = {"way": way, "seconds": ended - begun, "memory": most}
            if rank == 0:
                row |= {name: stats(origin)[name] for name in ("downloads", "bytes") if way != "nginx"}
                shutil.rmtree(f"{plan['folder']}/{way}{turn}")
            rows.append(row)
            if way == "broadcast":
                rows.append({"way": "  of it", "seconds": ended - began_to_send, "memory": most})
    if rank == 0:
        Path(plan["folder"], "rows.json").write_text(json.dumps(rows))
    dist.barrier()
    nanodist.compute_cleanup()


# --- all of them ------------------------------------------------------------------------------------------------------


def agents(count: int, each: int, plan: dict[str, Any]) -> list[Row]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={count}", f"--nproc_per_node={each}"]
    command += ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=fanout"]
    command += [__file__, "--plan", json.dumps(plan)]
    environment = {"OMP_NUM_THREADS": "1", "RES_OPTIONS": "timeout:1 attempts:1"} | os.environ
    started = [subprocess.Popen(command, env=environment) for _ in range(count)]
    if any(process.wait() for process in started):
        raise SystemExit("an agent failed")
    rows: list[Row] = json.loads(Path(plan["folder"], "rows.json").read_text())
    return rows


@contextmanager
def nginx(folder: Path, size: int) -> Iterator[str | None]:
    """The address of the file at an nginx."""
    if shutil.which("nginx") is None:
        yield None
        return
    with Nginx(folder / "nginx", workers=2) as server:
        yield server.add("file.bin", content(size, 1))


def medians(rows: list[Row], size: int) -> list[Row]:
    found = []
    for way in dict.fromkeys(row["way"] for row in rows):
        of_way = [row for row in rows if row["way"] == way]
        seconds = statistics.median(row["seconds"] for row in of_way)
        median = {"way": way, "seconds": seconds, "rate": size / seconds / MB}
        median |= {name: statistics.median(r[name] for r in of_way) for name in ("memory",)}
        median |= {name: max(r[name] for r in of_way) for name in ("downloads", "bytes") if name in of_way[0]}
        found.append(median)
    return found


def table(rows: list[Row]) -> str:
    lines = [f"{'way':<12}{'s':>8}{'MB/s each':>11}{'requests':>10}{'origin MB':>11}{'grew by MB':>12}"]
    for row in rows:
        asked = f"{row['downloads']:>10}{row['bytes'] / MB:>11,.0f}" if "bytes" in row else " " * 21
        lines.append(f"{row['way']:<12}{row['seconds']:>8.2f}{row['rate']:>11,.0f}{asked}{row['memory'] / MB:>12,.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--each", type=int, default=1, help="ranks of each agent")
    parser.add_argument("--mib", type=int, default=256, help="size of the file")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the disks are; else the folder for temporary files")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan:
        worker(json.loads(arguments.plan))
        return
    results: dict[str, Any] = {"cpus": os.cpu_count(), "python": platform.python_version(), "mib": arguments.mib}
    results["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    size = arguments.mib * MIB
    for count in arguments.agents:
        with (
            OriginProcess() as origin,
            tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
            nginx(Path(folder), size) as other,
        ):
            url = origin.url(f"/bytes/{size}/1/file.bin")
            plan = {"size": size, "url": url, "sha256": digest(size, 1), "origin": origin.base, "folder": folder}
            plan["nginx"] = other
            rows = medians(agents(count, arguments.each, plan | {"repeat": arguments.repeat}), size)
        print(f"{count} agents, {arguments.each} rank(s) each, {arguments.mib} MiB\n{table(rows)}\n")
        results[f"{count} agents"] = rows
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
