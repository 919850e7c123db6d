"""The main job on real input: every rank asks for one URL at the same moment, and the origin sees one GET.

    python examples/demo.py [--ranks 8] [--mib 100] [--plain]

Serves a generated artifact on loopback and runs the job twice, under torchrun where torch is installed, else as plain
processes. Prints which rank downloaded, how long each one waited and what the origin saw. A download is one GET for
the whole, which GETs for ranges may join. Ends with status 1 unless that was one download, then none.

What a rank does is `job`, below.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for tests.servers.origin, which is not installed

from tests.servers.origin import Origin, digest  # noqa: E402

FOLDER = ROOT / "build" / "demo"  # emptied when the demo starts, left for you to look at
CACHE = FOLDER / "cache"


# --- one rank ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What one rank saw."""

    rank: int
    deed: str  # hit, waited, downloaded
    seconds: float
    path: str


def job(url: str, sha256: str, folder: Path) -> None:
    import nanocache
    import nanodist

    _, rank, _, world_size = nanodist.get_dist_info()
    cached = nanocache.lookup(url, sha256=sha256) is not None
    heard: list[nanocache.Progress] = []  # empty if there was nothing to download, or to wait for
    meet(folder, rank, world_size)

    start = time.perf_counter()
    path = nanocache.fetch(url, sha256=sha256, progress=heard.append)
    seconds = time.perf_counter() - start

    mine = bool(heard) and heard[-1].holder is None  # a waiter is told the holder's progress
    deed = "hit" if cached else "downloaded" if mine else "waited"
    (folder / f"report{rank}").write_text(json.dumps(asdict(Report(rank, deed, seconds, str(path)))))


def meet(folder: Path, rank: int, world_size: int) -> None:
    """Return on all ranks within a millisecond or two. Only the demo needs it: `fetch` waits for no rank to call."""
    (folder / f"ready{rank}").touch()
    while len(list(folder.glob("ready*"))) < world_size:
        time.sleep(0.001)


# --- all of them ------------------------------------------------------------------------------------------------------


def run(name: str, ranks: int, url: str, sha256: str, *, torchrun: bool) -> list[Report]:
    """Run the job on `ranks` ranks; what each saw, in their order."""
    folder = FOLDER / name
    folder.mkdir(parents=True)
    env = os.environ | {"NANOCACHE_DIR": str(CACHE), "OMP_NUM_THREADS": "1"}
    script = [__file__, "--job", url, sha256, str(folder)]
    if torchrun:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        started = [subprocess.Popen([sys.executable, *launcher, *script], env=env)]
    else:
        places = [{"RANK": f"{i}", "LOCAL_RANK": f"{i}", "WORLD_SIZE": f"{ranks}"} for i in range(ranks)]
        started = [subprocess.Popen([sys.executable, *script], env=env | place) for place in places]
    codes = [process.wait() for process in started]
    if any(codes):
        sys.exit(f"the {name} run failed")
    return [Report(**json.loads((folder / f"report{rank}").read_text())) for rank in range(ranks)]


def row(label: object, first: str, second: str) -> str:
    return f"  {label!s:<12}{first:<32}{second}".rstrip()


def shown(report: Report) -> str:
    return f"{report.deed:<12}{report.seconds * 1e3:>10,.2f} ms"


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def demo(ranks: int, mib: int, *, torchrun: bool) -> bool:
    """Run the job twice and print the table; whether it went as promised."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    size = mib << 20
    sha256 = digest(size, "demo")
    how = "under torchrun" if torchrun else "plain processes"
    print(f"{ranks} ranks ({how}) ask for one artifact of {mib} MiB at the same moment; then once more\n", flush=True)

    with Origin() as origin:
        url = origin.url(f"/bytes/{size}/demo/weights.bin")
        first = run("first", ranks, url, sha256, torchrun=torchrun)
        cold = origin.stats()
        origin.reset()
        second = run("second", ranks, url, sha256, torchrun=torchrun)
        warm = origin.stats()

    paths = {report.path for report in first + second}
    verified = all(hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256 for path in paths)
    print(row("rank", "first run", "second run"))
    for before, after in zip(first, second, strict=True):
        line = row(before.rank, shown(before), shown(after))
        print(bold(line) if before.deed == "downloaded" else line)
    for label, fact in (("downloads", "downloads"), ("GETs", "gets"), ("bytes", "bytes")):
        print(row(label, *(f"{seen[fact]:,}" for seen in (cold, warm))))
    print(f"\n  path        {', '.join(sorted(paths))}")
    print(f"  sha256      {sha256} {'(read back: right)' if verified else '(read back: WRONG)'}")
    return verified and cold["downloads"] == 1 and warm["gets"] == 0 and all(r.deed == "hit" for r in second)


def train() -> bool:
    """Run the training example plain, then as two nodes of two ranks with a disk each; whether it learned."""
    script = str(ROOT / "examples" / "train.py")
    print("\ntrain.py on one process, then on two nodes of two ranks that share no disk\n", flush=True)
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    plain = subprocess.run(
        [sys.executable, script], env=environ | {"NANOCACHE_DIR": str(FOLDER / "plain")}, check=False
    )
    place = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *place, "--rdzv-id=demo", script],
            env=environ | {"NANOCACHE_DIR": str(FOLDER / f"node{node}")},
        )
        for node in range(2)
    ]
    return not any([plain.returncode, *(agent.wait() for agent in agents)])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--mib", type=int, default=100, help="size of the artifact")
    parser.add_argument("--plain", action="store_true", help="plain processes, even where torch is installed")
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        url, sha256, folder = arguments.job
        job(url, sha256, Path(folder))
        return
    torchrun = importlib.util.find_spec("torch") is not None and not arguments.plain
    fine = demo(arguments.ranks, arguments.mib, torchrun=torchrun) and (not torchrun or train())
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
