"""Fork: a child uses no lock, flight, thread or connection of its parent, and no thread of ours makes it warn."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from tests.servers.misbehave import CERTIFICATE, Misbehaving, serve
from tests.servers.origin import MIB, Origin

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

# What the snippets below share. From Python 3.12 on, a fork beside other threads warns, and here it is on purpose.
FORKING = """
import asyncio, os, sys, threading, time, traceback, warnings
import nanocache
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")

def forked(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid

def ended(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

def downloading(url, **options):
    "A thread that downloads `url`, and has begun."
    begun = threading.Event()
    thread = threading.Thread(target=nanocache.fetch, args=[url], kwargs={"progress": lambda _: begun.set(), **options})
    thread.start()
    assert begun.wait(30)
    return thread
"""


@pytest.fixture
def slow(origin: Origin) -> str:
    """Half a second of download."""
    return origin.url(f"/bytes/{4 * MIB}/1/weights.bin?rate={8 * MIB}")


def test_a_childs_fetch_works_while_the_parent_downloads(
    spawn: Callable[..., Any], base: Path, origin: Origin, slow: str
) -> None:
    code = """
thread = downloading(slow)
def same(): print("child", nanocache.fetch(slow))
def task(): print("child", asyncio.run(nanocache.afetch(slow)))
def other(): print("child", nanocache.fetch(quick).stat().st_size)
for pid in [forked(work) for work in (same, task, other)]:
    ended(pid)
thread.join()
print("parent", nanocache.lookup(slow))
"""
    quick = origin.url("/bytes/1000/2/small.bin")
    (told,) = spawn(code, setup=FORKING, slow=slow, quick=quick).outputs()
    path = nanocache.lookup(slow)
    assert sorted(told.splitlines()) == sorted(["child 1000", f"child {path}", f"child {path}", f"parent {path}"])
    assert origin.gets("/bytes/4194304/1/weights.bin") == 1


def test_a_child_keeps_no_lock_of_its_parent(
    spawn: Callable[..., Any], base: Path, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """The parent is killed while its child, forked in mid-download, lives on: the next one takes over at once."""
    url = origin.url(f"/bytes/{4 * MIB}/1/weights.bin?rate={2 * MIB}")
    code = """
downloading(url)
print(forked(lambda: time.sleep(60)), flush=True)
time.sleep(60)
"""
    group = spawn(code, setup=FORKING, url=url)
    child = int(_line(group.folder / "out0"))
    try:
        group.processes[0].kill()
        group.processes[0].wait()
        with caplog.at_level(logging.WARNING, "nanocache"):
            assert nanocache.fetch(url).stat().st_size == 4 * MIB
        os.kill(child, 0)  # it lives, and holds nothing
    finally:
        os.kill(child, 9)
    assert "going on without" not in caplog.text


def _line(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (text := path.read_text()).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return text


def test_a_child_opens_its_own_connections(spawn: Callable[..., Any], base: Path, origin: Origin) -> None:
    urls = [origin.url(f"/bytes/1000/{n}/small.bin") for n in range(6)]
    code = """
for url in urls[:2]: nanocache.fetch(url)
ended(forked(lambda: [nanocache.fetch(url) for url in urls[2:4]]))
for url in urls[4:]: nanocache.fetch(url)
"""
    spawn(code, setup=FORKING, urls=urls).outputs()
    parent, child, after = (
        {request.connection for url in urls[n : n + 2] for request in origin.requests(url.removeprefix(origin.url("")))}
        for n in (0, 2, 4)
    )
    assert len(parent) == len(child) == 1
    assert parent == after
    assert not parent & child


def test_a_child_that_ends_leaves_its_parents_tls_connection_alone(
    spawn: Callable[..., Any], base: Path, misbehaving: Callable[..., Misbehaving]
) -> None:
    server = misbehaving(tls=True)
    urls = [server.route(f"/{n}", serve(b"x" * n)) for n in range(3)]
    code = """
nanocache.fetch(urls[0])
if (pid := os.fork()) == 0:
    nanocache.fetch(urls[1])
    sys.exit()  # not _exit: with everything that happens at exit
ended(pid)
nanocache.fetch(urls[2])
"""
    spawn(code, setup=FORKING, urls=urls, env={"SSL_CERT_FILE": str(CERTIFICATE)}).outputs()
    first, second, third = (server.requests(f"/{n}")[0].connection for n in range(3))
    assert first == third != second


def test_idle_threads_of_the_parent_are_not_counted_on(spawn: Callable[..., Any], base: Path, origin: Origin) -> None:
    urls = [origin.url(f"/bytes/1000/{n}/small.bin") for n in range(2)]
    code = """
asyncio.run(nanocache.afetch(urls[0]))  # its thread idles for half a second
ended(forked(lambda: print(asyncio.run(nanocache.afetch(urls[1])).stat().st_size)))
"""
    assert spawn(code, setup=FORKING, urls=urls).outputs() == ["1000"]


def test_a_worker_that_vanishes_holds_nobody_up(
    spawn: Callable[..., Any], base: Path, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """os._exit in mid-download, as a worker ends whose loader is dropped: no handler runs, no lock is released."""
    url = origin.url(f"/bytes/{8 * MIB}/1/weights.bin?rate={4 * MIB}")
    code = """
def vanish():
    downloading(url)
    time.sleep(0.5)
    os._exit(0)
ended(forked(vanish))
"""
    spawn(code, setup=FORKING, url=url).outputs()
    with caplog.at_level(logging.WARNING, "nanocache"):
        assert nanocache.fetch(url).stat().st_size == 8 * MIB
    assert not caplog.text
    assert not list((base / "partials-v1").glob("*/*"))


LOADER = """
import os, sys, threading, warnings
import nanocache
from torch.utils.data import DataLoader, Dataset

warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")

class Shards(Dataset):
    def __init__(self, base, both, each):
        self.base, self.both, self.each = base, both, each

    def __len__(self):
        return len(self.each)

    def __getitem__(self, n):
        return [nanocache.fetch(url, base_dir=self.base).stat().st_size for url in (self.both, self.each[n])]

if __name__ == "__main__":
    context, base, both, *each = sys.argv[1:]
    begun = threading.Event()
    options = {"progress": lambda _: begun.set(), "base_dir": base}
    thread = threading.Thread(target=nanocache.fetch, args=[both], kwargs=options)
    thread.start()
    begun.wait(30)
    shards = Shards(base, both, each)
    options = {"num_workers": 2, "multiprocessing_context": context, "persistent_workers": True}
    loader = DataLoader(shards, batch_size=None, **options)
    for _ in range(2):  # the second time they are hits
        print(*loader)
    thread.join()
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_data_loaders_workers_fetch_while_the_parent_downloads(
    tmp_path: Path, base: Path, origin: Origin, context: str
) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    both = origin.url(f"/bytes/{2 * MIB}/1/both.bin?rate={2 * MIB}")
    each = [origin.url(f"/bytes/{1000 + n}/1/shard.bin") for n in range(4)]
    line = [sys.executable, str(script), context, str(base), both, *each]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stderr
    expected = " ".join(str([2 * MIB, 1000 + n]) for n in range(4))
    assert ended.stdout.splitlines() == [expected, expected]
    assert origin.gets("/bytes/2097152/1/both.bin") == 1
    assert origin.gets() == 5


QUIET = """
import asyncio, os, sys, threading, time
import nanocache
base, *urls = sys.argv[1:]
nanocache.fetch_many(urls[:20], workers=8, progress=True, base_dir=base)

async def tasks():
    await asyncio.gather(*(nanocache.afetch(url, progress=True, base_dir=base) for url in urls[20:]))

asyncio.run(tasks())
time.sleep(1)
threads = threading.enumerate()
assert threads == [threading.main_thread()], threads
pid = os.fork()  # from 3.12 on it warns of any thread, and a warning is an error here
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""


def interpreter(name: str) -> str:
    """An interpreter on the path, or installed beside this one, that can import our libraries; else the test skips."""
    beside = Path(sys.base_prefix).parent.glob(f"*/bin/{name}")
    for found in filter(None, [shutil.which(name), *map(str, beside)]):
        try:
            _run(found, "import httpx, filelock, tqdm, platformdirs")
        except (OSError, subprocess.CalledProcessError):
            continue
        return found
    pytest.skip(f"no {name} here that can import our libraries")


def _run(python: str, *arguments: str) -> None:
    # The libraries are pure Python: another interpreter can borrow this one's.
    libraries = os.pathsep.join([os.environ["PYTHONPATH"], sysconfig.get_path("purelib")])
    environment = os.environ | {"PYTHONPATH": libraries}
    line = [python, "-W", "error", "-c", *arguments]
    subprocess.run(line, env=environment, check=True, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["this one", "python3.12", "python3.13", "python3.14"])
def test_no_thread_is_left_that_makes_a_later_fork_warn(tmp_path: Path, origin: Origin, name: str) -> None:
    python = sys.executable if name == "this one" else interpreter(name)
    urls = [origin.url(f"/bytes/{n * 50_000}/1/{n}.bin?rate={4 * MIB}") for n in range(1, 31)]
    try:
        _run(python, QUIET, str(tmp_path / "base"), *urls)
    except subprocess.CalledProcessError as e:
        pytest.fail(e.stderr)
