"""What would one artifact cost a job of 1 to 10,000 nodes, in each scope? A model, with measured costs in it.

    python benchmarks/scale.py [--gb 10] [--nodes 1 10 100 1000 10000] [--plot PATH] [--json PATH]

measured    (here, at the start, on loopback; `--recorded` takes the ones below instead) one operation of the store, as
            its server feels it and as a client waits for it; making a link over gloo; hashing
assumed     8 ranks a node; what origin, network, disks and a shared file system give (options); that disks differ
            (log-normal, and the slowest of them counts, because a stream has one speed)
modelled    everything else: each scope's phases, one after another, in the code below

    disk        every node asks the origin, which shares out what it has
    files       one asks; all processes of all nodes wait for its lock file on one shared disk, without a store
    job         one asks; every node opens the one file and reads it once
    broadcast   one asks; a roll call in the store; a tree of fan-out 2, in frames, every edge and every disk at once
    one group   what broadcast would be as one gloo group: a full mesh of sockets, and a binomial broadcast, whose root
                sends log2(n) copies of every chunk

Nothing here ran on more than one machine. Of `files` the column of the store counts file calls. Read orders of
magnitude, and where the lines cross.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RANKS = 8
FANOUT = 2  # as in nanodist.broadcast.tree
FRAME_BYTES = 4 << 20  # as in nanodist.broadcast.link
POLL = 0.00002  # seconds between a rank's looks at the store, times the ranks of the job; at least 5 ms

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and bytes a second. The figures here were measured on 2 cores, 8 clients, torch 2.13."""

    serve: float = 9e-6  # the store's CPU for one operation
    ask: float = 60e-6  # a client's wait for one, when nobody else asks
    wake: float = 36e-6  # from one waiter's wake-up to the next one's: the last of n waits n times that
    link: float = 0.005
    hash: float = 1.5e9
    coming: int = 9  # file calls of a process until it waits for another host; these three from shared_disk.py
    waiting: float = 2.2  # file calls a second while it waits
    leaving: int = 6  # file calls from the publication to its return
    looking: float = 0.45  # seconds between two looks of a process that waits for another host


@dataclass(frozen=True, slots=True)
class World:
    """What is assumed of the place. Bytes a second."""

    size: float
    origin: float  # all that the origin can send
    client: float  # what one client gets of it at most
    network: float  # of one node, each way
    disk: float  # what the middle node's disk takes
    spread: float  # sigma of the log-normal that disks differ by
    shared: float  # what the shared file system gives all nodes together
    opening: float  # seconds of the shared file system's for one open
    trip: float  # seconds for a message


def measure() -> Costs:
    """The costs on this machine; each the median of a few."""
    import torch.distributed as dist

    from nanodist.broadcast.link import Link
    from nanodist.coordination.coordinator import Coordinator
    from nanodist.coordination.store_address import StoreAddress
    from nanodist.rank import topology

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    other = dist.TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
    where = StoreAddress("127.0.0.1", store.port, hosting=False, lasting=True)
    ends = [Coordinator(where, topology(), client) for client in (store, other)]

    def timed(call: Any, count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begun) / count

    ask = statistics.median(timed(lambda: ends[1].add("n", 1), 500) for _ in range(5))
    block = bytes(1 << 24)
    rate = len(block) / statistics.median(timed(lambda: hashlib.sha256(block).digest(), 1) for _ in range(5))

    def meet(number: int) -> float:
        with ThreadPoolExecutor(2) as pool:
            begun = time.perf_counter()
            links = list(pool.map(lambda end: Link(ends[end], f"link/{number}", end), (0, 1)))
            took = time.perf_counter() - begun
        for link in links:
            link.close()
        return took

    return Costs(ask=ask, link=statistics.median(map(meet, range(5))), hash=rate)


# --- the scopes -------------------------------------------------------------------------------------------------------


def slowest_disk(world: World, nodes: int) -> float:
    draw = random.Random(nodes)
    return min(world.disk * math.exp(draw.gauss(0, world.spread)) for _ in range(nodes))


def one_download(world: World, costs: Costs, askers: int) -> float:
    rate = min(world.client, world.origin / askers, world.network, costs.hash)
    return world.size / rate


def polled(costs: Costs, waiting: int, seconds: float) -> int:
    """Operations of the ranks that wait for an outcome."""
    return int(waiting * seconds / max(0.005, waiting * POLL))


def disk(world: World, costs: Costs, nodes: int) -> Row:
    rate = min(slowest_disk(world, nodes), costs.hash, world.client, world.origin / nodes, world.network)
    return {"requests": nodes, "bytes": nodes * world.size, "operations": 0, "wake": 0.0, "seconds": world.size / rate}


def job(world: World, costs: Costs, nodes: int) -> Row:
    ranks = nodes * RANKS
    down = one_download(world, costs, 1)
    wake = max(0.005, ranks * POLL) + ranks * costs.serve
    reading = max(world.size / min(world.network, world.shared / nodes), nodes * world.opening)
    operations = 3 * ranks + polled(costs, ranks, down)
    return {
        "requests": 1,
        "bytes": world.size,
        "operations": operations,
        "wake": wake,
        "seconds": down + wake + reading,
    }


def files(world: World, costs: Costs, nodes: int) -> Row:
    """As `job`, without a store: each process waits for the lock file of the one that downloads."""
    ranks = nodes * RANKS
    down = one_download(world, costs, 1)
    calls = int(ranks * (costs.coming + costs.leaving + costs.waiting * down))
    wake = costs.looking + ranks * costs.leaving * world.opening
    reading = max(world.size / min(world.network, world.shared / nodes), nodes * world.opening)
    return {
        "requests": 1,
        "bytes": world.size,
        "operations": calls,
        "wake": wake,
        "seconds": down + wake + reading,
        "busy": ranks * costs.waiting * world.opening,
    }


def broadcast(world: World, costs: Costs, nodes: int) -> Row:
    down, ranks = one_download(world, costs, 1), nodes * RANKS
    if nodes == 1:
        return job(world, costs, 1) | {"seconds": down}
    naming, roll, edge = 3 * ranks, 6 * nodes, 14 * (nodes - 1)  # operations
    calling = (naming + roll) * costs.serve  # all come at once here; a silent disk would add 2 s
    wiring = edge * costs.serve + costs.link  # all edges at once, during the download
    depth = math.ceil(math.log(nodes + 1, FANOUT)) - 1
    rate = min(slowest_disk(world, nodes), costs.hash, world.network / FANOUT)
    hop = FRAME_BYTES / (world.network / FANOUT) + 4 * world.trip  # header and body, each asked for and sent
    streaming = world.size / rate + depth * (hop + FRAME_BYTES / rate)
    wake = max(0.005, ranks * POLL) + ranks * costs.serve
    operations = naming + roll + edge + polled(costs, ranks - nodes, down + streaming)
    return {
        "requests": 1,
        "bytes": world.size,
        "operations": operations,
        "wake": wake,
        "seconds": calling + max(down, wiring) + streaming + wake,
        "sockets": 1 + FANOUT,
    }


def one_group(world: World, costs: Costs, nodes: int) -> Row:
    down = one_download(world, costs, 1)
    if nodes == 1:
        return {"requests": 1, "bytes": world.size, "operations": 0, "wake": 0.0, "seconds": down, "sockets": 0}
    # Each member reads the address of each other one from the store, and connects to it.
    operations = nodes * (nodes - 1)
    meshing = operations * costs.serve + (nodes - 1) * (world.trip + costs.ask)
    copies = math.ceil(math.log2(nodes))
    rate = min(slowest_disk(world, nodes), costs.hash, world.network / copies)
    return {
        "requests": 1,
        "bytes": world.size,
        "operations": operations,
        "wake": 0.0,
        "seconds": down + meshing + world.size / rate,
        "sockets": nodes - 1,
    }


SCOPES = {"disk": disk, "files": files, "job": job, "broadcast": broadcast, "one group": one_group}


# --- all of it --------------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    lines = [
        f"{'nodes':>6}  {'scope':<10}{'requests':>9}{'origin TB':>11}{'store ops':>13}{'wake-up s':>11}{'sockets':>9}"
        f"{'all have it, s':>16}"
    ]
    lines += [
        f"{row['nodes']:>6}  {row['scope']:<10}{row['requests']:>9,}{row['bytes'] / 1e12:>11.3f}"
        f"{row['operations']:>13,}{row['wake']:>11.2f}{row.get('sockets', 0):>9,}{row['seconds']:>16,.1f}"
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5))
    wanted = (("seconds", "seconds until all nodes have it"), ("bytes", "bytes from the origin"))
    for axis, (name, title) in zip(axes, (*wanted, ("operations", "operations of the store")), strict=True):
        for color, scope in enumerate(
            SCOPES
        ):  # a scope that asks nothing is on no logarithmic axis, and keeps its color
            points = [(row["nodes"], row[name]) for row in rows if row["scope"] == scope and row[name]]
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", color=f"C{color}", label=scope)
        axis.set(title=title, xlabel="nodes of 8 ranks")
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].legend()
    figure.suptitle("A model with measured costs; nothing here ran on more than one machine")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 10, 100, 300, 1000, 3000, 10_000])
    parser.add_argument("--gb", type=float, default=10.0, help="size of the artifact")
    parser.add_argument("--origin", type=float, default=10.0, help="GB/s that the origin can send in all")
    parser.add_argument("--client", type=float, default=1.0, help="GB/s that one client gets of it at most")
    parser.add_argument("--network", type=float, default=12.5, help="GB/s of a node, each way")
    parser.add_argument("--disk", type=float, default=2.0, help="GB/s that a disk takes, the middle one")
    parser.add_argument("--spread", type=float, default=0.1, help="sigma of the log-normal by which disks differ")
    parser.add_argument("--shared", type=float, default=100.0, help="GB/s of a shared file system to all nodes")
    parser.add_argument("--opening", type=float, default=50.0, help="us of the shared file system for one open")
    parser.add_argument("--trip", type=float, default=50.0, help="us for a message")
    parser.add_argument("--recorded", action="store_true", help="the recorded costs instead of this machine's")
    parser.add_argument("--plot", type=Path, help="draw it there (needs matplotlib)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    rates = {name: getattr(given, name) * 1e9 for name in ("origin", "client", "network", "disk", "shared")}
    times = {name: getattr(given, name) / 1e6 for name in ("opening", "trip")}
    world = World(size=given.gb * 1e9, spread=given.spread, **rates, **times)
    costs = Costs() if given.recorded else measure()
    rows = [
        {"nodes": nodes, "scope": scope} | model(world, costs, nodes)
        for nodes in given.nodes
        for scope, model in SCOPES.items()
    ]
    shown = ", ".join(f"{name} {value:.3g}" for name, value in asdict(costs).items())
    print(f"{'recorded' if given.recorded else 'measured'}: {shown}\n{table(rows)}")
    for row in rows:
        if row["scope"] == "files" and row["nodes"] in (100, 1000, 10_000):
            ranks = row["nodes"] * RANKS
            print(
                f"{ranks:,} processes that wait on one disk make {ranks * costs.waiting:,.0f} file calls a second, "
                f"{row['busy']:.0%} of one server of {given.opening:g} us a call; all are back {row['wake']:.1f} s "
                "after publication"
            )
    if given.plot:
        plot(rows, given.plot)
    if given.json:
        text = json.dumps({"costs": asdict(costs), "world": asdict(world), "rows": rows}, indent=1)
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
