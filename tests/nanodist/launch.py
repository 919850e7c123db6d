"""Starts ranks as srun or mpirun would: it sets their environment, waits for them, and kills nobody.

One process for all tests, which has torch already and forks: eight imports of it on two cores take ten seconds. It
reads folders on stdin; for each it forks a job, a process group of its own, and prints the job's pid. The job forks the
ranks of `config.json` and leaves their exit codes in `codes.json`. The store is rank 0's, or, with `"store": "agent"`,
that of one more process, as torchrun's agent has it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch.distributed as dist

import nanocache  # noqa: F401
import nanodist.artifacts
import nanodist.compute.group
import nanodist.coordination.leader  # noqa: F401

HOST = "127.0.0.1"


def serve_store() -> tuple[int, int]:
    """A process that serves a store and does nothing else: its pid, and the port."""
    read, write = os.pipe()
    if pid := os.fork():
        return pid, int(os.read(read, 100))
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
    os.write(write, str(store.port).encode())
    while True:
        time.sleep(60)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def run_rank(rank: int, folder: Path, env: dict[str, str]) -> None:
    """The child's whole life. Taking a forked interpreter apart copies every page of torch: only exit hooks run."""
    os.environ.update(env)
    for name, fd in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    sys.argv = ["rank"]
    code = compile((folder / "rank.py").read_text(), "rank.py", "exec")
    status = 0
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_job(folder: Path) -> None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    os.environ.clear()
    os.environ.update(config["environ"])
    count = config["ranks"]
    env = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": HOST}
    server = 0
    if config["store"] == "agent":
        server, port = serve_store()
        env |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True", "STORE_PID": str(server)}
    elif config["store"] == "rank0":
        env |= {"MASTER_PORT": str(free_port())}
    else:
        del env["MASTER_ADDR"]
    pids = []
    for rank in range(count):
        if not (pid := os.fork()):
            run_rank(rank, folder, env | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | config["env"][rank])
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if server:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    (folder / "codes").write_text(json.dumps(codes))
    (folder / "codes").rename(folder / "codes.json")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for jobs
    for line in iter(sys.stdin.readline, ""):
        if not (pid := os.fork()):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            run_job(Path(line.strip()))
            os._exit(0)
        print(pid, flush=True)


main()
