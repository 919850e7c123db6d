"""What a failure says of asking again, and how slow is too slow: without a server, and with a clock that is told."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanocache.http import failure
from nanocache.http.failure import Pace, Slow, parse_retry_after, retried


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_status_that_may_pass_is_asked_again(status: int) -> None:
    assert retried(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 416, 451, 600])
def test_a_status_that_will_not_pass_is_not(status: int) -> None:
    assert not retried(status)


def test_retry_after_is_read_in_both_forms() -> None:
    now = 1_750_000_000.0
    assert parse_retry_after("7", now) == 7
    assert parse_retry_after(formatdate(now + 7, usegmt=True), now) == 7
    assert parse_retry_after("86400", now) == 86400
    assert parse_retry_after(formatdate(now + 86400, usegmt=True), now) == 86400
    assert parse_retry_after("9" * 30, now) == failure.FAR_OFF
    assert parse_retry_after(formatdate(now - 60, usegmt=True), now) == 0


@given(st.text())
def test_no_retry_after_is_ever_negative_or_too_long(text: str) -> None:
    seconds = parse_retry_after(text, time.time())
    assert seconds is None or 0 <= seconds <= failure.FAR_OFF


def test_a_drip_ends_and_a_stream_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(failure.time, "monotonic", lambda: float(next(clock)))
    stream = Pace()
    for _ in range(200):
        stream.check(4 * failure.LOWEST_SPEED)
    drip = Pace()
    with pytest.raises(Slow):
        for _ in range(100):
            drip.check(1)


def test_the_speed_of_each_minute_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(failure.time, "monotonic", lambda: float(next(clock)))
    pace = Pace()
    pace.check(1 << 30)
    with pytest.raises(Slow):
        for _ in range(200):
            pace.check(1)
