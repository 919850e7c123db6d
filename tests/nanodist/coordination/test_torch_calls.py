"""Calls that end: with a result, an error, a signal, or when their time is over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nanodist.coordination.torch_calls import TorchCalls


def lines() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "nanodist-torch-calls"]


def test_call_gives_what_the_function_gives_or_raises() -> None:
    calls = TorchCalls()
    assert [calls.call(5, int, text) for text in ("1", "2")] == [1, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        calls.call(5, int, "x")
    assert calls.call(5, threading.get_ident) != threading.get_ident()


def test_call_ends_when_its_time_is_over_and_the_next_one_waits_for_it() -> None:
    calls = TorchCalls()
    over = threading.Event()
    with pytest.raises(TimeoutError):
        calls.call(0.05, over.wait)
    with pytest.raises(TimeoutError):
        calls.call(0.05, int)
    over.set()
    assert calls.call(5, int) == 0


def test_signal_is_seen_during_a_call() -> None:
    class Rang(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rang

    over, before = threading.Event(), signal.signal(signal.SIGUSR1, ring)
    bell = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    bell.start()
    try:
        with pytest.raises(Rang):
            TorchCalls().call(30, over.wait)
    finally:
        bell.join()
        signal.signal(signal.SIGUSR1, before)
        over.set()


def test_no_thread_outlives_its_work_by_a_second() -> None:
    several = [TorchCalls() for _ in range(3)]
    assert [calls.call(5, int) for calls in several] == [0] * 3
    deadline = time.monotonic() + 1
    while lines():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert several[0].call(5, int) == 0, "and there is a new one for the next call"


def test_one_that_is_ended_has_no_thread_and_takes_calls_again() -> None:
    calls = TorchCalls()
    calls.end(5)
    mine = calls.call(5, threading.current_thread)
    calls.end(5)
    assert not mine.is_alive()
    assert calls.call(5, int) == 0


def test_error_keeps_alive_nothing_of_the_call() -> None:
    """A gloo group whose connection broke ends with its last reference, and its thread with it."""

    class Group:
        def wait(self) -> None:
            raise RuntimeError("broken")

        def __del__(self) -> None:
            gone.set()

    gone = threading.Event()
    with pytest.raises(RuntimeError):
        TorchCalls().call(5, Group().wait)
    assert gone.wait(1)


def test_at_the_end_of_the_interpreter_the_caller_makes_the_call_itself() -> None:
    code = (
        "import atexit; from nanodist.coordination.torch_calls import TorchCalls; "
        "atexit.register(lambda: print(TorchCalls().call(5, int)))"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30)
    assert (run.stdout, run.stderr) == ("0\n", "")


def test_where_no_thread_can_be_had_the_caller_makes_the_call_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert TorchCalls().call(5, threading.get_ident) == threading.get_ident()
