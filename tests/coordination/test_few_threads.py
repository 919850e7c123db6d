"""Where no thread can be started (`ulimit -u`, a pids cgroup, an ending interpreter) the calling one does the work."""

from __future__ import annotations

import _thread
import asyncio
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import nanocache
from tests.servers.origin import Origin

SIZE = 1000


def copy(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes())


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("nanocache"):
            raise RuntimeError("can't start new thread")
        start(thread)  # the servers'

    def refuse_bare(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(_thread, "start_new_thread", refuse_bare)


@pytest.fixture
def urls(origin: Origin) -> list[str]:
    return [origin.url(f"/bytes/{SIZE}/{n}/a.bin") for n in range(5)]


def test_many_are_fetched_by_the_calling_thread(base: Path, urls: list[str], no_threads: None) -> None:
    assert [path.stat().st_size for path in nanocache.fetch_many(urls)] == [SIZE] * 5


def test_the_first_error_stops_the_rest(base: Path, origin: Origin, urls: list[str], no_threads: None) -> None:
    with pytest.raises(nanocache.DownloadFailed):
        nanocache.fetch_many([origin.url("/none"), *urls])
    assert sum(origin.gets(url.removeprefix(origin.url(""))) for url in urls) == 0


def test_tasks_are_served_by_the_loop_itself(base: Path, urls: list[str], no_threads: None) -> None:
    async def all_of_them() -> list[Path]:
        return list(await asyncio.gather(*(nanocache.afetch(url) for url in urls)))

    assert [path.stat().st_size for path in asyncio.run(all_of_them())] == [SIZE] * 5


def test_a_hook_runs_without_a_heartbeat(base: Path, urls: list[str], no_threads: None) -> None:
    assert nanocache.fetch(urls[0], postprocess=copy).stat().st_size == SIZE


NPROC = """
import asyncio, os, resource
def copy(src, dst):
    dst.write_bytes(src.read_bytes())
copy.key = "copy"
def each(urls, base):
    nanocache.fetch_many(urls[:2], base_dir=base, progress=False)
    asyncio.run(nanocache.afetch(urls[2], base_dir=base))
    nanocache.fetch(urls[3], base_dir=base, postprocess=copy, progress=False)
each(urls, base + "/warm")  # imports what this user's home may hide from another
os.setgid(54322), os.setuid(54322)
resource.setrlimit(resource.RLIMIT_NPROC, (threads + 1, threads + 1))
each(urls, base + "/cold")
print("done")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, with a limit of its own")
@pytest.mark.parametrize("threads", [0, 1])
def test_a_user_who_may_start_few_threads_gets_all_of_it(urls: list[str], spawn: Any, threads: int) -> None:
    with tempfile.TemporaryDirectory() as base:
        os.chown(base, 54322, 54322)
        setup = "import nanocache, encodings.ascii, encodings.idna"
        assert spawn(NPROC, setup=setup, urls=urls, base=base, threads=threads).outputs() == ["done"]
