"""One rank of a run under faults: it makes one call, tells at every moment what it is at, and how it ended.

It tells by lines of JSON on a FIFO, each one write: {"rank", "pid", "at" (time.monotonic), ...}

    hello     who it is, which agent's, where its store is; it then waits for the file `go`
    phase     claim, download, broadcast, commit; `leads`: whether it acts for its disk; `source`: and for all disks
    end       the digests of what it got, or the value; or the error's class, and its text

The phases are wrapped around nanodist's own steps, which stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import nanocache
import nanodist.coordination.leader
from nanocache import peers
from nanocache.coordination import waiting
from nanocache.coordination.process import me
from nanocache.store import blobs as stores
from nanocache.store import partials
from nanodist import artifacts
from nanodist.broadcast import broadcast, buffers, link, tree
from nanodist.coordination import connecting, coordinator, election, store_client

PLAN = "NANODIST_FAULT_PLAN"
PATIENCE = {  # where nanodist's and nanocache's patience is stated, in seconds
    "STALE": election,
    "BEAT": election,
    "SILENT": waiting,
    "DEAD": waiting,
    "PEER_TIMEOUT": link,
    "MEETING": link,
    "STEP": tree,
    "STALL": buffers,
    "ANSWER": store_client,
    "RESOLVER": connecting,
}
real_time = time.time


class Rank:
    """This process, as the test sees it."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan, self.number = plan, int(os.environ["RANK"])
        self.chance = random.Random(f"{plan['seed']} {self.number}")
        self._out = os.open(plan["fifo"], os.O_WRONLY)
        self._leads = self._source = False
        self._phase = ""

    def tell(self, **facts: Any) -> None:
        line = {"rank": self.number, "pid": os.getpid(), "at": time.monotonic()} | facts
        os.write(self._out, (json.dumps(line) + "\n").encode())

    def enter(self, phase: str, *, again: bool = False) -> None:
        if phase != self._phase or again:
            self._phase = phase
            self.tell(phase=phase, leads=self._leads, source=self._source)

    # what it reports of nanodist

    def watch(self) -> None:
        self._before(election, "_lead", self._lead)
        self._before(broadcast, "send", self._send)
        self._before(link.Link, "send", lambda _, kind, *rest: self._pass_on(kind))
        self._before(peers.IncomingBlob, "write", lambda *_: self.enter("broadcast"))
        self._before(partials.Partial, "write", lambda *_: self._download())
        self._before(stores.Store, "publish", lambda *_: self.enter("commit", again=True))
        self._before(election, "_publish", lambda at, key, *_: self._publish(key))

    def _before(self, owner: Any, name: str, act: Callable[..., None]) -> None:
        real = getattr(owner, name)

        @wraps(real)
        def wrapper(*args: Any, **options: Any) -> Any:
            act(*args)
            return real(*args, **options)

        setattr(owner, name, wrapper)

    def _lead(self, at: Any, key: str, *_: Any) -> None:
        if key.startswith(("fetch/", "first/")):
            self._leads = True
            self.enter("claim", again=True)

    def _send(self, *_: Any) -> None:
        self._source = True

    def _pass_on(self, kind: link.FrameKind) -> None:
        if self._source and kind is link.FrameKind.DATA:
            self.enter("broadcast")
            time.sleep(self.plan["pace"])

    def _publish(self, key: str) -> None:
        if key.startswith(("fetch/", "first/")):
            self.enter("commit")

    def _download(self) -> None:
        if self._phase == "claim":  # not what a peer sends: that is a broadcast already
            self.enter("download")

    # what the plan has for it

    def prepare(self) -> None:
        for name, seconds in self.plan["patience"].items():
            setattr(PATIENCE[name], name, seconds)
        coordinator.ANSWER = store_client.ANSWER
        link.FRAME_BYTES = buffers.FRAME_BYTES = 1 << 18
        if self.plan["handler"]:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        os.environ["NANOCACHE_DIR"] = self.plan["bases"][int(os.environ["GROUP_RANK"])]

    def wait_for_go(self) -> None:
        hosting = os.environ["TORCHELASTIC_USE_AGENT_STORE"] != "True" and self.number == 0
        port = int(os.environ["MASTER_PORT"])
        self.tell(hello=me().to_json(), agent=os.getppid(), node=int(os.environ["GROUP_RANK"]), store=port)
        go = Path(self.plan["go"])
        while not go.exists():
            time.sleep(0.002)
        told = json.loads(go.read_text())
        if told["port"] and not hosting:
            os.environ["MASTER_PORT"] = str(told["port"])
        self._jump(told["jumps"].get(str(self.number), []))
        time.sleep(self.chance.uniform(0, 0.03))

    def _jump(self, jumps: list[tuple[float, float]]) -> None:
        """`jumps`: (seconds from now, seconds that the clock then is off)."""
        begun = time.monotonic()

        def off() -> float:
            past = [shift for at, shift in jumps if time.monotonic() - begun >= at]
            return past[-1] if past else 0.0

        if jumps:
            time.time = lambda: real_time() + off()

    # the call

    def call(self) -> Any:
        plan = self.plan
        if plan["call"] == "leader_first":
            return nanodist.leader_first("act", self._act)
        pins = plan["digests"] if plan["call"] != "unpinned" else [None] * len(plan["urls"])
        wanted = [nanocache.Artifact(url, sha256=pin) for url, pin in zip(plan["urls"], pins, strict=True)]
        paths = artifacts.fetch_many(wanted) if plan["call"] == "many" else [artifacts.fetch(wanted[0])]
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    def _act(self) -> dict[str, Any]:
        with open(self.plan["ran"], "a") as file:
            file.write(f"{os.getpid()}\n")
        self.enter("download")
        time.sleep(0.4)
        return {"by": os.getpid()}


def main() -> None:
    rank = Rank(json.loads(Path(os.environ[PLAN]).read_text()))
    rank.prepare()
    rank.watch()
    rank.wait_for_go()
    rank.enter("claim")
    try:
        value = rank.call()
    except BaseException as e:
        rank.tell(end="error", error=type(e).__name__, text=str(e)[:1000])
        if not isinstance(e, nanocache.NanocacheError):
            raise
    else:
        rank.tell(end="value", value=value)
