"""The signs of life of a process that holds a lock: they come in time, whatever it does, and end with the hold."""

from __future__ import annotations

import _thread
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.coordination import heartbeat, holder
from nanocache.coordination.heartbeat import Heartbeat
from nanocache.disk import hashing
from nanocache.store.blobs import Store
from tests.servers.misbehave import Misbehaving, serve, silent
from tests.servers.origin import Origin, content, digest

REWRITE, SECONDS = 0.4, 1.5  # between two signs, a second in fact; and of the work that takes long


def slowly(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, with a pause before its first run."""
    ran: list[bool] = []

    def slow(*args: Any, **options: Any) -> Any:
        if not ran:
            ran.append(True)
            time.sleep(SECONDS)
        return call(*args, **options)

    return slow


class Signs(threading.Thread):
    """Looks at the record of a key all the time, and keeps what it saw."""

    def __init__(self, base: Path, key: str) -> None:
        super().__init__()
        self.record = Path(Store(str(base)).lock_place(key).record)
        self.seen: set[tuple[int, int]] = set()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            with suppress(FileNotFoundError):
                st = self.record.lstat()
                self.seen.add((st.st_ino, st.st_mtime_ns))

    def __enter__(self) -> Signs:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def first_byte(url: str, sha256: str, patch: pytest.MonkeyPatch) -> None:
    nanocache.fetch(url.replace("/x.bin", "/slow/x.bin"), sha256=sha256)


def fsync(url: str, sha256: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "fsync", slowly(os.fsync))
    nanocache.fetch(url, sha256=sha256)


def hashed(url: str, sha256: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hashing.FileHasher, "digest", slowly(hashing.FileHasher.digest))
    nanocache.fetch(url, sha256=sha256)


def healing(url: str, sha256: str, patch: pytest.MonkeyPatch) -> None:
    os.utime(nanocache.fetch(url, sha256=sha256))
    patch.setattr(hashing, "hash_file", slowly(hashing.hash_file))
    nanocache.fetch(url, sha256=sha256)


def connection(url: str, sha256: str, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("NANOCACHE_CONNECTIONS", "1")
    other = threading.Thread(
        target=nanocache.fetch, args=[url.replace("/x.bin", "/slow/x.bin")], kwargs={"filename": "other"}
    )
    other.start()
    time.sleep(0.3)
    nanocache.fetch(url, sha256=sha256)
    other.join()


@pytest.mark.parametrize("work", [first_byte, fsync, hashed, healing, connection])
def test_a_holder_gives_its_signs_of_life_whatever_it_does(
    base: Path, misbehaving: Callable[..., Misbehaving], monkeypatch: pytest.MonkeyPatch, work: Callable[..., None]
) -> None:
    monkeypatch.setattr(holder, "REWRITE", REWRITE)
    body = content(1000, 1)
    sha256 = hashlib.sha256(body).hexdigest()
    server = misbehaving()
    server.route("/slow/x.bin", silent(SECONDS, then=serve(body)))
    url = server.route("/x.bin", serve(body))
    assert Store(str(base)).prepare()
    with Signs(base, sha256) as signs:
        work(url, sha256, monkeypatch)
    assert len(signs.seen) >= 3, signs.seen
    assert not signs.record.exists()


def test_a_small_artifact_writes_no_record(base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "DELAY", 30.0)  # as if it were over in no time on a busy machine, too
    url, sha256 = origin.url("/bytes/1000/1/a.bin"), digest(1000, 1)
    with Signs(base, sha256) as signs:
        nanocache.fetch(url, sha256=sha256)
        signs.record.write_text("{}")  # what a killed process left
        nanocache.fetch(url, sha256=sha256, rehash=True)
    assert len(signs.seen) <= 1
    assert not signs.record.exists()


@pytest.fixture
def beats() -> Iterator[list[float]]:
    told: list[float] = []
    heartbeat._before_fork()  # a thread of an earlier test
    yield told
    assert not heartbeat._beating


def threads() -> int:
    """How many threads the kernel sees in this process."""
    return len(os.listdir("/proc/self/task"))


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel which threads there are")


@LINUX
def test_holds_share_a_thread_that_ends_within_a_second_of_the_last_one(beats: list[float]) -> None:
    before = threads()
    ours = [Heartbeat(lambda: beats.append(time.monotonic()), 0.1) for _ in range(50)]
    for one in ours:
        assert one.start()
    assert threads() == before + 1
    while len(beats) < 100:
        time.sleep(0.01)
    for one in ours:
        one.stop()
    count = len(beats)
    deadline = time.monotonic() + 1.0
    while threads() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(beats) == count


def test_no_sign_comes_after_the_end_of_a_hold(beats: list[float]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def beat() -> None:
        begun.set()
        go_on.wait()
        beats.append(time.monotonic())

    slow = Heartbeat(beat, 0.01)
    slow.start()
    assert begun.wait(30)
    threading.Timer(0.2, go_on.set).start()
    slow.stop()
    ended = time.monotonic()
    time.sleep(0.2)
    assert len(beats) == 1
    assert beats[0] <= ended


def test_many_holds_at_once_each_have_their_signs(beats: list[float]) -> None:
    def hold() -> None:
        for _ in range(50):
            one = Heartbeat(lambda: beats.append(1.0), 0.01)
            assert one.start()
            one.stop()

    holders = [threading.Thread(target=hold) for _ in range(8)]
    for thread in holders:
        thread.start()
    last = Heartbeat(lambda: beats.append(2.0), 0.01)
    assert last.start()
    for thread in holders:
        thread.join()
    beats.clear()
    while 2.0 not in beats:
        time.sleep(0.01)
    last.stop()


FORKING = """
import os, time, threading
from nanocache.coordination import heartbeat, holder
beats = []
def threads():
    return len(os.listdir("/proc/self/task"))
parents = heartbeat.Heartbeat(lambda: (time.sleep(0.02), beats.append(os.getpid())), 0.01)
parents.start()
time.sleep(0.2)  # it is in a call nearly all of the time
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        parents.stop()  # no wait for the parent's thread
        assert threads() == 1
        count = len(beats)
        own = heartbeat.Heartbeat(lambda: beats.append(os.getpid()), 0.01)
        assert own.start() and threads() == 2
        while os.getpid() not in beats:
            time.sleep(0.01)
        own.stop()
        assert set(beats[count:]) == {os.getpid()}
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
parents.stop()
print("forked")
"""


@LINUX
@pytest.mark.timeout(60)
def test_a_forked_child_has_the_signs_of_its_own_holds_only(spawn: Any) -> None:
    setup = "import warnings\nwarnings.filterwarnings('ignore', message='.*fork')"
    assert spawn(FORKING, setup=setup).outputs() == ["forked"]


IDLE = """
import os
from nanocache.coordination import heartbeat, holder
one = heartbeat.Heartbeat(print, 1.0)
assert one.start()
assert len(os.listdir("/proc/self/task")) == 2
one.stop()  # its thread stays for a moment
if os.fork() == 0:  # from 3.12 on it warns of any thread, and a warning is an error here
    os._exit(0)
assert len(os.listdir("/proc/self/task")) == 1
"""


@LINUX
def test_no_idle_thread_makes_a_fork_warn(spawn: Any) -> None:
    spawn(IDLE).outputs()


ENDING = """
import atexit, time
from nanocache.coordination import heartbeat, holder
one = heartbeat.Heartbeat(lambda: time.sleep(0.01), 0.01)
one.start()
time.sleep(0.15)
atexit.register(lambda: print(heartbeat.Heartbeat(print, 1.0).start() in (True, False)))
"""


def test_a_hold_that_never_ends_keeps_no_interpreter_alive(spawn: Any) -> None:
    begun = time.monotonic()
    assert spawn(ENDING).outputs() == ["True"]
    assert time.monotonic() - begun < 20


def test_without_threads_the_first_sign_comes_at_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanocache.coordination import holder

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    monkeypatch.setattr(holder, "REWRITE", 0.01)
    store = Store(str(base))
    store.prepare()
    place = store.lock_place("ab" * 32)
    writer = holder.HolderWriter(place, standing=False)
    writer.start()
    assert holder.read(place.record) is not None
    time.sleep(0.05)
    writer.report(5, 10)
    record = holder.read(place.record)
    assert record is not None
    assert record.done == 5
    writer.clear()
    assert not os.path.exists(place.record)
