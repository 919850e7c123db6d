"""Python processes for the tests, forked from one that has imported all of nanocache and httpx.

An interpreter that imports httpx takes 0.2 s of CPU, a fork 5 ms, and the tests start a thousand. `Nursery` is pytest's
side; `nursed` runs in the parent of the processes, and returns in each of them. A process of which the environment
changes how Python itself begins is not for this (`fits`), nor one that is asked what it has imported.

Invariants: the parent has one thread, so that nothing is lost in a fork; the processes of one request have a leader
between them and the parent, which writes how each ended into a file beside its output, in one step.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["RUNNER", "Forked", "Nursery", "nursed"]

AT_BIRTH = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_")  # variables that an interpreter reads as it begins

RUNNER = """
import os, pathlib, sys, time
exec(compile((folder / "setup.py").read_text(), "setup.py", "exec"))
(folder / f"ready{INDEX}").touch()
while not (folder / "start").exists():
    time.sleep(0.001)
exec(compile((folder / "code.py").read_text(), "code.py", "exec"))
"""
BORN = f"import pathlib\nfrom tests.forked import nursed\nfolder, INDEX = nursed()\n{RUNNER}"


class Forked:
    """One process, as subprocess.Popen shows it."""

    def __init__(self, pid: int, ended: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        if self.returncode is None and self._ended.exists():
            self.returncode = int(self._ended.read_text())
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended just now, and that is not yet written
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The parent, and what it is asked."""

    def __init__(self, parent: subprocess.Popen[str], env: dict[str, str]) -> None:
        self._parent, self._env = parent, env

    @classmethod
    @contextmanager
    def open(cls, env: dict[str, str]) -> Iterator[Nursery]:
        command = [sys.executable, "-W", "error", "-c", BORN]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, text=True) as parent:
            yield cls(parent, env)

    def fits(self, env: dict[str, str]) -> bool:
        """Whether a process with this environment may be forked."""
        return _at_birth(env) == _at_birth(self._env)

    def fork(self, folder: Path, n: int, env: dict[str, str]) -> list[Forked]:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        os.umask(mask := os.umask(0o077))
        request = {"folder": str(folder), "n": n, "env": env, "cwd": os.getcwd(), "umask": mask}
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        pids = json.loads(self._parent.stdout.readline())
        return [Forked(pid, folder / f"ended{index}") for index, pid in enumerate(pids)]


def _at_birth(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_BIRTH)}


# --- in the parent, the leaders and the processes ---------------------------------------------------------------------


def nursed() -> tuple[Path, int]:
    """Fork until stdin ends. Returns in each process that was asked for: its folder, and its index."""
    _import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for leaders
    for line in sys.stdin:
        if os.fork() == 0:
            return _lead(**json.loads(line))
    sys.exit()


def _import_all() -> None:
    """All of nanocache, and what a miss takes from other libraries."""
    import httpcore  # noqa: F401
    import httpx  # noqa: F401

    import nanocache

    for module in pkgutil.walk_packages(nanocache.__path__, "nanocache."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _lead(folder: str, n: int, env: dict[str, str], cwd: str, umask: int) -> tuple[Path, int]:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(cwd)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(env)
    numbers: dict[int, int] = {}
    for index in range(n):
        if (pid := os.fork()) == 0:
            return _begin(Path(folder), index)
        numbers[pid] = index
    os.write(1, json.dumps(list(numbers)).encode() + b"\n")
    while numbers:
        pid, status = os.wait()
        _tell(Path(folder, f"ended{numbers.pop(pid)}"), os.waitstatus_to_exitcode(status))
    os._exit(0)


def _tell(path: Path, code: int) -> None:
    new = path.with_suffix(".new")
    new.write_text(str(code))
    new.rename(path)


def _begin(folder: Path, index: int) -> tuple[Path, int]:
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    streams = ((os.devnull, os.O_RDONLY), (folder / f"out{index}", write), (folder / f"err{index}", write))
    for number, (path, flags) in enumerate(streams):
        fd = os.open(path, flags, 0o644)
        os.dup2(fd, number)
        os.close(fd)
    return folder, index
