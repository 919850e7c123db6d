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
                   file locks, leader_first is CoordinatorLost;       that, nothing
                   with c10d the other agent may end its ranks too

On top of it, clocks of some ranks jump by hours and back, or each answer of the store takes up to 300 ms.

The end of each rank that nobody ended: the right bytes; or, of leader_first, one result, from one run, or LeaderLost or
CoordinatorLost; or LeaderError (SystemExit) where a leader was asked to end and its handler raised that. Not later than
`bound` after the signal: what the table says, and the time to do the work again. Then SIGTERM to what is left of the
job: nothing lives 2 s later. Then a plain fetch has the right bytes at once, and nothing wrong is visible.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import nanocache
from benchmarks.origin import Origin, content, digest
from nanocache.identity import Identity
from tests.dist.conftest import QUIET
from tests.faults.checks import SOAK, check_visible, orphans, rounds

ROOT = Path(__file__).parent.parent.parent
AGENTS, EACH = 2, 4
ROLES = ("leader", "follower", "agent", "host")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
PHASES = {"claim": 0.02, "download": 0.4, "broadcast": 0.3, "commit": 0.03}  # and about how long each takes, in seconds
SIZE = 1_500_000
RATE = SIZE / 0.4
PACE = 0.02  # seconds that the source takes for each frame
STATED = {
    "STALE": 15.0,
    "BEAT": 1.0,
    "SILENT": 60.0,
    "DEAD": 5.0,
    "TIMEOUT": 15.0,
    "MEETING": 5.0,
    "STEP": 5.0,
    "STALL": 4.0,
    "ANSWER": 10.0,
    "RESOLVER": 15.0,
}
HURRIED = STATED | {
    "STALE": 2.0,
    "BEAT": 0.2,
    "SILENT": 3.0,
    "DEAD": 1.0,
    "TIMEOUT": 2.0,
    "MEETING": 2.0,
    "STEP": 1.0,
    "STALL": 1.0,
    "ANSWER": 2.0,
    "RESOLVER": 3.0,
}
TEARDOWN = 2.0
WORK = 4.0  # seconds for the call, done once more, on a machine that is busy


@dataclass(frozen=True)
class Draw:
    """What happens in one run."""

    seed: str
    role: str
    signal: signal.Signals
    phase: str
    moment: float  # of the phase
    nth: int  # of the two leaders, where there are two disks
    disks: int
    store: str  # c10d, static: an agent serves it; rank0
    call: str  # pinned, unpinned, many, leader_first
    handler: bool  # whether the ranks turn SIGTERM into SystemExit
    weather: str  # fair, jumps, slow
    stopped: float | None  # seconds until SIGCONT
    patience: str  # hurried, stated

    @classmethod
    def of(cls, seed: str, role: str, number: signal.Signals, phase: str) -> Draw:
        chance = random.Random(seed)
        several = phase == "broadcast" or chance.random() < 0.5
        calls = ["pinned", "unpinned", "many"] + (["leader_first"] if phase != "broadcast" else [])
        return cls(
            seed=seed,
            role=role,
            signal=number,
            phase=phase,
            moment=chance.random(),
            nth=chance.randint(0, 1),
            disks=2 if several else 1,
            store=chance.choice(("c10d", "static", "rank0")),
            call=chance.choice(calls),
            handler=chance.random() < 0.5,
            weather=chance.choice(("fair", "fair", "jumps", "slow")),
            stopped=chance.choice((0.5, 5.0, None)) if number == signal.SIGSTOP else None,
            patience="stated" if SOAK and chance.random() < 0.1 else "hurried",
        )

    @property
    def id(self) -> str:
        return f"{self.role}-{self.signal.name}-{self.phase}-{self.seed}"

    @property
    def times(self) -> dict[str, float]:
        return STATED if self.patience == "stated" else HURRIED

    @property
    def bound(self) -> float:
        """Seconds from the signal until each rank that lives, and is not stopped, has come to its end."""
        t = self.times
        # Each of two rolls waits 2 s for disks that say nothing, and one who is on a roll and dead is waited for, too.
        seconds = 2.0 + WORK + t["MEETING"] + 2 * 2.0
        if self.weather == "slow":
            seconds += 8.0
        if self.signal == signal.SIGSTOP:
            silent = 1.25 * t["STALE"] + t["TIMEOUT"]  # for the others, to whom it may be the source
            lost = max(t["ANSWER"], t["RESOLVER"])  # an answer to a word, or to the first one
            seconds += {
                "leader": silent + t["SILENT"],
                "follower": 0.0,
                "agent": 0.0,
                "host": silent + lost + (t["SILENT"] if self.store == "rank0" else 0.0),
            }[self.role]
        return seconds


def draws() -> list[Draw]:
    """30 of the 48 cells, that have it all between them, and other ones each day; in the soak 300 at random."""
    seed = os.environ.get("NANODIST_FAULT_SEED") or (f"{time.time_ns()}" if SOAK else date.today().isoformat())
    chance = random.Random(seed)
    cells = list(itertools.product(ROLES, SIGNALS, PHASES))
    count = rounds(30, 300)
    while True:
        chance.shuffle(cells)
        drawn = [cells[n % len(cells)] for n in range(count)]
        if all(len(set(values)) == n for values, n in zip(zip(*drawn, strict=True), (4, 3, 4), strict=True)):
            return [Draw.of(f"{seed}.{n}", *cell) for n, cell in enumerate(drawn)]


# --- the job ----------------------------------------------------------------------------------------------------------


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


class Reports:
    """What the ranks tell, as they tell it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)  # never at its end, while ranks come and go
        self.lines: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._fd, 1 << 16)).split(b"\n")
            with self._more:
                self.lines += map(json.loads, lines)
                self._more.notify_all()
                if any("over" in line for line in self.lines):
                    return

    def wait(self, found: Callable[[list[dict[str, Any]]], Any], seconds: float) -> Any:
        """What `found` finds in the lines, as soon as it does; None after `seconds`."""
        with self._more:
            return self._more.wait_for(lambda: found(self.lines), seconds) or None

    def of(self, name: str) -> list[dict[str, Any]]:
        with self._more:
            return [line for line in self.lines if name in line]

    def note(self, **facts: Any) -> None:
        """Put a line among theirs; what was told before has been read then."""
        line = facts | {"at": time.monotonic()}
        os.write(self._fd, (json.dumps(line) + "\n").encode())
        self.wait(lambda lines: line in lines, 10)

    def close(self) -> None:
        self.note(over=True)
        self._thread.join()
        os.close(self._fd)


@dataclass
class Rank:
    number: int
    node: int
    who: Identity
    gone: float = 0.0  # time.monotonic()


class SlowStore:
    """Between the ranks and their store: each answer comes late."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._to, self._chance = port, chance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as far:
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._carry, args=(far, near, self._chance.uniform(0.05, 0.3)), daemon=True)
            back.start()
            self._carry(near, far, 0.0)
            back.join()

    def _carry(self, one: socket.socket, other: socket.socket, seconds: float) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                time.sleep(seconds)
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Job:
    """Two agents, their ranks, and what is known of them."""

    draw: Draw
    folder: Path
    forker: subprocess.Popen[str]
    urls: list[str]
    digests: list[str]
    agents: list[Identity] = field(default_factory=list)
    ranks: dict[int, Rank] = field(default_factory=dict)
    proxy: SlowStore | None = None

    def __post_init__(self) -> None:
        draw, folder = self.draw, self.folder
        self.bases = [folder / f"base{n if draw.disks == 2 else 0}" for n in range(AGENTS)]
        for base in self.bases:
            base.mkdir(exist_ok=True)
        self.reports = Reports(folder / "fifo")
        plan = {
            "seed": draw.seed,
            "fifo": str(folder / "fifo"),
            "go": str(folder / "go"),
            "ran": str(folder / "ran"),
            "bases": [str(base) for base in self.bases],
            "handler": draw.handler,
            "patience": draw.times,
            "pace": PACE,
            "call": draw.call,
            "urls": self.urls,
            "digests": self.digests,
        }
        (folder / "plan").write_text(json.dumps(plan))

    def start(self) -> None:
        port = free_port()
        static = ["--rdzv-backend=static", "--master-addr=127.0.0.1", f"--master-port={port}"]
        c10d = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "--local-addr=127.0.0.1"]
        env = os.environ | QUIET | {"NANODIST_FAULT_PLAN": str(self.folder / "plan"), "PYTHONPATH": str(ROOT)}
        if self.draw.store == "rank0":
            env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        assert self.forker.stdin is not None
        assert self.forker.stdout is not None
        for number in range(AGENTS):
            meet = [*static, f"--node-rank={number}"] if self.draw.store == "static" else c10d
            argv = [f"--nnodes={AGENTS}", f"--nproc-per-node={EACH}", *meet]
            self.forker.stdin.write(json.dumps({"argv": argv, "env": env, "log": str(self.log(number))}) + "\n")
            self.forker.stdin.flush()
            self.agents.append(identity(int(self.forker.stdout.readline())))
        hellos = self.reports.wait(lambda lines: lines if len(hello(lines)) == AGENTS * EACH else None, 60)
        assert hellos is not None, self.story()
        for line in hello(hellos):
            who = Identity.parse(line["hello"])
            assert who is not None
            self.ranks[line["rank"]] = Rank(line["rank"], line["node"], who)
        # Agents are numbered as they came; rank 0's is the host.
        host = next(line["agent"] for line in hello(hellos) if line["rank"] == 0)
        self.agents.sort(key=lambda agent: agent.pid != host)

    def log(self, number: int) -> Path:
        return self.folder / f"agent{number}.log"

    def go(self, chance: random.Random) -> None:
        jumps: dict[int, list[tuple[float, float]]] = {}
        port = 0
        if self.draw.weather == "jumps":
            for rank in chance.sample(range(AGENTS * EACH), 4):
                hours = [chance.choice((-1, 1)) * chance.uniform(1, 48) * 3600 for _ in range(2)]
                first = chance.choice((0.0, chance.uniform(0, 0.5)))
                jumps[rank] = [(first, hours[0]), (first + 0.2, hours[1]), (first + 0.5, 0.0)]
        if self.draw.weather == "slow":
            self.proxy = SlowStore(hello(self.reports.lines)[0]["store"], chance)
            port = self.proxy.port
        path = self.folder / "go.new"
        path.write_text(json.dumps({"port": port, "jumps": jumps}))
        path.rename(self.folder / "go")

    def victim(self, chance: random.Random) -> Identity:
        """The one to hit, once the phase has begun."""
        draw = self.draw
        two = draw.disks == 2 and draw.call != "leader_first" and draw.phase != "download"
        nth = draw.nth if two else 0

        def reached(lines: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
            led = [line for line in lines if line.get("phase") == draw.phase and line.get("leads")]
            return led if len({line["rank"] for line in led}) > nth else None

        led = self.reports.wait(reached, 5) or [line for line in self.reports.of("phase") if line["leads"]]
        assert led, self.story()
        leaders = {line["rank"] for line in self.reports.of("leads") if line["leads"]}
        if draw.role == "leader":
            return self.ranks[led[-1]["rank"]].who
        if draw.role == "follower":
            return self.ranks[chance.choice(sorted(set(self.ranks) - leaders))].who
        if draw.role == "agent":
            return self.agents[1]
        return self.ranks[0].who if draw.store == "rank0" else self.agents[0]

    # how it ends

    def look(self) -> None:
        for rank in self.ranks.values():
            if not rank.gone and rank.who.alive is False:
                rank.gone = time.monotonic()

    def ended(self) -> dict[int, dict[str, Any]]:
        return {line["rank"]: line for line in self.reports.of("end")}

    def living(self) -> list[Identity]:
        return [one for one in (*self.agents, *(rank.who for rank in self.ranks.values())) if one.alive is not False]

    def send(self, number: signal.Signals, whom: list[Identity]) -> None:
        for one in whom:
            if one.alive is not False:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL, self.living())
        if self.proxy is not None:
            self.proxy.close()
        self.reports.close()

    def story(self) -> str:
        logs = "".join(self.log(n).read_text()[-6000:] for n in range(AGENTS) if self.log(n).exists())
        told = "\n".join(json.dumps(line) for line in self.reports.lines)
        return f"{self.draw}\n{told}\n{logs}"


def hello(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "hello" in line]


def identity(pid: int) -> Identity:
    from nanocache import identity as identities

    here = identities.me()
    return Identity(pid, identities._stat(pid)[0], here.boot, here.space, here.host)


# --- the judgement ----------------------------------------------------------------------------------------------------


def ended_by_others(job: Job, victim: Identity) -> set[int]:
    """The ranks that torchrun may end for what was done."""
    draw = job.draw
    if draw.signal == signal.SIGSTOP:
        return set()
    node = next((rank.node for rank in job.ranks.values() if rank.who == victim), None)
    if node is None and draw.signal == signal.SIGTERM:
        node = job.agents.index(victim)
    hosting = node == 0 or victim == job.agents[0]
    whole = hosting and draw.store != "static"  # the agents of c10d meet where one of them is, and end without it
    return {rank.number for rank in job.ranks.values() if whole or rank.node == node}


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
        assert time.monotonic() - at < draw.bound, f"ranks {late} have no end after {draw.bound} s\n{job.story()}"
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
        ran = job.folder / "ran"
        assert len(ran.read_text().split()) <= 1, job.story()
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
