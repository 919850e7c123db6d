"""What a person sees while bytes come or another process is waited for: on a real terminal, and nowhere else."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import platform
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, Progress
from tests.servers import misbehave as m
from tests.servers.origin import MIB, Origin

Fetch = Callable[..., Path]

RATE = 1_000_000  # bytes a second
SIZE = 500_000  # so that it takes longer than a bar takes to appear
SLOW = f"/bytes/{SIZE}/1/weights.bin?rate={RATE}"
QUICK = "/bytes/1000/1/small.bin"


class Shown:
    """A snippet in a process of its own whose stderr is a terminal, or a pipe."""

    def __init__(self, code: str, *, terminal: bool = True, columns: int = 100, **environment: str) -> None:
        command = [sys.executable, "-W", "error", "-c", "import nanocache, sys, threading\n" + code]
        self._own, other = _window(columns) if terminal else os.pipe()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=other, env=os.environ | environment
        )
        os.close(other)

    def end(self) -> tuple[str, str]:
        """What it wrote: (stdout, stderr)."""
        seen = b""
        with open(self._own, "rb", buffering=0) as screen:
            while piece := _piece(screen):
                seen += piece
        out = self._process.communicate(timeout=60)[0].decode().strip()
        assert self._process.returncode == 0, seen.decode()
        return out, seen.decode()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> bool:
        """Whether it printed that it begins."""
        assert self._process.stdout is not None
        return self._process.stdout.readline() == b"ready\n"

    def first_sign(self) -> float:
        """Seconds until something stands on the terminal."""
        began = time.monotonic()
        assert select.select([self._own], [], [], 30)[0]
        return time.monotonic() - began


def _window(columns: int) -> tuple[int, int]:
    own, other = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))  # a new one has no columns at all
    return own, other


def _piece(screen: Any) -> bytes:
    try:
        return bytes(screen.read(65536))
    except OSError:  # EIO: Linux's word for the last process having left a terminal
        return b""


def stderr(code: str, **options: Any) -> str:
    return Shown(code, **options).end()[1]


def fetching(url: str, options: str = "") -> str:
    return f"nanocache.fetch({url!r}, {options})"


# --- when -------------------------------------------------------------------------------------------------------------


def test_silence_where_stderr_is_no_terminal(base: Path, origin: Origin) -> None:
    assert stderr(fetching(origin.url(SLOW)), terminal=False) == ""


def test_a_bar_on_a_terminal(base: Path, origin: Origin) -> None:
    seen = stderr(fetching(origin.url(SLOW)))
    assert "weights.bin: " in seen
    assert "100%" in seen
    assert "488k/488k" in seen  # of 1,024 bytes each
    assert not re.search(r"\x1b\[[0-9;]*m", seen)  # no colour that NO_COLOR would have to forbid
    assert seen.endswith("\r\n")
    assert "?rate" not in seen


def test_no_bar_for_what_is_over_at_once_or_here_already(base: Path, origin: Origin) -> None:
    assert stderr(fetching(origin.url(QUICK))) == ""
    nanocache.fetch(origin.url(SLOW))
    assert stderr(fetching(origin.url(SLOW))) == ""


READY = "nanocache.fetch('file:///etc/hosts', progress=False); print('ready', flush=True); "  # all is imported


@pytest.mark.parametrize("call", ["nanocache.fetch({0!r})", "nanocache.fetch_many([{0!r}])"])
def test_the_first_sign_comes_within_a_second_and_more_follow_whatever_is_waited_for(
    base: Path, misbehaving: Callable[..., Any], call: str
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    later = b"HTTP/1.1 503 No\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
    full = m.raw(answer + b"hello")
    handlers = {
        "head": m.raw(3.0, answer + b"hello"),
        "body": m.raw(answer, 3.0, b"hello"),
        "pause": m.in_turn(m.raw(later), full),
    }
    urls = {wait: misbehaving().route("/weights.bin", handler) for wait, handler in handlers.items()}
    shown = {wait: Shown(READY + call.format(url)) for wait, url in urls.items()}

    def look(one: Shown) -> tuple[float, str]:
        assert one.ready()
        return one.first_sign(), one.end()[1]

    with ThreadPoolExecutor(len(shown)) as lookers:  # at all of them at once
        for wait, (seconds, seen) in zip(shown, lookers.map(look, shown.values()), strict=True):
            assert seconds < 2, wait  # a busy machine
            assert re.search(r"(weights.bin|0/1 files): .*00:01.*00:02", seen, re.DOTALL), wait


@pytest.mark.parametrize("name", ["w.bin", "a-very-long-name-of-weights-that-has-no-room-" + "x" * 60 + ".safetensors"])
@pytest.mark.parametrize("length", ["known", "unknown"])
def test_a_bar_fits_into_sixty_columns(base: Path, misbehaving: Callable[..., Any], name: str, length: str) -> None:
    size = SIZE if length == "known" else None
    first = b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + (b"Content-Length: %d\r\n" % size if size else b"") + b"\r\n"
    pieces = [step for _ in range(10) for step in (bytes(SIZE // 10), 0.1)]
    url = misbehaving().route("/" + name, m.raw(first, *pieces, m.FIN))
    seen = stderr(f"import logging; logging.disable(50); {fetching(url)}", columns=60)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", seen) if line.strip()]
    assert max(map(len, lines)) <= 60
    assert all("B/s" in line for line in lines)
    assert all(line.startswith(name[:4]) for line in lines)
    begun = [line for line in lines if ": 0.00B [" not in line]  # on a busy machine it shows that it waits, before
    assert ("%" in begun[0]) == (length == "known")
    assert "100%" in lines[-1]


@pytest.mark.parametrize("gone", ["os.close(2); sys.stderr = None", "sys.stderr.close()"])
@pytest.mark.parametrize("wait", [0.0, 1.5])  # the bar is drawn by the thread that downloads, or by its signs of life
def test_a_bar_without_a_stream_is_no_reason_to_fail(
    base: Path, misbehaving: Callable[..., Any], gone: str, wait: float
) -> None:
    pieces = [step for _ in range(5) for step in (bytes(SIZE // 5), 0.2)]
    url = misbehaving().route("/w.bin", m.raw(wait, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE, *pieces))
    code = f"import os; {gone}; print({fetching(url, 'progress=True')}.stat().st_size)"
    assert Shown(code, terminal=False).end()[0] == str(SIZE)


def test_a_terminal_that_goes_away_is_no_reason_to_fail(base: Path, origin: Origin) -> None:
    shown = Shown(f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); print({fetching(origin.url(SLOW))})")
    shown.first_sign()
    os.close(shown._own)
    out, _ = shown._process.communicate(timeout=60)
    assert out.strip().endswith(b"weights.bin")


@pytest.mark.parametrize(
    ("terminal", "options", "environment", "shown"),
    [
        (True, "", {"NANOCACHE_PROGRESS": "0"}, False),
        (True, "", {"NANOCACHE_PROGRESS": "auto"}, True),
        (True, "", {"TQDM_DISABLE": "1"}, False),
        (True, "", {"NO_COLOR": "1"}, True),
        (True, "progress=False", {"NANOCACHE_PROGRESS": "1"}, False),
        (True, "progress=lambda progress: None", {}, False),
        (False, "", {"NANOCACHE_PROGRESS": "1"}, True),
        (False, "progress=True", {"NANOCACHE_PROGRESS": "0"}, True),
    ],
)
def test_the_call_the_environment_and_the_terminal_decide(
    base: Path, origin: Origin, terminal: bool, options: str, environment: dict[str, str], shown: bool
) -> None:
    seen = stderr(fetching(origin.url(SLOW), options), terminal=terminal, **environment)
    assert ("weights.bin" in seen) is shown
    assert shown or not seen
    assert "\x1b[3" not in seen


def test_tqdms_own_variables_hold(base: Path, origin: Origin) -> None:
    seen = stderr(fetching(origin.url(SLOW)), TQDM_NCOLS="80", TQDM_ASCII=" x")
    lines = [line for line in seen.split("\r") if "%" in line]  # what is shown before the size is known is shorter
    assert {len(line.rstrip("\n")) for line in lines} == {80}
    assert "xx" in seen


def test_stderr_may_be_closed_or_no_file_at_all(base: Path, origin: Origin) -> None:
    logger = "type('Logger', (), {'write': print, 'flush': lambda self: None})()"
    for stand_in in ("None", logger, "open('/dev/null', 'w')\nsys.stderr.close()"):
        code = f"sys.stderr = {stand_in}\n{fetching(origin.url(QUICK), 'rehash=True')}\nprint('here')"
        assert Shown(code, terminal=False).end() == ("here", "")


def test_a_task_shows_a_bar_too(base: Path, origin: Origin) -> None:
    seen = stderr(f"import asyncio; asyncio.run(nanocache.afetch({origin.url(SLOW)!r}))")
    assert "weights.bin: " in seen
    assert "100%" in seen


def test_a_set_has_one_bar(base: Path, origin: Origin) -> None:
    urls = [origin.url(f"/bytes/{SIZE}/{n}/shard{n}.bin?rate={RATE}") for n in range(3)]
    artifacts = ", ".join(f"nanocache.Artifact({url!r}, size={SIZE})" for url in urls)
    seen = stderr(f"nanocache.fetch_many([{artifacts}])")
    assert re.search(r"[012]/3 files: +\d+%", seen)
    assert "3/3 files: 100%" in seen
    assert "shard" not in seen


def test_a_failure_takes_the_bar_down(base: Path, origin: Origin) -> None:
    code = f"""
try: {fetching(origin.url(SLOW), f"sha256={'0' * 64!r}")}
except nanocache.ChecksumMismatch: print('mismatch', file=sys.stderr)"""
    assert re.search(r"weights\.bin: 100%[^\n]*\r\nmismatch\r\n\Z", stderr(code))


# --- who --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(spawn: Callable[..., Any], base: Path, origin: Origin) -> Any:
    """A process without a terminal that downloads `SLOW`ly, for two seconds, and has begun."""
    group = spawn("nanocache.fetch(url)", 1, url=_slower(origin))
    while not origin.requests():
        time.sleep(0.01)
    return group


def _slower(origin: Origin) -> str:
    return origin.url(f"/bytes/{2 * RATE}/1/weights.bin?rate={RATE}")


def test_a_waiters_line_names_the_holder_and_only_on_local_rank_0(spawn: Any, base: Path, origin: Origin) -> None:
    url, records = _slower(origin), str(base / "locks-v1/*/*.json")
    waits = f"import glob, time\nprint('ready', flush=True)\nwhile not glob.glob({records!r}): time.sleep(0.01)\n"
    shown = [Shown(waits + fetching(url), LOCAL_RANK=rank) for rank in "01"]
    assert all(one.ready() for one in shown)
    holder = spawn("nanocache.fetch(url)", url=url)
    first, second = (one.end()[1] for one in shown)
    assert f"weights.bin (pid {holder.processes[0].pid} on {platform.node()}): " in first
    assert re.search(r"\d+%.*[\d.]+[kM]?/1\.91M .*B/s", first)
    assert second == ""
    holder.outputs()
    assert origin.gets() == 1


def test_whoever_downloads_shows_it_whatever_its_rank(base: Path, origin: Origin) -> None:
    assert "weights.bin: " in stderr(fetching(origin.url(SLOW)), LOCAL_RANK="3")


def test_a_waiters_callback_is_told_the_holder(holder: Any, origin: Origin) -> None:
    told: list[Progress] = []
    nanocache.fetch(_slower(origin), progress=told.append)
    assert {one.holder for one in told} == {f"pid {holder.processes[0].pid} on {platform.node()}"}
    assert {one.total for one in told if one.done} == {2 * RATE}
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[-1].done > 0


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_a_callback_gets_progress_from_the_first_byte_to_the_last(fetch: Fetch, base: Path, origin: Origin) -> None:
    told: list[Progress] = []
    fetch(origin.url(f"/bytes/{4 * MIB}/1/weights.bin?rate={12 * MIB}"), progress=told.append)
    assert all(type(one) is Progress for one in told)
    assert {(one.name, one.total, one.holder) for one in told} == {("weights.bin", 4 * MIB, None)}
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[-1].done == 4 * MIB
    assert 2 <= len(told) <= 30  # ten a second


def test_a_callback_is_told_of_a_small_file_and_not_of_a_hit(fetch: Fetch, base: Path, origin: Origin) -> None:
    told: list[Progress] = []
    for _ in range(2):
        fetch(origin.url(QUICK), progress=told.append)
    assert told[-1] == Progress("small.bin", 1000, 1000)
    assert len(told) <= 2


def test_an_unknown_size_is_none(fetch: Fetch, base: Path, misbehaving: Callable[..., Any]) -> None:
    from tests.servers.misbehave import chunked

    told: list[Progress] = []
    fetch(misbehaving().route("/stream.bin", chunked(bytes(300_000))), progress=told.append)
    assert told[0].total is None
    assert told[-1].done == 300_000


def test_a_set_tells_a_callback_its_sum(base: Path, origin: Origin) -> None:
    told: list[Progress] = []
    artifacts = [Artifact(origin.url(f"/bytes/{n * 1000}/1/{n}.bin"), size=n * 1000) for n in (1, 2, 3)]
    nanocache.fetch_many(artifacts, progress=told.append)
    assert told[-1] == Progress("3/3 files", 6000, 6000)


class Stop(Exception):
    """Of the caller's own."""


# Each also means something to what runs below the callback, and must not be taken for that.
OWN = [
    Stop("enough"),
    ValueError("no"),
    FileNotFoundError(errno.ENOENT, "gone"),
    OSError(errno.ENOSPC, "full"),
    OSError(errno.EIO, "broken"),
    ConnectionResetError("reset"),
    TimeoutError("late"),
    nanocache.DownloadFailed(url="u", causes=(("u", "of a fetch in the callback"),)),
    nanocache.NotCached(url="u", base_dir="b"),
    nanocache.NoSpace(path="elsewhere"),
]


def raising(error: BaseException, once: threading.Event | None = None) -> Callable[[Progress], None]:
    def callback(_: Progress) -> None:
        if once is not None:
            once.set()
            time.sleep(0.2)  # others join meanwhile
        raise error

    return callback


@pytest.mark.parametrize("error", OWN, ids=repr)
@pytest.mark.parametrize("way", ["fetch", "afetch", "fetch_many"])
def test_an_error_of_a_callback_comes_out_as_it_was_raised(
    way: str, error: Exception, base: Path, origin: Origin
) -> None:
    url = origin.url(QUICK)
    with pytest.raises(type(error)) as e:
        if way == "fetch":
            nanocache.fetch(url, progress=raising(error))
        elif way == "afetch":
            asyncio.run(nanocache.afetch(url, progress=raising(error)))
        else:
            nanocache.fetch_many([url], progress=raising(error))
    assert e.value is error
    assert nanocache.fetch(url).stat().st_size == 1000


@pytest.mark.parametrize("error", [OWN[0], OWN[-3]], ids=repr)
def test_an_error_of_a_callback_is_that_of_its_own_caller_alone(error: Exception, base: Path, origin: Origin) -> None:
    url, joined = origin.url(QUICK), threading.Event()
    failed: list[BaseException] = []

    def first() -> None:
        try:
            nanocache.fetch(url, progress=raising(error, joined))
        except Exception as e:
            failed.append(e)

    thread = threading.Thread(target=first)
    thread.start()
    assert joined.wait(10)
    assert nanocache.fetch(url).stat().st_size == 1000
    thread.join()
    assert failed == [error]


@pytest.mark.parametrize("error", [OWN[0], OWN[-3]], ids=repr)
def test_an_error_of_a_tasks_callback_is_that_of_its_own_task_alone(
    error: Exception, base: Path, origin: Origin
) -> None:
    async def all_of_them() -> list[object]:
        url = origin.url(QUICK)
        first = asyncio.create_task(nanocache.afetch(url, progress=raising(error, threading.Event())))
        await asyncio.sleep(0)
        others = [nanocache.afetch(url) for _ in range(3)]
        return list(await asyncio.gather(first, *others, return_exceptions=True))

    first, *others = asyncio.run(all_of_them())
    assert first is error
    assert all(isinstance(one, Path) for one in others)


def test_an_error_of_a_callback_is_not_left_for_other_processes(base: Path, origin: Origin, spawn: Any) -> None:
    url = origin.url(QUICK)
    code = """
def callback(_):
    if INDEX:
        return
    time.sleep(0.5)
    raise nanocache.NotCached(url="u", base_dir="b")
time.sleep(0.2 * INDEX)
try:
    print(nanocache.fetch(url, progress=callback).stat().st_size)
except nanocache.NotCached:
    print("own")
"""
    assert spawn(code, 3, setup="import nanocache, time", url=url).outputs() == ["own", "1000", "1000"]


def test_a_progress_is_a_value() -> None:
    one = Progress("a.bin", 1, None)
    assert one == Progress(name="a.bin", done=1, total=None, holder=None)
    with pytest.raises(AttributeError):
        one.done = 2  # type: ignore[misc]


# --- what a bar leaves behind -----------------------------------------------------------------------------------------


def test_a_bar_starts_no_thread_and_no_semaphore(base: Path, origin: Origin) -> None:
    code = f"""
{fetching(origin.url(SLOW))}
import tqdm
print([thread.name for thread in threading.enumerate()], tqdm.tqdm.monitor, 'multiprocessing' in sys.modules)"""
    out, seen = Shown(code).end()
    assert "weights.bin: " in seen
    assert out == "['MainThread'] None False"


def test_an_applications_own_bars_are_left_alone(base: Path, origin: Origin) -> None:
    code = f"""
import tqdm
before = tqdm.tqdm.monitor_interval, tqdm.tqdm._instances, tqdm.tqdm.get_lock()
{fetching(origin.url(SLOW))}
print((tqdm.tqdm.monitor_interval, tqdm.tqdm._instances, tqdm.tqdm.get_lock()) == before)"""
    assert Shown(code).end()[0] == "True"


def test_a_bar_that_nobody_sees_costs_no_import(base: Path, origin: Origin) -> None:
    code = f"{fetching(origin.url(SLOW))}\nprint('tqdm' in sys.modules)"
    assert Shown(code, terminal=False).end()[0] == "False"


def test_cancelling_takes_the_bar_down(base: Path, origin: Origin, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        url = origin.url(f"/bytes/{30 * RATE}/1/weights.bin?rate={RATE}")
        task = asyncio.create_task(nanocache.afetch(url, progress=True))
        await asyncio.sleep(0.8)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.5)

    asyncio.run(main())
    seen = capfd.readouterr().err
    assert "weights.bin: " in seen
    assert seen.endswith("\n")
