"""Two torchrun agents of four ranks make one call together, and one process is killed, ended or stopped in the middle.

Who is hit         SIGKILL, SIGTERM                                   SIGSTOP, for a while or for good
leader             its agent ends its siblings; elsewhere it is       lost after STALE without a sign of life, and its
                   replaced, or is the error of all, within 2 s       lock after SILENT; goes on when continued
follower           its agent ends its siblings; elsewhere nothing     nothing to anybody else
agent              SIGKILL: nothing, its ranks live on                nothing
                   SIGTERM: its ranks end within 2 s, the rest
                   as for a follower, or a leader if there was one
host of the store  (an agent, or rank 0 where it serves the store)    no answer for ANSWER (to the first word for
                   the store is lost at once: fetch goes on with      RESOLVER) is a lost store; continued before
                   file locks, leader_first is CoordinatorLost        that, nothing

An agent that ends takes the other one with it if both met in a store of its own (c10d), and that one ends its ranks.
On top of it, clocks of some ranks jump by hours and back, or each answer of the store takes up to 300 ms.

The end of each rank that nobody ended: the right bytes; or, of leader_first, one result, from one run, or LeaderLost or
CoordinatorLost; or LeaderError (SystemExit) where a leader was asked to end and its handler raised that. Not later than
`bound` after the signal: what the table says, and the time to do the work again. Then SIGTERM to what is left of the
job: no rank lives 2 s later. Then a plain fetch has the right bytes at once, and nothing wrong is visible.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.coordination.process import Identity
from tests.faults.checks import SOAK, check_visible, orphans, rounds
from tests.faults.jobs import AGENTS, EACH, PHASES, RATE, ROLES, ROOT, SIGNALS, SIZE, Draw, Job
from tests.nanodist.conftest import QUIET
from tests.servers.origin import Origin, content, digest

TEARDOWN = 2.0
WORK = 4.0  # seconds for the call, done once more, on a machine that is busy


def draws() -> list[Draw]:
    """14 of the 48 cells, that have it all between them, and other ones each day; in the soak 300 at random."""
    seed = os.environ.get("NANODIST_FAULT_SEED") or (f"{time.time_ns()}" if SOAK else date.today().isoformat())
    chance = random.Random(seed)
    cells = list(itertools.product(ROLES, SIGNALS, PHASES))
    count = rounds(14, 300)
    while True:
        chance.shuffle(cells)
        drawn = [cells[n % len(cells)] for n in range(count)]
        if all(len(set(values)) == n for values, n in zip(zip(*drawn, strict=True), (4, 3, 4), strict=True)):
            return [Draw.of(f"{seed}.{n}", *cell) for n, cell in enumerate(drawn)]


def bound(draw: Draw) -> float:
    """Seconds from the signal until each rank that lives, and is not stopped, has come to its end."""
    t = draw.times
    # Each of two rolls waits 2 s for disks that say nothing, and one who is on a roll and dead is waited for, too.
    seconds = 2.0 + WORK + t["MEETING"] + 2 * 2.0
    if draw.weather == "slow":
        seconds += 8.0
    if draw.signal == signal.SIGSTOP:
        silent = 1.25 * t["STALE"] + t["PEER_TIMEOUT"]  # for the others, to whom it may be the source
        lost = max(t["ANSWER"], t["RESOLVER"])  # an answer to a word, or to the first one
        seconds += {
            "leader": silent + t["SILENT"],
            "follower": 0.0,
            "agent": 0.0,
            "host": silent + lost + (t["SILENT"] if draw.store == "rank0" else 0.0),
        }[draw.role]
    return seconds


@pytest.fixture(scope="module")
def forker() -> Iterator[subprocess.Popen[str]]:
    """The process that all agents are forked from."""
    command = [sys.executable, "-m", "tests.faults.agents"]
    env = os.environ | QUIET | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.communicate(timeout=10)  # the end of its stdin is its own


# --- the judgement ----------------------------------------------------------------------------------------------------


def ended_by_others(job: Job, victim: Identity) -> set[int]:
    """The ranks that torchrun may end for what was done."""
    draw = job.draw
    if draw.signal == signal.SIGSTOP:
        return set()
    node = next((rank.node for rank in job.ranks.values() if rank.who == victim), None)
    if node is None:
        node = job.agents.index(victim)
    orphans = victim in job.agents and draw.signal == signal.SIGKILL
    alone = draw.store == "static" or job.agents[node] != job.meeting
    return {r.number for r in job.ranks.values() if (not orphans if r.node == node else not alone)}


def wrong(job: Job, line: dict[str, Any]) -> str | None:
    """What is wrong with how a rank ended."""
    draw = job.draw
    if line["end"] == "value":
        if draw.call == "leader_first":
            others = [one["value"] for one in job.ended().values() if one["end"] == "value"]
            return None if all(value == line["value"] for value in others) else "ranks have different results"
        return None if line["value"] == job.digests else "wrong bytes"
    allowed = {"LeaderLost", "CoordinatorLost"} if draw.call == "leader_first" else set()
    if line["error"] in allowed or (draw.handler and line["error"] == "SystemExit"):
        return None
    if draw.handler and line["error"] == "LeaderError" and "SystemExit" in line["text"]:
        return None
    return "an error that nobody stated"


def judge(job: Job, victim: Identity, at: float) -> None:
    """Every rank that is not stopped has come to an end, and to one that is stated, `bound` seconds after `at`."""
    draw, excused = job.draw, ended_by_others(job, victim)
    while True:
        job.look()
        ended = job.ended()
        late = [
            r.number for r in job.ranks.values() if r.number not in ended and not r.gone and r.who.alive is not None
        ]
        if not late:
            break
        assert time.monotonic() - at < bound(draw), f"ranks {late} have no end after {bound(draw)} s\n{job.story()}"
        time.sleep(0.01)
    job.reports.note(judged=True)
    for rank in job.ranks.values():
        line = job.ended().get(rank.number)
        if line is not None:
            assert (reason := wrong(job, line)) is None, f"rank {rank.number}: {reason}: {line}\n{job.story()}"
        elif rank.gone:
            assert rank.who == victim or rank.number in excused, f"rank {rank.number} is gone\n{job.story()}"


def check_end(job: Job) -> None:
    """SIGTERM to all of it: no rank is left after two seconds."""
    began = time.monotonic()
    job.reports.note(teardown=True)
    job.send(signal.SIGTERM, [agent for agent in job.agents if agent.alive is not False])
    if any(agent.alive is False for agent in job.agents):  # its ranks are orphans, perhaps
        job.send(signal.SIGTERM, [rank.who for rank in job.ranks.values()])
    while left := [rank.number for rank in job.ranks.values() if rank.who.alive is not False]:
        assert time.monotonic() - began < TEARDOWN, f"ranks {left} are still there\n{job.story()}"
        time.sleep(0.01)
    # Not the agents: one whose ranks are done waits for the others, in torch's own store and deaf to signals.


@pytest.mark.timeout(200)
@pytest.mark.parametrize("draw", draws(), ids=lambda draw: draw.id)
def test_every_rank_ends_right_or_with_a_named_error_and_nothing_hangs(
    draw: Draw, forker: subprocess.Popen[str], origin: Origin, tmp_path: Path
) -> None:
    chance = random.Random(f"{draw.seed} moments")
    count = 3 if draw.call == "many" else 1
    urls = [origin.url(f"/bytes/{SIZE}/{seed}/f.bin?rate={RATE:.0f}") for seed in range(count)]
    job = Job(draw, tmp_path, forker, urls, [digest(SIZE, seed) for seed in range(count)])
    try:
        job.start()
        job.go(chance)
        victim = job.victim(chance)
        time.sleep(draw.moment * PHASES[draw.phase])
        at = time.monotonic()
        job.send(draw.signal, [victim])
        job.reports.note(sent=draw.signal.name, to=victim.pid)
        if draw.stopped is None:
            judge(job, victim, at)
        else:
            with goes_on(job, victim, draw.stopped):
                judge(job, victim, at)
        job.send(signal.SIGCONT, [victim])
        if draw.stopped is not None:
            judge(job, victim, time.monotonic())
        check_end(job)
    finally:
        job.kill()
    check_disks(job)


@contextmanager
def goes_on(job: Job, victim: Identity, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, job.send, (signal.SIGCONT, [victim]))
    timer.start()
    try:
        yield
        timer.join()
    finally:
        timer.cancel()


def check_disks(job: Job) -> None:
    draw = job.draw
    if draw.call == "leader_first":
        ran = job.folder / "ran"  # not there if the leader was killed just before
        assert not ran.exists() or len(ran.read_text().split()) == 1, job.story()
        return
    for base in set(job.bases):
        check_visible(base, foreign="nanodist-v1")
        began = time.monotonic()
        for url, sha256 in zip(job.urls, job.digests, strict=True):
            path = nanocache.fetch(url, sha256=sha256, base_dir=base)
            assert path.read_bytes() == content(SIZE, int(url.split("/")[5]))
        assert time.monotonic() - began < 3.0 * len(job.urls), job.story()
        check_visible(base, foreign="nanodist-v1")
        assert len(orphans(base)) <= EACH * AGENTS, job.story()
