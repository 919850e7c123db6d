"""What the tests of nanodist share: ranks under a plain launcher, and the real torchrun."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PREAMBLE = """
import json, os, sys, threading, time
import nanocache, nanodist

RANK = int(os.environ["RANK"])

def report(**facts):
    os.write(1, (json.dumps({"rank": RANK, "at": time.time()} | facts) + "\\n").encode())  # ranks share a file

def mark(step):
    \"\"\"Let those go on that wait until this.\"\"\"
    open(f"{STEPS}/step {step}", "w").close()

def until(*steps):
    while not all(os.path.exists(f"{STEPS}/step {step}") for step in steps):
        time.sleep(0.01)

def failing(call):
    \"\"\"Report how `call` ended, and when.\"\"\"
    try:
        value = call()
    except BaseException as e:
        report(error=type(e).__name__, mro=[c.__name__ for c in type(e).__mro__], text=str(e),
               facts=e.facts() if hasattr(e, "facts") else None, cause=repr(e.__cause__))
        return None
    report(value=str(value))
    return value
"""
# A resolver that does not answer costs each of torch's connections 5 s (it looks up every client's name).
QUIET = {"OMP_NUM_THREADS": "1", "RES_OPTIONS": "timeout:1 attempts:1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@dataclass
class Run:
    """How ranks ended: what each reported, exit codes, everything on stderr, and how long it took."""

    reports: list[list[dict[str, Any]]]
    codes: list[int] = field(default_factory=list)
    err: str = ""
    seconds: float = 0.0

    def all(self) -> list[dict[str, Any]]:
        return [one for rank in self.reports for one in rank]

    def last(self, name: str) -> list[Any]:
        """Each rank's last report of `name`, of the ranks that made one."""
        found = [[one[name] for one in rank if name in one] for rank in self.reports]
        return [values[-1] for values in found if values]


def parse(texts: list[str]) -> list[list[dict[str, Any]]]:
    return [[json.loads(line) for line in text.splitlines() if line.startswith("{")] for text in texts]


class Job:
    """A process group of its own, of which nothing is left afterwards."""

    def __init__(self, command: list[str], *, env: dict[str, str], folder: Path, name: str = "job") -> None:
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={name: value for name, value in (os.environ | QUIET | env).items() if value},
                start_new_session=True,
            )

    def finish(self, timeout: float) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout} s\n{self.out.read_text()}\n{self.err.read_text()}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def launcher() -> Iterator[subprocess.Popen[str]]:
    """The process that all ranks of `ranks` are forked from."""
    command = [sys.executable, str(HERE / "launch.py")]
    env = os.environ | QUIET | {"PYTHONPATH": str(HERE.parent.parent)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    try:
        yield process
    finally:
        process.communicate(timeout=10)  # the end of its stdin is its own


@pytest.fixture
def ranks(tmp_path: Path, launcher: subprocess.Popen[str]) -> Iterator[Callable[..., Run]]:
    """`ranks(code, n)` runs a snippet on n ranks and returns when all have ended.

    `store`: "agent" (it outlives the ranks), "rank0" or "none". `env`: for all, or a list with one for each rank.
    """
    groups: list[int] = []

    def start(
        code: str,
        n: int = 8,
        *,
        store: str = "agent",
        env: dict[str, str] | list[dict[str, str]] | None = None,
        timeout: float = 60,
        **variables: Any,
    ) -> Run:
        folder = tmp_path / f"ranks{len(groups)}"
        folder.mkdir()
        given = "".join(f"{name} = {value!r}\n" for name, value in {"STEPS": str(folder), **variables}.items())
        (folder / "rank.py").write_text(PREAMBLE + given + textwrap.dedent(code))
        envs = env if isinstance(env, list) else [env or {}] * n
        config = {"ranks": n, "store": store, "env": envs, "environ": os.environ | QUIET}
        (folder / "config.json").write_text(json.dumps(config))
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(f"{folder}\n")
        launcher.stdin.flush()
        groups.append(int(launcher.stdout.readline()))
        codes = _await(folder / "codes.json", timeout)
        texts = [[(folder / f"{kind}{rank}").read_text() for rank in range(n)] for kind in ("out", "err")]
        assert codes is not None, f"still running after {timeout} s: {texts}"
        return Run(parse(texts[0]), json.loads(codes), "".join(texts[1]))

    try:
        yield start
    finally:
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def _await(path: Path, timeout: float) -> str | None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)
    return path.read_text()


@pytest.fixture
def jobs() -> Iterator[Callable[..., Job]]:
    """Starts a Job of the same arguments, of which nothing is left after the test."""
    started: list[Job] = []

    def start(*args: Any, **options: Any) -> Job:
        started.append(Job(*args, **options))
        return started[-1]

    try:
        yield start
    finally:
        for job in started:
            job.kill()


@pytest.fixture
def torchrun(tmp_path: Path, jobs: Callable[..., Job]) -> Callable[..., list[Job]]:
    """`torchrun(code, agents=2, each=4)` starts the real thing; `env` is one dict, or a list with one per agent."""
    number = itertools.count()

    def start(
        code: str,
        *options: str,
        agents: int = 1,
        each: int = 8,
        env: dict[str, str] | list[dict[str, str]] | None = None,
        **variables: Any,
    ) -> list[Job]:
        folder = tmp_path / f"torchrun{next(number)}"
        folder.mkdir()
        script = folder / "rank.py"
        given = "".join(f"{name} = {value!r}\n" for name, value in {"STEPS": str(folder), **variables}.items())
        script.write_text(PREAMBLE + given + textwrap.dedent(code))
        together = ["--standalone"] if agents == 1 else meeting(agents)
        envs = env if isinstance(env, list) else [env or {}] * agents
        started = []
        for agent in range(agents):
            command = [sys.executable, "-m", "torch.distributed.run", *together, f"--nproc_per_node={each}"]
            command += [*options, str(script)]
            started.append(jobs(command, env=envs[agent], folder=folder, name=f"agent{agent}"))
        return started

    return start


def meeting(agents: int) -> list[str]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return [f"--nnodes={agents}", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test"]


def outcome(jobs: list[Job], timeout: float = 90) -> Run:
    """Wait for the agents and collect what their ranks reported, by rank."""
    codes = [job.finish(timeout) for job in jobs]
    reports = [one for job in jobs for one in parse([job.out.read_text()])[0]]
    by_rank: dict[int, list[dict[str, Any]]] = {}
    for one in reports:
        by_rank.setdefault(one["rank"], []).append(one)
    return Run([by_rank[rank] for rank in sorted(by_rank)], codes, "".join(job.err.read_text() for job in jobs))
