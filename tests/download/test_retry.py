"""When to ask again and how long to wait: the policy, without a clock or a server."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanocache.download import retry
from nanocache.download.retry import Failure, Pace, Slow, Tries, least_progress, parse_retry_after, retried


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_status_that_may_pass_is_asked_again(status: int) -> None:
    assert retried(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 416, 451, 600])
def test_a_status_that_will_not_pass_is_not(status: int) -> None:
    assert not retried(status)


def test_retry_after_is_read_in_both_forms_and_capped() -> None:
    now = 1_750_000_000.0
    assert parse_retry_after("7", now) == 7
    assert parse_retry_after(formatdate(now + 7, usegmt=True), now) == 7
    assert parse_retry_after("86400", now) == retry.LONGEST_RETRY_AFTER
    assert parse_retry_after(formatdate(now + 86400, usegmt=True), now) == retry.LONGEST_RETRY_AFTER
    assert parse_retry_after(formatdate(now - 60, usegmt=True), now) == 0


@given(st.text())
def test_no_retry_after_is_ever_negative_or_too_long(text: str) -> None:
    seconds = parse_retry_after(text, time.time())
    assert seconds is None or 0 <= seconds <= retry.LONGEST_RETRY_AFTER


def test_delays_double_with_full_jitter_up_to_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: (low, high))
    tries = Tries(9)
    waits = [tries.wait(Failure("no"), progress=False) for _ in range(9)]
    assert waits == [(0, bound) for bound in (0.5, 1, 2, 4, 8, 16, 30, 30, 30)]


def test_tries_without_progress_are_bounded_and_the_last_failure_is_raised() -> None:
    tries, last = Tries(2), Failure("the last one")
    tries.wait(Failure("first"), progress=False)
    tries.wait(Failure("second"), progress=False)
    with pytest.raises(Failure) as e:
        tries.wait(last, progress=False)
    assert e.value is last


def test_progress_starts_the_count_again() -> None:
    tries = Tries(1)
    for _ in range(20):
        tries.wait(Failure("no"), progress=False)
        tries.wait(Failure("but some bytes came"), progress=True)


def test_no_retries_means_one_try() -> None:
    with pytest.raises(Failure):
        Tries(0).wait(Failure("no"), progress=False)


def test_a_lasting_failure_is_not_asked_again() -> None:
    with pytest.raises(Failure):
        Tries(5).wait(Failure("404", lasting=True), progress=True)


def test_retry_after_takes_the_place_of_the_delay() -> None:
    assert 20 <= Tries(5).wait(Failure("503", retry_after=20), progress=False) <= 21


@given(st.one_of(st.none(), st.integers(0, 1 << 60)))
def test_progress_is_bounded_from_below(total: int | None) -> None:
    least = least_progress(total)
    assert 1 <= least <= retry.LEAST_PROGRESS
    assert total is None or least * 1024 <= max(total, 1024)


def test_a_drip_ends_and_a_stream_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(retry.time, "monotonic", lambda: float(next(clock)))
    stream = Pace()
    for _ in range(200):
        stream.check(4 * retry.LOWEST_SPEED)
    drip = Pace()
    with pytest.raises(Slow):
        for _ in range(100):
            drip.check(1)


def test_the_speed_of_each_minute_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(retry.time, "monotonic", lambda: float(next(clock)))
    pace = Pace()
    pace.check(1 << 30)
    with pytest.raises(Slow):
        for _ in range(200):
            pace.check(1)
