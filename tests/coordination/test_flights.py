"""One process: threads and tasks that want the same thing share one piece of work, and nobody joins a dying one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from nanocache.cancel import Cancel, Cancelled
from nanocache.coordination import flights
from nanocache.coordination import threads as pool
from nanocache.coordination.flights import Waiter, share


def in_threads(n: int, call: Callable[[int], object]) -> list[object]:
    results: list[object] = [None] * n

    def run(index: int) -> None:
        try:
            results[index] = call(index)
        except BaseException as e:
            results[index] = e

    threads = [threading.Thread(target=run, args=(index,)) for index in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def wait_for(event: threading.Event) -> None:
    event.wait(10)


def waiter(work: Callable[[Cancel], object]) -> Waiter[object]:
    taken: Waiter[object] = Waiter()
    taken.take("k", "a", work)
    return taken


def test_threads_with_one_key_share_one_piece_of_work() -> None:
    calls = []

    def work(cancel: Cancel) -> str:
        calls.append(1)
        time.sleep(0.2)
        return "done"

    assert in_threads(20, lambda _: share("k", "a", work, Cancel())) == ["done"] * 20
    assert len(calls) == 1
    assert not flights._table


def test_error_reaches_those_who_asked_the_same_and_the_others_try_their_own() -> None:
    calls: list[str] = []

    def work(asker: str) -> Callable[[Cancel], str]:
        def run(cancel: Cancel) -> str:
            calls.append(asker)
            time.sleep(0.2)
            if asker == "bad":
                raise OSError("no such host")
            return asker

        return run

    def call(index: int) -> str:
        asker = "good" if index == 5 else "bad"
        if index == 5:
            time.sleep(0.05)
        return share("k", asker, work(asker), Cancel())

    results = in_threads(6, call)
    assert [type(result) for result in results[:5]] == [OSError] * 5
    assert len({id(result) for result in results[:5]}) == 5  # one instance in two threads would mix their tracebacks
    assert results[5] == "good"
    assert calls == ["bad", "good"]


def test_last_waiter_to_leave_cancels_the_work_and_nobody_joins_it_any_more() -> None:
    cancelled = threading.Event()
    started = threading.Event()

    def work(cancel: Cancel) -> None:
        started.set()
        while not cancel.is_set():
            time.sleep(0.005)
        cancelled.set()
        time.sleep(0.2)  # dying
        cancel.check()

    first, second = waiter(work), waiter(work)
    pool.submit(first._flight.run)
    assert started.wait(5)
    first.leave()
    first.leave()
    assert not cancelled.wait(0.05)
    second.leave()
    assert cancelled.wait(5)
    third = waiter(lambda cancel: None)
    assert third._flight is not first._flight
    third.leave()


def test_interrupted_leader_hands_over() -> None:
    ran = []

    def interrupted(cancel: Cancel) -> str:
        ran.append("leader")
        time.sleep(0.1)
        raise KeyboardInterrupt

    def good(cancel: Cancel) -> str:
        ran.append("next")
        time.sleep(0.1)
        return "done"

    def call(index: int) -> str:
        time.sleep(0.03 * index)
        return share("k", "a", interrupted if index == 0 else good, Cancel())

    results = in_threads(3, call)
    assert isinstance(results[0], KeyboardInterrupt)
    assert results[1:] == ["done", "done"]
    assert ran == ["leader", "next"]


def test_cancelling_one_caller_does_not_disturb_the_others() -> None:
    release = threading.Event()

    def work(cancel: Cancel) -> str:
        release.wait(10)
        cancel.check()
        return "done"

    cancels = [Cancel() for _ in range(3)]

    def call(index: int) -> str:
        time.sleep(0.02 * index)
        return share("k", "a", work, cancels[index])

    def cancel_then_release() -> None:
        time.sleep(0.15)
        cancels[1].set()
        time.sleep(0.05)
        release.set()

    threading.Thread(target=cancel_then_release).start()
    results = in_threads(3, call)
    assert (results[0], results[2]) == ("done", "done")
    assert isinstance(results[1], Cancelled)


def test_a_joiner_runs_a_flight_that_nobody_has_started() -> None:
    # As when all threads of the pool wait for a flight that is queued behind them.
    queued = waiter(lambda cancel: "done")
    assert share("k", "a", lambda cancel: "own", Cancel()) == "done"
    queued.leave()


def test_work_that_asks_for_itself_is_an_error_and_not_a_hang() -> None:
    def work(cancel: Cancel) -> str:
        return share("k", "a", work, cancel)

    with pytest.raises(RuntimeError, match="wait for itself"):
        share("k", "a", work, Cancel())


def test_pool_threads_are_few_and_gone_when_idle() -> None:
    most = 0
    done = threading.Semaphore(0)

    def job() -> None:
        nonlocal most
        most = max(most, len(pool._pools[0].threads))
        time.sleep(0.01)
        done.release()

    for _ in range(100):
        pool.submit(job)
    for _ in range(100):
        assert done.acquire(timeout=10)
    assert most <= pool.LIMIT
    time.sleep(1)
    assert not [thread for thread in threading.enumerate() if thread.name == "nanocache-fetch"]


def test_a_pool_has_more_threads_only_where_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads_for(jobs: int) -> int:
        most, crowd = 0, pool.ThreadPool(8)
        done = threading.Semaphore(0)

        def job() -> None:
            nonlocal most
            most = max(most, len(crowd.threads))
            time.sleep(0.02)
            done.release()

        for _ in range(jobs):
            crowd.submit(job)
        for _ in range(jobs):
            assert done.acquire(timeout=10)
        crowd.close()
        assert not crowd.threads
        return most

    assert threads_for(1) == 1
    assert threads_for(100) == 8
    monkeypatch.setattr(pool.ThreadPool, "_used", lambda self: time.monotonic())  # as if they kept a core busy
    assert threads_for(100) == pool.FEW


def test_a_pool_whose_threads_are_all_at_long_jobs_gets_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.ThreadPool, "_used", lambda self: time.monotonic())  # as if they kept a core busy
    crowd = pool.ThreadPool(8)
    over, ran = threading.Event(), threading.Event()
    for _ in range(pool.FEW):
        crowd.submit(partial(wait_for, over))
    crowd.submit(ran.set)
    assert ran.wait(5)
    over.set()
    crowd.close()


def test_a_job_that_comes_as_the_steward_leaves_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = pool.ThreadPool(8)
    leaving, over, late = threading.Event(), threading.Event(), threading.Event()
    look = pool.ThreadPool._add_if_idle

    def slow_to_leave(self: pool.ThreadPool, busy: float) -> bool:
        stays = look(self, busy)
        if not stays:
            leaving.set()
            time.sleep(0.05)
        return stays

    monkeypatch.setattr(pool.ThreadPool, "_add_if_idle", slow_to_leave)
    for _ in range(3):  # the third calls for a steward, which adds a thread and then finds nothing waiting
        crowd.submit(partial(wait_for, over))
    assert leaving.wait(5)
    crowd.submit(late.set)
    assert late.wait(5)
    over.set()
    crowd.close()


def test_cancel_wakes_a_sleeper_and_runs_each_callback_once() -> None:
    cancel, called = Cancel(), []
    threading.Timer(0.05, cancel.set).start()
    with cancel.watch(lambda: called.append("watched")):
        started = time.monotonic()
        with pytest.raises(Cancelled):
            cancel.sleep(10)
        assert time.monotonic() - started < 5
        cancel.set()
    with cancel.watch(lambda: called.append("late")):
        pass
    time.sleep(0.05)
    assert sorted(called) == ["late", "watched"]
