"""What does it cost to have one rank act for all? nanodist against `if rank == 0: act(); dist.barrier()`.

    torchrun --standalone --nproc_per_node=8 benchmarks/coordination.py [--repeat 20] [--json PATH]

wake-up       from the end of the act (0.2 s of it) to the return of each rank that waited
error         from the raise in the act to the error on each rank that waited; a barrier waits for its time-out, and the
              error is lost: measured with a group whose time-out is 2 s
takeover      from the SIGKILL of the leader to the start of its replacement's act; a barrier loses the job
no act        a call that has nothing to do, from the moment that all ranks came to the last one's return
hit           nanodist.fetch of what is on disk; seed: `os.path.exists` on rank 0, then the barrier
outlast       an act of 3 s beside a process group with a time-out of 2 s

Times are of one host's clock; medians and 99th percentiles over ranks and repetitions. Leaders that die are forked
children, so that torchrun does not end the job for them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for tests.servers.origin, which is not installed

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

import nanocache  # noqa: E402
import nanodist  # noqa: E402
from tests.servers.origin import OriginProcess, digest  # noqa: E402

ACT = 0.2  # seconds
SHORT = 2.0  # seconds: the time-out of the groups that are to run into it

Row = dict[str, Any]


# --- measuring --------------------------------------------------------------------------------------------------------


def gathered(value: float) -> list[float]:
    """Every rank's value, on every rank; NaN is none."""
    rows = [torch.zeros(1, dtype=torch.float64) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, torch.tensor([value], dtype=torch.float64))
    return [float(row) for row in rows if not row.isnan()]


def repeated(repeat: int, trial: Callable[[int], float]) -> list[float]:
    """All ranks' values of `repeat` trials that begin together."""
    values = []
    for number in range(repeat):
        dist.barrier()
        values += gathered(trial(number))
    return values


def row(what: str, way: str, seconds: list[float], note: str = "") -> Row:
    ordered = sorted(seconds)
    top = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else None
    return {
        "what": what,
        "way": way,
        "median": statistics.median(ordered) if ordered else None,
        "p99": top,
        "note": note,
    }


# --- what is compared -------------------------------------------------------------------------------------------------


def act() -> float:
    time.sleep(ACT)
    return time.time()


def wake_up(repeat: int) -> list[Row]:
    def ours(number: int) -> float:
        led: list[bool] = []
        ended = nanodist.leader_first("wake", lambda: (led.append(True), act())[1])
        return float("nan") if led else time.time() - ended

    def barrier(number: int) -> float:
        ended = torch.tensor([act() if dist.get_rank() == 0 else 0.0], dtype=torch.float64)
        dist.barrier()
        now = time.time()
        dist.broadcast(ended, 0)
        return now - float(ended) if dist.get_rank() else float("nan")

    return [
        row("wake-up", "nanodist", repeated(repeat, ours)),
        row("wake-up", "barrier", repeated(repeat, barrier)),
    ]


def error(repeat: int) -> list[Row]:
    def fail() -> None:
        time.sleep(ACT)
        raise OSError(repr(time.time()))

    def ours(number: int) -> float:
        try:
            nanodist.leader_first("error", fail)
        except nanodist.LeaderError as e:
            return float("nan") if e.__cause__ else time.time() - float(e.text)
        raise AssertionError

    lost = lost_error()
    return [
        row("error", "nanodist", repeated(repeat, ours), "the leader's class, text and traceback"),
        row("error", "barrier", lost, f"a time-out ({SHORT:g} s here, 30 min by default); the error is lost"),
    ]


def lost_error() -> list[float]:
    short = dist.new_group(backend="gloo", timeout=timedelta(seconds=SHORT))
    dist.barrier()
    raised = time.time()
    if dist.get_rank() == 0:  # it raised, and somebody caught it: it never comes to the barrier
        return gathered(float("nan"))
    try:
        dist.barrier(short)
    except RuntimeError:
        return gathered(time.time() - raised)
    raise AssertionError


def outlast() -> list[Row]:
    took = time.time()
    nanodist.leader_first("outlast", lambda: time.sleep(SHORT + 1))
    return [row("outlast", "nanodist", gathered(time.time() - took), f"3 s beside a time-out of {SHORT:g} s")]


def no_act(repeat: int) -> list[Row]:
    def timed(call: Callable[[], object]) -> Callable[[int], float]:
        def trial(number: int) -> float:
            begun = time.time()
            call()
            return time.time() - begun

        return trial

    return [
        row("no act", "nanodist", repeated(repeat, timed(lambda: nanodist.leader_first("none", lambda: None)))),
        row("no act", "barrier", repeated(repeat, timed(dist.barrier))),
    ]


def hit(repeat: int, folder: str, origin: str) -> list[Row]:
    url, sha256 = f"{origin}/bytes/1000/hit/f.bin", digest(1000, "hit")
    path = nanodist.fetch(url, sha256=sha256, base_dir=folder)

    def timed(call: Callable[[], object]) -> Callable[[int], float]:
        def trial(number: int) -> float:
            begun = time.perf_counter()
            for _ in range(100):
                call()
            return (time.perf_counter() - begun) / 100

        return trial

    def seed() -> None:
        if dist.get_rank() == 0:
            os.path.exists(path)
        dist.barrier()

    return [
        row("hit", "nanodist", repeated(repeat, timed(lambda: nanodist.fetch(url, sha256=sha256, base_dir=folder)))),
        row("hit", "nanocache", repeated(repeat, timed(lambda: nanocache.fetch(url, sha256=sha256, base_dir=folder)))),
        row("hit", "barrier", repeated(repeat, timed(seed))),
    ]


# --- leaders that die -------------------------------------------------------------------------------------------------


def takeover(trials: int, folder: Path) -> list[float]:
    """Seconds from each kill to the replacement's start, as rank 0's parent reads them; [] elsewhere.

    Runs before this process has a client of the store: its children are the ranks here.
    """
    for trial in range(trials):
        if not (child := os.fork()):
            die_or_replace(trial, folder)
            os._exit(0)
        os.waitpid(child, 0)
    if int(os.environ["RANK"]):
        return []
    deadline = time.monotonic() + 30
    while len(list(folder.glob("started*"))) < trials and time.monotonic() < deadline:
        time.sleep(0.01)
    read = [float((folder / f"{name}{n}").read_text()) for n in range(trials) for name in ("started", "killed")]
    return [started - killed for started, killed in zip(read[::2], read[1::2], strict=True)]


def die_or_replace(trial: int, folder: Path) -> None:
    from nanodist.coordination.coordinator import coordination
    from nanodist.coordination.election import decide

    def act() -> None:
        killed = folder / f"killed{trial}"
        if killed.exists():
            (folder / f"started{trial}").write_text(repr(time.time()))
            return
        time.sleep(0.5)  # until the others wait
        killed.write_text(repr(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)

    place = coordination()
    assert place is not None
    decide(place, f"takeover/{trial}", act)


# --- all of it --------------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    def ms(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds * 1e3:,.3f}"

    lines = [f"{'':<10}{'way':<12}{'median ms':>12}{'p99 ms':>12}  note"]
    lines += [f"{r['what']:<10}{r['way']:<12}{ms(r['median']):>12}{ms(r['p99']):>12}  {r['note']}" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with torchrun: torchrun --standalone --nproc_per_node=8 benchmarks/coordination.py")

    folder = Path(tempfile.gettempdir()) / f"coordination-{os.environ['TORCHELASTIC_RUN_ID']}"
    folder.mkdir(exist_ok=True)
    killed = takeover(5, folder)

    _, rank, _, world_size, _ = nanodist.compute_init("cpu", timeout=60)
    with OriginProcess() as origin:  # each rank its own: only the leader's is asked
        rows = wake_up(arguments.repeat) + error(arguments.repeat)
        rows += [row("takeover", "nanodist", killed), row("takeover", "barrier", [], "none: the job is lost")]
        rows += no_act(arguments.repeat) + hit(arguments.repeat, str(folder / "cache"), origin.base) + outlast()
    dist.barrier()
    if rank == 0:
        shutil.rmtree(folder)
    nanodist.print0(table(rows))
    if rank == 0 and arguments.json:
        where = {"ranks": world_size, "cpus": os.cpu_count(), "python": platform.python_version()}
        where |= {"torch": torch.__version__, "date": datetime.now(UTC).isoformat(timespec="seconds")}
        arguments.json.write_text(json.dumps(where | {"rows": rows}, indent=1) + "\n")
    nanodist.compute_cleanup()


if __name__ == "__main__":
    main()
