"""Fork by the very thread that downloads, builds or unpacks: the child has our frames on its stack, and nothing else.

A child that goes on, one that ends at once and one that unwinds through our `with` blocks: none of them takes anything
away from its parent, and each can fetch. What a child of another thread keeps is told by `tests/test_fork.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from tests.faults.checks import check_visible, orphans
from tests.servers.origin import MIB, Origin
from tests.test_fork import FORKING

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

# `here()` forks once, in whatever thread and frame it is called. The parent goes on; `children()` waits in the end.
SETUP = (
    FORKING
    + """
pids = []
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece, beside another process

def here(*_):
    if not pids:
        pids.append(child())

def hook(src, dst):
    here()
    dst.write_bytes(src.read_bytes())
hook.key = "forking"

def child():
    return forked(work)

def unwinding():
    if (pid := os.fork()) == 0:
        pids.append(0)
        sys.exit(5)  # as a script may that knows nothing of us: through every frame of ours
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the parent goes on once the child has done what it can do
    return pid

def returning():
    if (pid := os.fork()) == 0:
        pids.append(0)
        return 0  # and on with our frames, as its parent does
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

def in_a_thread(call):
    def run():
        try:
            say("parent", call().stat().st_size)
        except SystemExit:  # the child's: a thread would swallow it
            os._exit(5)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

def children():
    for pid in pids:
        if pid == 0:  # the child's own list
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say("ended", code)
"""
)
CALLS = {
    "a download": "nanocache.fetch(url, progress=here)",
    "a hook": "nanocache.fetch(url, postprocess=hook)",
    "a task": "asyncio.run(nanocache.afetch(url, progress=here))",
    "a hook of many": "nanocache.fetch_many([nanocache.Artifact(url, postprocess=hook)])[0]",
}
WORK = {
    "fetches the same": "say('child', nanocache.fetch(url).stat().st_size)",
    "fetches another": "say('child', nanocache.fetch(other).stat().st_size)",
    "vanishes": "os._exit(0)",
}
SIZE = 2 * MIB


@pytest.fixture
def urls(origin: Origin) -> dict[str, str]:
    return {
        "url": origin.url(f"/bytes/{SIZE}/1/w.bin?rate={8 * MIB}"),
        "other": origin.url("/bytes/1000/2/other.bin"),
    }


@pytest.mark.parametrize("where", ["the main thread", "a thread"])
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("call", CALLS)
def test_a_child_of_the_thread_that_works_fetches_and_its_parent_goes_on(
    call: str, work: str, where: str, base: Path, origin: Origin, urls: dict[str, str], spawn: Callable[..., Any]
) -> None:
    run = (
        f"in_a_thread(lambda: {CALLS[call]})" if where == "a thread" else f"say('parent', {CALLS[call]}.stat().st_size)"
    )
    (told,) = spawn(f"def work(): {WORK[work]}\n{run}\nchildren()", setup=SETUP, **urls).outputs()
    child = {"fetches the same": [f"child {SIZE}"], "fetches another": ["child 1000"], "vanishes": []}[work]
    assert sorted(told.splitlines()) == sorted([*child, f"parent {SIZE}", "ended 0"])
    check_visible(base)
    assert not orphans(base)
    assert origin.gets(f"/bytes/{SIZE}/1/w.bin") == 1


@pytest.mark.parametrize("where", ["the main thread", "a thread"])
@pytest.mark.parametrize("call", ["a download", "a hook"])
def test_a_child_that_unwinds_through_our_frames_takes_nothing_from_its_parent(
    call: str, where: str, base: Path, origin: Origin, urls: dict[str, str], spawn: Callable[..., Any]
) -> None:
    """`sys.exit` in a child, as a script may that knows nothing of us."""
    run = (
        f"in_a_thread(lambda: {CALLS[call]})" if where == "a thread" else f"say('parent', {CALLS[call]}.stat().st_size)"
    )
    (ended,) = spawn(f"child = unwinding\n{run}\nchildren()", setup=SETUP, **urls).finish()
    assert ended.code == 0, ended.err
    assert sorted(ended.out.splitlines()) == sorted([f"parent {SIZE}", "ended 5"])
    assert nanocache.fetch(urls["url"]).stat().st_size == SIZE
    check_visible(base)
    assert not orphans(base)
    assert origin.gets(f"/bytes/{SIZE}/1/w.bin") == 1


def test_a_child_that_goes_on_in_our_frames_downloads_for_itself(
    base: Path, origin: Origin, urls: dict[str, str], spawn: Callable[..., Any]
) -> None:
    """A callback that forks and returns twice: neither spoils the other's bytes."""
    run = f"say('got', {CALLS['a download']}.stat().st_size)"
    (ended,) = spawn(f"child = returning\n{run}\nchildren()", setup=SETUP, **urls).finish()
    assert ended.code == 0, ended.err
    assert sorted(ended.out.splitlines()) == ["ended 0", f"got {SIZE}", f"got {SIZE}"]
    check_visible(base)
    assert not orphans(base)
