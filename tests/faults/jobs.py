"""Two torchrun agents of four ranks, that make one call together, and what is drawn to happen to one of them.

`Draw` is the whole of a run, made from its seed; `Job` starts it, hears what its ranks tell (`ranks`), finds the one to
hit, and knows who lives. Not the judgement: that is the test's.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanocache.coordination import process as identities
from nanocache.coordination.process import Identity
from tests.faults.checks import SOAK
from tests.nanodist.conftest import QUIET

__all__ = ["AGENTS", "EACH", "PHASES", "RATE", "ROLES", "ROOT", "SIGNALS", "SIZE", "Draw", "Job"]

ROOT = Path(__file__).parent.parent.parent
AGENTS, EACH = 2, 4
ROLES = ("leader", "follower", "agent", "host")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
PHASES = {"claim": 0.02, "download": 0.4, "broadcast": 0.3, "commit": 0.03}  # and about how long each takes, in seconds
SIZE = 1_500_000
RATE = SIZE / 0.4
PACE = 0.02  # seconds that the source takes for each frame
STATED = {  # seconds of patience, as nanodist and nanocache state them; and what a short run makes of them
    "STALE": 15.0,
    "BEAT": 1.0,
    "SILENT": 60.0,
    "DEAD": 5.0,
    "PEER_TIMEOUT": 15.0,
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
    "PEER_TIMEOUT": 2.0,
    "MEETING": 2.0,
    "STEP": 1.0,
    "STALL": 1.0,
    "ANSWER": 2.0,
    "RESOLVER": 3.0,
}


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
            "patience": {} if draw.patience == "stated" else HURRIED,
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
            meet = [*static, f"--node-rank={number}"]
            if self.draw.store != "static":
                meet = [*c10d, f"--rdzv-conf=is_host={1 - number}"]
            argv = [f"--nnodes={AGENTS}", f"--nproc-per-node={EACH}", *meet]
            self.forker.stdin.write(json.dumps({"argv": argv, "env": env, "log": str(self.log(number))}) + "\n")
            self.forker.stdin.flush()
            self.agents.append(identity(int(self.forker.stdout.readline())))
        self.meeting = self.agents[0]
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
    here = identities.me()
    return Identity(pid, identities._stat(pid)[0], here.boot, here.space, here.host)
