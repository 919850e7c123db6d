"""Ctrl-C at any line, and SIGINT and SIGTERM at any moment: no lock is kept, nothing hangs, the bytes so far are kept.

The first half raises KeyboardInterrupt by a trace function at one line of ours after the other, which is everywhere
where the interpreter may raise it. The second half sends real signals to real processes. What a forked child keeps of
its parent is told by `tests/test_fork.py`.
"""

from __future__ import annotations

import asyncio
import dis
import io
import linecache
import os
import random
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import nanocache
from benchmarks.origin import MIB, Origin, content, digest
from nanocache.unpack import Unpack
from tests.conftest import Processes
from tests.faults.checks import SOAK, check_visible, nothing_leaks, orphans, rounds, sweep_all

SMALL, LARGE = content(5000, 1), content(3 * MIB, 1)
OURS = str(Path(nanocache.__file__).parent)


# --- at any line ------------------------------------------------------------------------------------------------------


class Interrupt:
    """Raises KeyboardInterrupt at the `at`-th line of ours that this thread executes in the block; counts them."""

    def __init__(self, at: int | None = None) -> None:
        self.lines, self._at, self.where = 0, at, ""
        self.releasing = False  # it struck where a lock is let go, which no program can do in no time

    def __enter__(self) -> Interrupt:
        sys.settrace(self._frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _frame(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and may_interrupt(frame.f_code, frame.f_lasti):
            self.lines += 1
            if self.lines == self._at:
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {text}"
                self.releasing = frame.f_code.co_name == "release" or text == "vigil.release()"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


@lru_cache(maxsize=1 << 16)
def may_interrupt(code: CodeType, offset: int) -> bool:
    """Whether the interpreter may raise at this instruction: not at a `try:`, nor at the end of a `with` block.

    It looks at signals after calls and at jumps back; a trace function can raise where nothing was executed yet.
    """
    ahead = [one for one in dis.get_instructions(code) if offset <= one.offset < offset + 12]
    leaving = [one.opname.startswith("LOAD_CONST") and one.argval is None for one in ahead]
    return ahead[0].opname != "NOP" and not any(all(leaving[n : n + 3]) for n in range(len(leaving) - 2))


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


def interrupted(call: Do, at: int) -> tuple[Interrupt, BaseException | None, Any]:
    with Interrupt(at) as interrupt:
        try:
            return interrupt, None, call()
        except KeyboardInterrupt as e:
            return interrupt, e, None


def consequences(calls: tuple[Do, Do, Callable[[Any], bool]], base: Path, at: int) -> str | None:
    """What is not as it should be after an interruption at that line."""
    before, call, right = calls
    again(base, before)
    interrupt = Interrupt()
    try:
        with nothing_leaks(on=".lock"):  # Python has no way to open a file and own it in one step
            interrupt, error, result = interrupted(call, at)
            assert error is not None or not interrupt.where or right(result), "it was swallowed"
            check_visible(base, foreign="w")
            began = time.monotonic()
            assert right(in_time(call))  # while the traceback lives, as it does in a notebook
            took = time.monotonic() - began
            assert took < 4, f"the next call took {took:.1f} s"
            del error, result
        check_visible(base, foreign="w")
        sweep_all(base)
        assert not orphans(base)
    except Exception as e:
        if not interrupt.releasing or "hangs" in str(e):
            return f"after {interrupt.where}: {type(e).__name__}: {e}"
    return None


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
    before, call, right = calls[name]
    again(base, before)
    with Interrupt() as undisturbed:
        assert right(call())
    lines = list(range(1, undisturbed.lines + 1))
    if not SOAK:
        lines = sorted(random.Random(name).sample(lines, min(len(lines), 20 if name == "afetch" else 60)))
    found = [consequences(calls[name], base, at) for at in lines]
    assert not any(found), "\n".join(filter(None, found))


@quiet
@pytest.mark.timeout(3600 if SOAK else 300)
def test_threads_that_waited_for_an_interrupted_one_get_the_file(base: Path, origin: Origin) -> None:
    """The main thread leads, is interrupted at some line, and the others take over, wherever that was."""
    url = origin.url("/bytes/5000/1/s.bin?delay=0.02")
    again(base, lambda: nanocache.Cache().store.prepare())
    with Interrupt() as undisturbed:
        nanocache.fetch(url)
    lines = list(range(1, undisturbed.lines + 1))
    for at in lines if SOAK else sorted(random.Random(0).sample(lines, 40)):
        again(base, lambda: nanocache.Cache().store.prepare())
        got: list[Any] = []

        def join(got: list[Any] = got) -> None:
            time.sleep(0.01)
            got.append(nanocache.fetch(url).read_bytes())

        threads = [threading.Thread(target=join, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        interrupt, _, _ = interrupted(lambda: nanocache.fetch(url), at)
        for thread in threads:
            thread.join(10)
        assert got == [SMALL] * 3, f"after an interruption at {interrupt.where}"


# --- at any moment ----------------------------------------------------------------------------------------------------

SETUP = """
import asyncio, signal, sys, nanocache
from nanocache import http, transfer
from nanocache.unpack import Unpack
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


@pytest.fixture
def slow_urls(origin: Origin) -> list[str]:
    body = content(2 * MIB, "interrupted")
    return [origin.add(f"/{n}.bin", body + b"!" * n, rate=rate) for n, rate in ((0, 4 * MIB), (1, 20 * MIB))]


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
        code = f"{handler}\n{WORK[work]}\nprint('done')"
        group = spawn(code, setup=SETUP, url=url, other=other)
        time.sleep(chance.uniform(0.05, 0.6))
        os.kill(group.processes[0].pid, number)
        ended = group.finish(timeout=10)[0]
        assert ended.out == "done" or ended.code in (-number, 130, 3, 1), ended
        assert "Exception ignored" not in ended.err
        check_visible(base)
        kept = [path for path in orphans(base) if (path / "state.json").exists()]
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
