"""Ctrl-C at any line, and SIGINT and SIGTERM at any moment: no lock is kept, nothing hangs, the bytes so far are kept.

The first half raises KeyboardInterrupt by a trace function at one line of ours after the other, which is everywhere
where the interpreter may raise it. The second half sends real signals to real processes. What a forked child keeps of
its parent is told by `tests/test_fork.py`.
"""

from __future__ import annotations

import ast
import asyncio
import dis
import gc
import io
import itertools
import linecache
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

import nanocache
from nanocache import cancel
from nanocache.archives.unpack import Unpack
from nanocache.artifact.urls import url_key
from nanocache.coordination import flights
from nanocache.coordination import threads as pool
from nanocache.http import backend, slots
from nanocache.store.layout import lock_key
from tests.conftest import Processes
from tests.faults import in_memory
from tests.faults.calls import Call, Calls
from tests.faults.checks import SOAK, check_visible, nothing_leaks, orphans, rounds, sweep_all
from tests.servers.origin import MIB, Origin, content, digest

SMALL, LARGE, HUGE = content(5000, 1), content(3 * MIB, 1), content(20 * MIB, 1)
OURS = str(Path(nanocache.__file__).parent)
base = in_memory.base


# --- at any line ------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A line of ours on the way that led to it, and how many times it was reached on that way. Runs share them."""

    stack: tuple[str, ...]  # file:line, innermost first
    time: int  # from 1

    @property
    def text(self) -> str:
        name, line = self.stack[0].split(":")
        return linecache.getline(f"{OURS}/{name}", int(line)).strip()

    def __str__(self) -> str:
        return f"{self.text} ({' < '.join(self.stack)}, time {self.time})"


class Interrupt:
    """Raises KeyboardInterrupt where this thread comes to `at` in the block; notes all places that it comes to."""

    def __init__(self, at: Place | None = None) -> None:
        self._at, self._times = at, Counter[tuple[str, ...]]()
        self.places: list[Place] = []
        self.struck = self.releasing = False  # releasing: where a lock is let go, which no program can do in no time

    def __enter__(self) -> Interrupt:
        sys.settrace(self._frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def __str__(self) -> str:
        return str(self._at)

    def _frame(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and may_interrupt(frame.f_code, frame.f_lasti):
            stack = tuple(stack_of(frame))
            self._times[stack] += 1
            self.places.append(Place(stack, self._times[stack]))
            if self.places[-1] == self._at:
                self.struck = True
                self.releasing = frame.f_code.co_name == "release" or self._at.text == "waiter.release()"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def stack_of(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        if name := our_name(frame.f_code.co_filename):
            yield f"{name}:{frame.f_lineno}"
        frame = frame.f_back


@cache
def our_name(file: str) -> str:
    """The last part of a file of ours; asked for each frame at each line, and hence remembered."""
    return Path(file).name if file.startswith(OURS) else ""


def chosen(call: Do, name: str, most: int) -> list[Place]:
    """In the soak every way to every line, the first two times; else `most` lines, the same ones in each run.

    The n-th line would be another one in each run: how often one waits, or looks, is chance.
    """
    with Interrupt() as undisturbed:
        call()
    places = [place for place in undisturbed.places if place.time <= 2]
    if SOAK:
        return places
    first = {place.stack[0]: place for place in reversed(places)}
    return sorted(first.values(), key=lambda place: zlib.crc32(f"{name} {place.text}".encode()))[:most]


@lru_cache(maxsize=1 << 16)
def may_interrupt(code: CodeType, offset: int) -> bool:
    """Whether the interpreter may raise at this instruction: not at a `try:`, where a `finally` or `except` begins, nor
    at the end of a `with` block.

    It looks at signals after calls and at jumps back; a trace function can raise where nothing was executed yet.
    """
    line = next(line for start, end, line in code.co_lines() if start <= offset < end)
    if line in beginnings(code.co_filename):
        return False
    ahead = [one for one in dis.get_instructions(code) if offset <= one.offset < offset + 12]
    leaving = [one.opname.startswith("LOAD_CONST") and one.argval is None for one in ahead]
    return ahead[0].opname != "NOP" and not any(all(leaving[n : n + 3]) for n in range(len(leaving) - 2))


@lru_cache
def beginnings(file: str) -> set[int]:
    """The lines of `except` and `finally`, and the first ones in them: nothing is called on the way to them."""
    blocks = [node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.Try)]
    handlers = [handler for block in blocks for handler in block.handlers]
    first = [body[0] for body in (*(h.body for h in handlers), *(b.finalbody for b in blocks)) if body]
    return {node.lineno for node in (*handlers, *first)}


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("a/b.txt", "c.txt"):
            archive.writestr(zipfile.ZipInfo(name), "hello")
    return made.getvalue()


def copied(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes())


Do = Callable[[], Any]


@pytest.fixture
def calls(base: Path, origin: Origin) -> dict[str, tuple[Do, Do, Callable[[Any], bool]]]:
    """(what comes before, what is interrupted, whether its result is right)."""
    small, large, packed = origin.add("/s.bin", SMALL), origin.add("/l.bin", LARGE), origin.add("/p.zip", zipped())
    huge = origin.add("/h.bin", HUGE, rate=40 * MIB)
    sha256 = digest(5000, 1)

    def same(body: bytes) -> Callable[[Any], bool]:
        return lambda path: Path(path).read_bytes() == body

    def fetch(url: str, **options: Any) -> Do:
        return lambda: nanocache.fetch(url, **options)

    def touched() -> None:
        os.utime(nanocache.fetch(small, sha256=sha256))

    def nothing() -> None:
        nanocache.Cache().store.prepare()

    return {
        "fetch": (nothing, fetch(small, sha256=sha256), same(SMALL)),
        "fetch of three MiB": (nothing, fetch(large), same(LARGE)),
        "fetch of twenty MiB": (nothing, fetch(huge), same(HUGE)),
        "hit": (fetch(small, sha256=sha256), fetch(small, sha256=sha256), same(SMALL)),
        "revalidation": (fetch(small), fetch(small, max_age=0), same(SMALL)),
        "lost seal": (touched, fetch(small, sha256=sha256), same(SMALL)),
        "hook": (fetch(small), fetch(small, postprocess=copied), same(SMALL)),
        "unpack": (
            nothing,
            fetch(packed, postprocess=Unpack()),
            lambda path: (path / "a/b.txt").read_text() == "hello",
        ),
        "the seed's call": (nothing, lambda: nanocache.download_file_with_lock(small, "w/s.bin"), same(SMALL)),
        "many": (nothing, lambda: nanocache.fetch_many([small, large, packed])[1], same(LARGE)),
        "afetch": (nothing, lambda: asyncio.run(nanocache.afetch(large)), same(LARGE)),
    }


NAMES = (
    *("fetch", "fetch of three MiB", "hit", "revalidation", "lost seal", "hook", "unpack", "the seed's call", "many"),
    "afetch",
)


def again(base: Path, before: Do) -> None:
    from nanocache import cache

    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    cache._bases.clear()
    cache._spelled.clear()
    before()


class AfterCall:
    """Raises KeyboardInterrupt right after the `at`-th file call of this thread: it is done, what it gave is lost.

    What an `open` gave is closed here, since Python has no way to open a file and own it in one step.
    """

    def __init__(self, base: Path, at: int | None = None) -> None:
        self._calls, self._at, self._thread = Calls(base, after=self._after), at, threading.get_ident()
        self.count, self.struck, self.releasing, self._what = 0, False, False, ""

    def __enter__(self) -> AfterCall:
        self._calls.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.__exit__()

    def _after(self, call: Call, result: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self.count += 1
        if self.count == self._at:
            way = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_stack()[-4::-1]]
            self.struck, self._what = True, f"{call.name}{call.args} in {' < '.join(way[:8])}"
            if call.name == "open":
                os.close(result)
            raise KeyboardInterrupt

    def __str__(self) -> str:
        return f"file call {self._at}, {self._what}"


def interrupted(call: Do, interrupt: Interrupt | AfterCall) -> tuple[BaseException | None, Any]:
    with interrupt:
        try:
            return None, call()
        except KeyboardInterrupt as e:
            return e, None


def consequences(
    calls: tuple[Do, Do, Callable[[Any], bool]], base: Path, interrupt: Interrupt | AfterCall
) -> str | None:
    """What is not as it should be after an interruption there."""
    before, call, right = calls
    again(base, before)
    try:
        # At a line between an open and its owner a descriptor is lost, which no program can help.
        with nothing_leaks(on=".lock" if isinstance(interrupt, Interrupt) else str(base)):
            error, result = interrupted(call, interrupt)
            assert error is not None or not interrupt.struck or right(result), "it was swallowed"
            check_visible(base, foreign="w")
            nothing_stays()
            began = time.monotonic()
            assert right(in_time(call))  # while the traceback lives, as it does in a notebook
            took = time.monotonic() - began
            assert took < 4, f"the next call took {took:.1f} s"
            del error, result
            gc.collect()
            assert not any(slots._slots.used.values()), "it keeps a connection of the origin's"
        check_visible(base, foreign="w")
        sweep_all(base)
        assert not orphans(base)
    except Exception as e:
        if not interrupt.releasing or "hangs" in str(e):
            return f"after {interrupt}: {type(e).__name__}: {e}"
    return None


def nothing_stays() -> None:
    """Nothing that the process keeps is still the interrupted call's: its flight, its places, its cancellation."""
    assert not flights._table, "its flight is still joined"
    assert not +slots._slots.waiting, "it still counts as waiting for a connection"
    alive = sum(thread.name == "nanocache-fetch" for thread in threading.enumerate())
    assert sum(len(each.threads) for each in pool._pools.values()) <= alive, "the pool shrank"
    assert cancel._hooks.get() == cancel._Hooks(None, 0), "its cancellation is the thread's"
    assert not getattr(backend._ours, "active", False), "the logs stay cut"


def in_time(call: Do) -> Any:
    """What the call gives, unless it hangs."""
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(call()), daemon=True)
    thread.start()
    thread.join(30)
    if thread.is_alive():
        raise TimeoutError("the next call hangs")
    return got[0]


quiet = pytest.mark.filterwarnings(  # a socket that an interruption dropped is closed by its destructor
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@quiet
@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_at_any_line_comes_out_and_the_next_call_works_at_once(
    name: str,
    calls: dict[str, tuple[Do, Do, Callable[[Any], bool]]],
    base: Path,
) -> None:
    before, call, _ = calls[name]
    for _cold in (True, False):  # the first time imports, and fills what is remembered for the life of the process
        again(base, before)
        places = chosen(call, name, 8 if name == "afetch" else 24)
    found = [consequences(calls[name], base, Interrupt(at)) for at in places]
    assert not any(found), "\n".join(filter(None, found))


@quiet
@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_right_after_any_file_call_comes_out_and_the_next_call_works_at_once(
    name: str, calls: dict[str, tuple[Do, Do, Callable[[Any], bool]]], base: Path
) -> None:
    before, call, _ = calls[name]
    for _cold in (True, False):
        again(base, before)
        with AfterCall(base) as undisturbed:
            call()
    numbers = range(1, undisturbed.count + 1)
    found = [consequences(calls[name], base, AfterCall(base, at)) for at in numbers]
    assert not any(found), "\n".join(filter(None, found))


@quiet
@pytest.mark.timeout(3600 if SOAK else 300)
def test_threads_that_waited_for_an_interrupted_one_get_the_file(base: Path, origin: Origin) -> None:
    """The main thread leads, is interrupted at some line, and the others take over, wherever that was."""
    url = origin.url("/bytes/5000/1/s.bin?delay=0.02")
    again(base, lambda: nanocache.Cache().store.prepare())
    for at in chosen(lambda: nanocache.fetch(url), "threads", 16):
        again(base, lambda: nanocache.Cache().store.prepare())
        got: list[Any] = []

        def join(got: list[Any] = got) -> None:
            time.sleep(0.01)
            got.append(nanocache.fetch(url).read_bytes())

        threads = [threading.Thread(target=join, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        interrupted(lambda: nanocache.fetch(url), Interrupt(at))
        for thread in threads:
            thread.join(10)
        assert got == [SMALL] * 3, f"after an interruption at {at}"


# --- where a thread begins --------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("which", [1, 2])
def test_ctrl_c_where_a_connections_thread_starts_comes_out_and_keeps_no_place(
    which: int, when: str, calls: dict[str, Any], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Thread.start` waits until the thread runs, and Ctrl-C strikes before, or there."""
    monkeypatch.setenv("NANOCACHE_CONNECTIONS", "2" if which == 2 else "1")
    _, call, right = calls["fetch of twenty MiB"]
    start, started = threading.Thread.start, itertools.count(1)

    def interrupted(thread: threading.Thread) -> None:
        strikes = thread.name == "nanocache-connection" and next(started) == which
        if not strikes or when == "after":
            start(thread)
        if strikes:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, nothing_leaks(on="base"):
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt) as raised:  # its traceback lives until the end
            call()
        nothing_stays()
        assert right(in_time(call))
    del raised
    gc.collect()
    assert not any(slots._slots.used.values())
    check_visible(base)


@quiet
def test_ctrl_c_while_many_are_handed_out_stops_those_that_run(
    base: Path, slow_urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, submitted = pool.ThreadPool.submit, itertools.count(1)

    def interrupted(*args: Any) -> Any:
        if next(submitted) == 3:
            raise KeyboardInterrupt
        return submit(*args)

    monkeypatch.setattr(pool.ThreadPool, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nanocache.fetch_many([*slow_urls, "http://127.0.0.1:1/never.bin"])
    nothing_stays()
    assert not check_visible(base), "it waited for those that ran"


# --- at any moment ----------------------------------------------------------------------------------------------------

SETUP = """
import asyncio, signal, sys, nanocache
from nanocache.http import exchange as http
import nanocache.download.download
from nanocache.archives.unpack import Unpack
import httpx, httpcore

def finish(*_):
    sys.exit(3)

def slow(src, dst):
    data = src.read_bytes()
    with dst.open("wb") as file:
        for start in range(0, len(data), 300_000):
            file.write(data[start:start + 300_000])
            time.sleep(0.02)
slow.key = "slow"
import time
"""

WORK = {
    "fetch": "nanocache.fetch(url)",
    "afetch": "asyncio.run(nanocache.afetch(url))",
    "fetch_many": "nanocache.fetch_many([url, other])",
    "hook": "nanocache.fetch(other, postprocess=slow)",
    "a thread": "import threading\nt = threading.Thread(target=nanocache.fetch, args=(url,))\nt.start()\nt.join()",
}
SIGNALS = {
    "ctrl-c": (signal.SIGINT, ""),
    "SIGTERM": (signal.SIGTERM, ""),
    "SIGTERM with a handler": (signal.SIGTERM, "signal.signal(signal.SIGTERM, finish)"),
}


INTERRUPTED, RATES = content(2 * MIB, "interrupted"), (4 * MIB, 20 * MIB)


@pytest.fixture
def slow_urls(origin: Origin) -> list[str]:
    return [origin.add(f"/{n}.bin", INTERRUPTED + b"!" * n, rate=rate) for n, rate in enumerate(RATES)]


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("how", SIGNALS)
@pytest.mark.parametrize("work", WORK)
def test_a_signal_at_any_moment_ends_it_soon_and_keeps_the_bytes(
    work: str,
    how: str,
    base: Path,
    origin: Origin,
    slow_urls: list[str],
    spawn: Callable[..., Processes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, other = slow_urls
    number, handler = SIGNALS[how]
    chance = random.Random(f"{work} {how} {SOAK and time.time_ns()}")
    for _ in range(rounds(2, 50)):
        origin.add("/0.bin", INTERRUPTED, rate=RATES[0])
        over = f"signal.signal({int(number)}, signal.SIG_IGN)"  # else it may strike what Python itself does at its end
        code = f"{handler}\n{WORK[work]}\n{over}; print('done')"
        group = spawn(code, setup=SETUP, url=url, other=other)
        time.sleep(chance.uniform(0.02, 0.25 if work == "hook" else 0.55))  # it may be over by then
        group.processes[0].send_signal(number)
        ended = group.finish(timeout=10)[0]
        origin.add("/0.bin", INTERRUPTED)  # nothing interrupts the next call: it need not last
        assert ended.out == "done" or ended.code in (-number, 130, 3, 1), ended
        assert "Exception ignored" not in ended.err
        check_visible(base)
        partials = base / "partials-v1" / lock_key(None, url_key(url))  # not those of `other`
        kept = [path for path in orphans(base) if path.parent == partials and (path / "state.json").exists()]
        caplog.clear()
        before = len(origin.requests())
        assert nanocache.fetch(url).stat().st_size == 2 * MIB
        assert "going on without" not in caplog.text
        first = origin.requests()[before:]
        if kept and first and first[0].path == "/0.bin":
            assert first[0].range, "it began again, with bytes there"
        shutil.rmtree(base / "blobs-v1")
        shutil.rmtree(base / "refs-v1", ignore_errors=True)
        shutil.rmtree(base / "products-v1", ignore_errors=True)
    sweep_all(base)
    assert not orphans(base)
