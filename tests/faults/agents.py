"""torchrun from a process that has torch already: its agents, and the ranks that they start, are forks of this one.

    pytest ── a line on stdin: {"argv", "env", "log"} ──> this process ── fork ──> an agent ── fork ──> its ranks

The agents run torchrun's own `main`: rendezvous, TCPStore, monitor and teardown are the real ones, and the ranks real
processes, in sessions of their own, that the agent watches and ends. The one difference is that a rank begins with a
fork where torchrun has fork and exec: eight imports of torch on two cores take ten seconds, for each of many runs.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from typing import Any

import torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler as handler
import torch.distributed.run

from tests.faults import ranks

KEEP = 3  # descriptors that a rank has from its agent: 0, 1, 2


class Forked(subprocess.Popen[bytes]):
    """What torchrun watches and kills: a child that is a fork, and forgets what exec would have it forget."""

    def __init__(self, args: Any, *, env: dict[str, str], **options: Any) -> None:
        self._env = env
        super().__init__(args, **options)

    def _execute_child(self, *_: Any) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            become(self._env, ranks.main)
        self._child_created = True


def become(env: dict[str, str], body: Any) -> None:
    """The child's whole life. Taking a forked interpreter apart copies every page of torch: only exit hooks run."""
    status = 1
    try:
        os.setsid()
        os.closerange(KEEP, os.sysconf("SC_OPEN_MAX") if sys.platform != "linux" else 1 << 12)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        atexit._clear()
        os.environ.clear()
        os.environ.update(env)
        body()
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def agent(order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    handler.Popen = Forked  # type: ignore[misc]
    torch.distributed.run.main([*order["argv"], __file__])


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for agents
    gc.collect()
    gc.freeze()  # or each child's first collection copies all that torch is
    assert threading.active_count() == 1
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if not (pid := os.fork()):
            become(order["env"], lambda order=order: agent(order))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
