"""Pruning at its worst: killed at any file call, failing at any, and beside fetches, readers and kills."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanocache import Cache, NanocacheError
from nanocache.retention.survey import Survey
from tests.faults.calls import Calls, fail
from tests.faults.checks import rounds
from tests.servers.origin import Origin, content
from tests.upkeep.conftest import Filled, made_old

PRUNE = """
from tests.faults.calls import Calls, die
Calls(base, before=die(at=at)).install()
nanocache.Cache(base).prune(max_size=0, older_than=0)
"""


def again(base: Path, place: Path) -> Path:
    subprocess.run(["cp", "-a", base, place], check=True)
    return place


def counted(base: Path) -> int:
    with Calls(base) as calls:
        Cache(base).prune(max_size=0, older_than=0)
    return len(calls.seen)


def check(base: Path, filled: Filled) -> None:
    """What is there is right, and what is not is fetched."""
    cache = Cache(base)
    assert cache.verify().sound
    assert cache.fetch(filled.url).read_bytes() == content(50_000, "weights")
    assert (cache.snapshot("hf://owner/name") / "config.json").read_bytes() == b"{}"
    made_old(base, 100)
    assert cache.prune(max_size=0).size == 0


@pytest.mark.timeout(600)
def test_killed_at_any_file_call_the_cache_is_valid(
    filled: Filled, base: Path, memory: Path, spawn: Callable[..., Any]
) -> None:
    made_old(base, 100)
    total = counted(again(base, memory / "counted"))
    for at in range(1, total + 1, rounds(17, 1)):
        copy = again(base, memory / "copy")
        ended = spawn(PRUNE, base=str(copy), at=at).finish()[0]
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        check(copy, filled)
        shutil.rmtree(copy)


@pytest.mark.timeout(600)
def test_whatever_file_call_fails_the_cache_is_valid(filled: Filled, base: Path, memory: Path) -> None:
    made_old(base, 100)
    total = counted(again(base, memory / "counted"))
    codes = (errno.EIO, errno.ENOSPC, errno.EACCES)
    for at in range(1, total + 1, rounds(11, 1)):
        copy = again(base, memory / f"copy{at}")
        try:
            with Calls(copy, before=fail(codes[at % 3], at=at)):
                Cache(copy).prune(max_size=0, older_than=0)
        except (OSError, NanocacheError):
            pass
        check(copy, filled)
        shutil.rmtree(copy)


FETCHER = """
import hashlib, random, time
cache, end = nanocache.Cache(), time.monotonic() + seconds
rng = random.Random(INDEX)
while time.monotonic() < end:
    first = int(time.monotonic() * 10)    # what is wanted moves on, and comes again
    url, sha256 = urls[(first + rng.randrange(5)) % len(urls)]
    path = cache.fetch(url, sha256=sha256, progress=False)
    with open(path, "rb") as file:      # a returned path opens
        assert hashlib.sha256(file.read()).hexdigest() == sha256
print("done")
"""

PRUNER = """
import time
from nanocache.retention import reasons
reasons.GRACE = grace
end = time.monotonic() + seconds
cache = nanocache.Cache()
while time.monotonic() < end:
    cache.prune(max_size=cap)
print("done")
"""


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_no_returned_path_fails_to_open_beside_prunes_and_kills(
    base: Path, origin: Origin, spawn: Callable[..., Any]
) -> None:
    bodies = [content(200_000 + n, n) for n in range(30)]
    urls = [(origin.add(f"/{n}.bin", body), hashlib.sha256(body).hexdigest()) for n, body in enumerate(bodies)]
    seconds, cap, setup = (
        rounds(5, 60),
        1_000_000,
        "import nanocache\nfrom nanocache.store import recency\nrecency.RECENT = 0.5",
    )
    fetchers = spawn(FETCHER, 4, urls=urls, seconds=seconds, setup=setup)
    victims = [spawn(FETCHER, 1, urls=urls, seconds=100, setup=setup) for _ in range(2)]
    pruners = spawn(PRUNER, 2, cap=cap, seconds=seconds, grace=1.0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.6)
        victim = random.choice(victims).processes[0]
        if victim.poll() is None:
            victim.send_signal(signal.SIGKILL)
            victims.append(spawn(FETCHER, 1, urls=urls, seconds=100, setup=setup))
    for victim in victims:
        victim.processes[0].kill()
        victim.processes[0].wait()
    assert fetchers.outputs() == ["done"] * 4
    assert pruners.outputs() == ["done"] * 2
    made_old(base, 100)
    assert Cache(base).prune(max_size=cap).size <= cap
    assert Cache(base).verify().sound
    assert Survey(Cache(base).store).size <= cap
    assert max(origin.gets(f"/{n}.bin") for n in range(30)) > 1  # things did go, and came back
