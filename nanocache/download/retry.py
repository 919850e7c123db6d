"""When to ask again, and how long to wait before: the policy of failures. No socket and no thread.

Sources: full jitter, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; Retry-After, RFC 9110 10.2.3;
lowest speed, cargo's `http.low-speed-limit`. Invariant: a server can end every attempt, but not keep us for ever: what
counts as progress is bounded from below, so is the speed, and so is what a Retry-After may ask for.
"""

from __future__ import annotations

import random

from ..http.failure import Failure, retried

__all__ = ["Tries", "least_progress", "retried"]

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds
LEAST_PROGRESS = 64 * 1024  # bytes; less, for an artifact under 64 MiB


def least_progress(total: int | None) -> int:
    """Bytes that an attempt must bring in order not to count.

    A byte for each attempt would be progress for ever: 16 thousand attempts for a GiB is the most that is uncounted.
    """
    return LEAST_PROGRESS if total is None else max(1, min(LEAST_PROGRESS, total // 1024))


class Tries:
    """Failures in a row without progress."""

    def __init__(self, retries: int) -> None:
        self._retries, self._failed = retries, 0

    def wait(self, failure: Failure, *, progress: bool) -> float:
        """Seconds to wait before the next attempt; raises `failure` itself if there is to be none."""
        if failure.lasting:
            raise failure
        self._failed = 0 if progress else self._failed + 1
        if self._failed > self._retries:
            raise failure
        jitter = random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2 ** max(0, self._failed - 1)))  # noqa: S311
        # Everybody who was sent away comes back in the same second otherwise.
        return jitter if failure.retry_after is None else failure.retry_after + min(jitter, 1.0)
