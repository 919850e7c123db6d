"""Waiters: what they cost while they wait, how soon they are back, and which one goes on when a holder is gone.

Processes of other hosts are real processes here that each believe to be on a boot of their own.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanocache.coordination import lock as locks
from nanocache.store.blobs import Store
from tests.conftest import Processes
from tests.coordination.test_processes import wait_until
from tests.servers.misbehave import Misbehaving, in_turn, serve, silent, status
from tests.servers.origin import Origin, content, digest

Spawn = Callable[..., Processes]

ELSEWHERE = """
from nanocache.coordination import process
read = process._read
process._read = lambda path: f"the boot of {os.getpid()}" if path.endswith("boot_id") else read(path)
"""
HERE = ""
SETUP = """
import os, time
import nanocache
"""
HURRIED = """
from nanocache.coordination import holder, observed, waiting
holder.REWRITE, observed.UNHEARD, observed.REOPEN = 0.2, 0.5, 1.0  # a fifth of what they are
waiting.SILENT, waiting.DEAD = 1.2, 0.6
"""
FETCH = "print(nanocache.fetch(url, sha256=sha256).stat().st_size)"

SIZE = 100_000
BODY = content(SIZE, 1)
SHA256 = digest(SIZE, 1)


# --- a holder that is gone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [HERE, ELSEWHERE], ids=["here", "elsewhere"])
def test_one_waiter_goes_on_for_a_holder_that_is_gone_with_its_lock(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn, where: str
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", in_turn(silent(), silent(2.0, then=serve(BODY))))
    options: dict[str, Any] = {"setup": SETUP + HURRIED + where, "url": url, "sha256": SHA256}
    holder = spawn(FETCH, 1, **options).processes[0]
    wait_until(lambda: list(base.glob("locks-v1/*/*.json")))
    waiters = spawn(FETCH, 6, **options)
    time.sleep(0.2)
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        assert waiters.outputs() == [str(SIZE)] * 6
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert server.gets("/x.bin") == 2


def test_the_next_waiter_goes_on_if_the_first_one_is_gone_as_well(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", in_turn(silent(), silent(), serve(BODY)))
    options: dict[str, Any] = {"setup": SETUP + HURRIED + ELSEWHERE, "url": url, "sha256": SHA256}
    stopped = [spawn(FETCH, 1, **options).processes[0]]
    wait_until(lambda: server.gets("/x.bin") == 1)
    stopped.append(spawn(FETCH, 1, **options).processes[0])
    os.kill(stopped[0].pid, signal.SIGSTOP)
    wait_until(lambda: server.gets("/x.bin") == 2)
    waiters = spawn(FETCH, 4, **options)
    os.kill(stopped[1].pid, signal.SIGSTOP)
    assert waiters.outputs() == [str(SIZE)] * 4
    assert server.gets("/x.bin") == 3


@pytest.mark.parametrize("record", ["none", "dead", "elsewhere", "damaged", "failure"])
def test_one_waiter_goes_on_where_a_lock_is_never_free(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn, record: str
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", silent(0.8, then=serve(BODY)))
    store = Store(str(base))
    store.prepare()
    place = store.lock_place(SHA256)
    held = locks.try_lock(place.path, mode=0o644)
    assert held is not None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    identity = {"pid": ended.pid, "start": "1", "space": "", "host": "h"}
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip() if sys.platform == "linux" else "?"
    texts = {
        "dead": json.dumps({"holder": identity | {"boot": boot, "space": os.readlink("/proc/self/ns/pid")}}),
        "elsewhere": json.dumps({"holder": identity | {"boot": "another"}}),
        "damaged": '{"holder": {"pid"',
        "failure": json.dumps({"error": None, "salt": "ab", "asker": "cd"}),
    }
    if record in texts:
        Path(place.record).write_text(texts[record])
    assert spawn(FETCH, 6, setup=SETUP + HURRIED, url=url, sha256=SHA256).outputs() == [str(SIZE)] * 6
    held.release()
    assert server.gets("/x.bin") == 1
    assert not os.path.exists(place.record)
    assert not list((base / "trash-v1").glob("new-*"))


def test_a_holder_that_waits_long_for_its_first_byte_is_not_gone(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", silent(3.0, then=serve(BODY)))
    assert spawn(FETCH, 3, setup=SETUP + HURRIED + ELSEWHERE, url=url, sha256=SHA256).outputs() == [str(SIZE)] * 3
    assert server.gets("/x.bin") == 1


def test_times_that_a_mount_keeps_for_long_make_no_holder_gone(
    mounts: list[str], misbehaving: Callable[..., Misbehaving], spawn: Spawn
) -> None:
    # Its lstat shows the record of half a minute ago.
    server = misbehaving()
    url = server.route("/x.bin", silent(3.0, then=serve(BODY)))
    code = "print(nanocache.fetch(url, sha256=sha256, base_dir=bases[INDEX]).stat().st_size)"
    options: dict[str, Any] = {"setup": SETUP + HURRIED + ELSEWHERE, "url": url, "sha256": SHA256, "bases": mounts}
    assert spawn(code, 3, **options).outputs() == [str(SIZE)] * 3
    assert server.gets("/x.bin") == 1


# --- what waiting costs -----------------------------------------------------------------------------------------------

COUNTED = """
calls = [0]
def counted(name):
    call = getattr(os, name)
    def count(*args, **options):
        calls[0] += 1
        time.sleep(latency)
        return call(*args, **options)
    setattr(os, name, count)
for name in ("lstat", "stat", "open", "unlink", "rename", "mkdir", "listdir", "utime", "link"):
    counted(name)
"""
COST = """
import threading

def watch():
    time.sleep(1.5)  # until the first one holds the lock, and has written how long it will take
    moments = []
    for seconds in (2.0, 0.0):
        moments.append((time.monotonic(), calls[0], time.process_time()))
        time.sleep(seconds)
    took, made, cpu = (after - before for before, after in zip(*moments))
    print(f"{made / took:.1f} {cpu / took:.4f}")

watching = threading.Thread(target=watch)
watching.start()
nanocache.fetch(url, sha256=sha256)
assert not watching.is_alive(), "it was over before"
"""


def costs(processes: Processes) -> list[list[float]]:
    """Of each waiter: calls a second, and its share of a CPU."""
    return [[float(word) for word in line.split()] for line in processes.outputs()[1:]]


@pytest.mark.alone
def test_waiters_make_few_calls_while_the_holder_has_long_to_go(base: Path, origin: Origin, spawn: Spawn) -> None:
    most = {HERE: 90, ELSEWHERE: 7}  # calls a second
    groups: dict[str, Processes] = {}
    for where in most:  # both at once
        url, sha256 = origin.url(f"/bytes/5000000/{len(groups)}/w.bin?rate=800000"), digest(5_000_000, len(groups))
        options: dict[str, Any] = {"url": url, "sha256": sha256, "latency": 0.0, "start": False}
        groups[where] = spawn(COUNTED + COST, 4, setup=SETUP + where, **options)
    for group in groups.values():
        group.start()
    for where, group in groups.items():
        rates, shares = zip(*(ended := costs(group)), strict=True)
        assert max(rates) < most[where], ended
        assert statistics.median(shares) < 0.05, ended  # one may have been disturbed: two seconds are short
    assert origin.gets() == 2


MANY = """
import json
nanocache.fetch(warm)
r, w = os.pipe()
pids = []
from nanocache.coordination import process
for n in range(count):
    pid = os.fork()
    if pid == 0:
        try:
            process._me = None
            time.sleep(0.004 * n)
            began = time.time()
            nanocache.fetch(url, sha256=sha256)
            os.write(w, json.dumps([time.time(), calls[0] / (time.time() - began)]).encode() + b"\\n")
        finally:
            os._exit(0)
    pids.append(pid)
    while not list(pathlib.Path(base).glob("locks-v1/*/*.json")):
        time.sleep(0.01)  # until the first one holds the lock, and has said so
for pid in pids:
    os.waitpid(pid, 0)
os.close(w)
back = sorted(json.loads(line)[0] for line in os.fdopen(r))
print(len(back), back[-1] - back[0])
"""


@pytest.mark.alone
def test_waiters_of_other_hosts_are_back_together(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", silent(3.0, then=serve(BODY)))
    warm = server.route("/warm.bin", serve(b"warm"))
    options: dict[str, Any] = {"url": url, "warm": warm, "sha256": SHA256, "base": str(base)}
    (line,) = spawn(COUNTED + MANY, 1, setup=SETUP + ELSEWHERE, latency=0.001, count=120, **options).outputs()
    count, last = line.split()
    assert int(count) == 120
    assert server.gets("/x.bin") == 1
    assert float(last) < 1.2, line  # half of it on an idle machine


def test_a_failure_elsewhere_reaches_those_who_asked_the_same(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", silent(2.0, then=status(404)))
    code = """
try:
    nanocache.fetch(url)
except nanocache.DownloadFailed as e:
    print(e.status)
"""
    assert spawn(code, 4, setup=SETUP + HURRIED + ELSEWHERE, url=url).outputs() == ["404"] * 4
    assert server.gets("/x.bin") == 1
