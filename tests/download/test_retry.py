"""When to ask again and how long to wait: the policy, without a clock or a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanocache.download import retry
from nanocache.download.retry import Tries, least_progress
from nanocache.http.failure import Failure


def test_delays_double_with_full_jitter_up_to_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: (low, high))
    tries = Tries(9)
    waits = [tries.wait(Failure("no"), progress=False) for _ in range(9)]
    assert waits == [(0, bound) for bound in (0.5, 1, 2, 4, 8, 16, 30, 30, 30)]


def test_any_number_of_failures_has_a_delay() -> None:
    tries = Tries(1 << 20, failed=5000)  # 2 to that power is no float
    assert 0 <= tries.wait(Failure("no"), progress=False) <= 30


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
