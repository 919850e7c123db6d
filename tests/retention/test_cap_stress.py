"""A cap at its worst: fetchers, readers and prunes beside each other, a kill a second, and a kill at any file call."""

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

import nanocache
from nanocache import Cache
from nanocache.cancel import Cancel
from nanocache.retention.books import Books
from tests.faults.calls import Calls, fail
from tests.faults.checks import nothing_leaks, rounds
from tests.faults.test_interruptions import AfterCall, interrupted
from tests.retention.capped import noted, on_disk, sampled
from tests.servers.origin import Origin, content, digest
from tests.upkeep.conftest import made_old

KIB = 1024
Spawn = Callable[..., Any]

# Marks are a second old at most when a path is returned, and nothing goes within two.
SETUP = """
import hashlib, random, time
import nanocache
from nanocache.retention import reasons
from nanocache.store import recency
reasons.GRACE, recency.RECENT, SURE = 2.0, 1.0, 0.9
"""

WORK = """
cache, end, chance = nanocache.Cache(), time.monotonic() + seconds, random.Random(INDEX)
opened = 0
while time.monotonic() < end:
    url, sha256 = urls[(int(2 * time.monotonic()) + chance.randrange(6)) % len(urls)]   # what is wanted moves on
    began = time.monotonic()
    try:
        path = ASK
    except nanocache.NoSpace as e:
        assert "NANOCACHE_MAX_SIZE" in str(e), e
        time.sleep(0.01)
        continue
    if path is None:
        time.sleep(0.002)
        continue
    try:
        with open(path, "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == sha256
        opened += 1
    except FileNotFoundError:
        assert time.monotonic() - began > SURE, f"{path} did not open within its grace"
print(opened)
"""
FETCH = WORK.replace("ASK", "cache.fetch(url, sha256=sha256, progress=False)")
READ = WORK.replace("ASK", "cache.lookup(url, sha256=sha256)")
PRUNE = """
end = time.monotonic() + seconds
while time.monotonic() < end:
    nanocache.Cache().prune(max_size=cap * 9 // 10)
    time.sleep(1)
"""


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_the_cap_is_kept_beside_readers_prunes_and_kills(
    base: Path, origin: Origin, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    cap, seconds = 2_000_000, rounds(6, 60)
    monkeypatch.setenv("NANOCACHE_MAX_SIZE", str(cap))
    bodies = [content(150_000 + 20_000 * (n % 6), n) for n in range(18)]
    urls = [(origin.add(f"/{n}.bin", body), hashlib.sha256(body).hexdigest()) for n, body in enumerate(bodies)]
    slow = [(f"{url}?rate=300000", sha256) for url, sha256 in urls]
    given = {"setup": SETUP, "cap": cap, "seconds": seconds}
    with sampled(base) as most:
        fetchers = spawn(FETCH, 8, urls=urls, **given)
        readers = spawn(READ, 8, urls=urls, **given)
        pruners = spawn(PRUNE, 2, **given)
        victims = [spawn(FETCH, 1, urls=slow, start=False, **given | {"seconds": 100}) for _ in range(2)]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            victims.append(spawn(FETCH, 1, urls=slow, start=False, **given | {"seconds": 100}))
            victims[-3].start()
            time.sleep(random.uniform(0.3, 1))
            victims[-3].processes[0].send_signal(signal.SIGKILL)
        for victim in victims[:-2]:
            assert victim.finish()[0].code == -signal.SIGKILL, victim.finish()[0].err
        fetched = [int(out) for out in fetchers.outputs()]
        read = [int(out) for out in readers.outputs()]
        pruners.outputs()
    print(
        f"{sum(fetched)} fetched, {sum(read)} read, {len(victims) - 2} killed, {most[1]} samples, at most {most[0]:,}"
    )
    assert sum(fetched) > len(fetched)  # which of them had room at all is chance
    assert sum(read)
    assert most[0] <= cap
    assert most[1] > 10
    assert max(origin.gets(f"/{n}.bin") for n in range(18)) > 1  # things did go, and came back
    Books(Cache(base).store, cap).count_anew(Cancel())
    assert noted(base) == on_disk(base) <= cap
    assert Cache(base).verify().sound


# --- a kill, and an error, at any file call ---------------------------------------------------------------------------

CAP = 100 * KIB
DIE = """
from tests.faults.calls import Calls, die
Calls(base, before=die(at=at)).install()
nanocache.Cache(base).fetch(url, sha256=sha256)
"""


@pytest.fixture
def full(base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of four files that were not used for long, whose cap leaves no room for one more."""
    monkeypatch.setenv("NANOCACHE_MAX_SIZE", str(CAP))
    for n in range(4):
        nanocache.fetch(origin.url(f"/bytes/{24 * KIB}/{n}/f.bin"), sha256=digest(24 * KIB, n))
    made_old(base, 100)
    return base


def again(base: Path, place: Path) -> Path:
    subprocess.run(["cp", "-a", base, place], check=True)
    return place


def check(base: Path, url: str) -> None:
    """What is there is right, what is not is fetched, and the cap is kept: also by who comes after."""
    assert on_disk(base) <= CAP
    damage = [one.reason for one in Cache(base).verify().damage]
    assert [reason for reason in damage if "what a URL gave" not in reason] == []  # a torn ref counts as none
    with sampled(base) as most:
        assert Cache(base).fetch(url, sha256=digest(30 * KIB, 9)).read_bytes() == content(30 * KIB, 9)
        made_old(base, 100)
        Cache(base).fetch(url.replace("/9/", "/8/"), sha256=digest(30 * KIB, 8))
    assert most[0] <= CAP
    Books(Cache(base).store, CAP).count_anew(Cancel())
    assert noted(base) == on_disk(base)


def counted(base: Path, url: str) -> int:
    with Calls(base) as calls:
        Cache(base).fetch(url, sha256=digest(30 * KIB, 9))
    return len(calls.seen)


@pytest.mark.timeout(600)
def test_a_capped_fetch_that_is_killed_at_any_file_call_leaves_a_valid_cache(
    full: Path, origin: Origin, memory: Path, spawn: Spawn
) -> None:
    url = origin.url(f"/bytes/{30 * KIB}/9/f.bin")
    total = counted(again(full, memory / "counted"), url)
    for at in range(1, total + 1, rounds(37, 1)):
        copy = again(full, memory / "copy")
        ended = spawn(DIE, base=str(copy), at=at, url=url, sha256=digest(30 * KIB, 9)).finish()[0]
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        check(copy, url)
        shutil.rmtree(copy)


@pytest.mark.timeout(600)
def test_whatever_file_call_of_a_capped_fetch_fails_the_cache_is_valid(
    full: Path, origin: Origin, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")
    url = origin.url(f"/bytes/{30 * KIB}/9/f.bin")
    total = counted(again(full, memory / "counted"), url)
    codes = (errno.EIO, errno.ENOSPC, errno.EACCES)
    for at in range(1, total + 1, rounds(11, 1)):
        copy = again(full, memory / f"copy{at}")
        try:
            with nothing_leaks(), Calls(copy, before=fail(codes[at % 3], at=at)):
                Cache(copy).fetch(url, sha256=digest(30 * KIB, 9))
        except (OSError, nanocache.NanocacheError):
            pass
        check(copy, url)
        shutil.rmtree(copy)


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_after_any_file_call_of_a_capped_fetch_leaves_no_promise(
    full: Path, origin: Origin, memory: Path
) -> None:
    url = origin.url(f"/bytes/{30 * KIB}/9/f.bin")
    total = counted(again(full, memory / "counted"), url)
    for at in range(1, total + 1, rounds(11, 1)):
        copy = again(full, memory / f"copy{at}")
        with nothing_leaks(on=str(copy)):
            error, _ = interrupted(
                lambda copy=copy: Cache(copy).fetch(url, sha256=digest(30 * KIB, 9)), AfterCall(copy, at)
            )
            del error
        noted(copy)
        check(copy, url)
        shutil.rmtree(copy)
