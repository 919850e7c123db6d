"""A signal handler of the caller's raises: what it raised comes out of the call, at once, whatever the call waits for.

SIGALRM with a handler that raises TimeoutError is the usual time limit, and that is an OSError, as a server's is.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import callers
from nanocache.artifact.urls import origin as origin_of
from nanocache.cancel import Cancel
from nanocache.coordination.lock import try_lock
from nanocache.http import slots
from nanocache.store.layout import lock_key
from tests.faults import test_interruptions as lines
from tests.servers import misbehave as m
from tests.servers.misbehave import Misbehaving
from tests.servers.origin import Origin

Servers = Callable[..., Misbehaving]
Wait = Callable[[], Any]
OWN = (TimeoutError("my own limit"), OSError(5, "my own"), ConnectionResetError("my own"), ValueError("my own"))
DIGEST = "0" * 64


@contextmanager
def strikes(error: Exception, after: float = 0.2) -> Iterator[None]:
    """SIGUSR1 after so many seconds, whose handler raises `error`."""

    def handler(number: int, frame: Any) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def slow(src: Path, dst: Path) -> None:
    time.sleep(20)


slow.key = "slow"  # type: ignore[attr-defined]


@contextmanager
def silent_listener(*, full: bool) -> Iterator[int]:
    """The port of a server that says nothing; if `full`, its queue is, too, so that connecting to it takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(4 if full else 0)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for one in waiting:
            one.close()


@pytest.fixture(params=["head", "body", "pause", "connect", "TLS", "hook", "slot", "lock", "flight"])
def wait(
    request: pytest.FixtureRequest, base: Path, misbehaving: Servers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Wait]:
    """A call that waits for twenty seconds, each time for something else."""
    monkeypatch.setenv("NANOCACHE_TIMEOUT", "20")
    server = misbehaving()
    nanocache.fetch(server.route("/warm.bin", m.serve(b"warm")))  # an importer takes an OSError for "no such file"
    never = server.route("/never.bin", lambda _: iter([20.0]))
    match request.param:
        case "head":
            yield lambda: nanocache.fetch(never)
        case "body":
            cut = server.route("/cut.bin", lambda _: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 20.0]))
            yield lambda: nanocache.fetch(cut)
        case "pause":
            later = server.route("/later.bin", m.status(503, headers={"Retry-After": "20"}))
            yield lambda: nanocache.fetch(later)
        case "connect":
            with silent_listener(full=True) as port:
                yield lambda: nanocache.fetch(f"http://127.0.0.1:{port}/a.bin")
        case "TLS":
            with silent_listener(full=False) as port:
                yield lambda: nanocache.fetch(f"https://127.0.0.1:{port}/a.bin")
        case "hook":
            quick = server.route("/quick.bin", m.serve(b"quick"))
            nanocache.fetch(quick)
            yield lambda: nanocache.fetch(quick, postprocess=slow)
        case "slot":
            monkeypatch.setenv("NANOCACHE_CONNECTIONS", "1")
            with slots.slot(origin_of(never), limit=1, cancel=Cancel()):
                yield lambda: nanocache.fetch(never)
        case "lock":
            store = nanocache.Cache().store
            store.prepare()
            lock = try_lock(store.lock_place(lock_key(DIGEST, "")).path, mode=0o600)
            assert lock is not None
            yield lambda: nanocache.fetch(never, sha256=DIGEST)
            lock.release()
        case "flight":
            monkeypatch.setenv("NANOCACHE_RETRIES", "0")  # so that the leader ends with its server
            thread = threading.Thread(target=lambda: _quietly(lambda: nanocache.fetch(never)), daemon=True)
            thread.start()
            time.sleep(0.1)
            yield lambda: nanocache.fetch(never)
            server.__exit__(None, None, None)
            thread.join(10)


def _quietly(call: Wait) -> None:
    try:
        call()
    except nanocache.DownloadFailed:
        pass


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
def test_what_a_signal_handler_raises_comes_out_at_once_as_it_was_raised(wait: Wait, error: Exception) -> None:
    began = time.monotonic()
    with strikes(error), pytest.raises(type(error)) as e:
        wait()
    assert e.value is error
    assert getattr(error, "filename", None) is None
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("way", ["fetch_many", "download_file_with_lock", "lookup"])
def test_it_comes_out_of_every_call(way: str, base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    url = origin.url("/bytes/5000/1/s.bin?delay=10")
    if way == "lookup":
        url = origin.url("/bytes/5000/1/s.bin")
        os.utime(nanocache.fetch(url))
        monkeypatch.setattr("nanocache.disk.hashing.hash_file", lambda *_: time.sleep(10))
    calls: dict[str, Wait] = {
        "fetch_many": lambda: nanocache.fetch_many([url]),
        "download_file_with_lock": lambda: nanocache.download_file_with_lock(url, "w/s.bin"),
        "lookup": lambda: nanocache.Cache().lookup(url),
    }
    with strikes(error := TimeoutError("my own limit")), pytest.raises(TimeoutError) as e:
        calls[way]()
    assert e.value is error


def test_it_is_that_of_its_own_caller_alone(base: Path, origin: Origin) -> None:
    url = origin.url("/bytes/5000/1/s.bin?delay=1")
    got: list[Path] = []

    def join() -> None:
        time.sleep(0.1)
        got.append(nanocache.fetch(url))

    thread = threading.Thread(target=join)
    thread.start()
    with strikes(TimeoutError("my own limit")), pytest.raises(TimeoutError):
        nanocache.fetch(url)
    thread.join(10)
    assert got[0].stat().st_size == 5000


class _Alarm(lines.Interrupt):
    """Raises TimeoutError from a handler where this thread comes to `at`."""

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        try:
            return super()._line(frame, event, argument)
        except KeyboardInterrupt:
            pass
        return self._handler(signal.SIGALRM, sys._getframe())

    def _frame(self, frame: Any, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(lines.OURS) else None

    def _handler(self, number: int, frame: Any) -> None:
        raise TimeoutError("my own limit")


@lines.quiet
@pytest.mark.timeout(3600 if lines.SOAK else 300)
@pytest.mark.parametrize("name", ["fetch", "fetch of three MiB", "revalidation", "lost seal", "hook"])
def test_it_comes_out_at_any_line(name: str, calls: Any, base: Path) -> None:
    before, call, _ = calls[name]
    for _cold in (True, False):
        lines.again(base, before)
        places = lines.chosen(call, f"alarm {name}", 24)
    swallowed = []
    for at in places:
        lines.again(base, before)
        try:
            with _Alarm(at) as alarm:
                call()
        except TimeoutError:
            continue
        if alarm.struck and "lock.py" not in at.stack[0]:  # a destructor of a lock swallows everything
            swallowed.append(str(at))
    assert not swallowed


calls = lines.calls


# --- how it is recognised ---------------------------------------------------------------------------------------------


def raised_by(call: Wait) -> BaseException:
    with pytest.raises(ArithmeticError) as e:
        call()
    return e.value


class Handlers:
    """The forms that a handler may have."""

    def method(self, number: int, frame: Any) -> None:
        raise ArithmeticError

    def deep(self, *arguments: Any) -> None:
        self.method(0, None)

    def rebound(self, number: int, frame: Any = None, *, more: int = 0) -> None:
        try:
            raise OSError
        except OSError as e:
            raise ArithmeticError from e

    def __call__(self, *arguments: Any) -> None:
        raise ArithmeticError


@pytest.mark.parametrize(
    "handler", [Handlers().method, Handlers().deep, Handlers().rebound, Handlers(), lambda *_: 1 / 0]
)
def test_every_form_of_handler_is_recognised(handler: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        assert callers.from_handler(raised_by(lambda: signal.raise_signal(signal.SIGUSR1)))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_other_calls_are_no_handlers() -> None:
    handlers = Handlers()
    for call in (handlers, lambda: handlers.method(1, None), lambda: handlers.deep(1, raised_by), lambda: 1 // 0):
        assert not callers.from_handler(raised_by(call))


def test_only_what_a_handler_raised_passes_a_suppress() -> None:
    with callers.suppress(OSError):
        raise FileNotFoundError
    before = signal.signal(signal.SIGUSR1, lambda *_: Path("/not/there").stat())
    try:
        with pytest.raises(FileNotFoundError), callers.callers_errors(), callers.suppress(OSError):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
