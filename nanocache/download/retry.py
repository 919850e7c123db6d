"""When to ask again, and how long to wait before: the policy of failures. No socket and no thread.

Sources: full jitter, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; Retry-After, RFC 9110 10.2.3;
lowest speed, cargo's `http.low-speed-limit`. Invariant: a server can end every attempt, but not keep us for ever: what
counts as progress is bounded from below, so is the speed, and from above what a Retry-After may ask for.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from ..http.failure import Failure, retried

__all__ = ["Tries", "least_progress", "retried"]

FIRST_DELAY = 0.5  # seconds
LONGEST_DELAY = 30.0  # seconds
LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more is given up at once
MOST_DOUBLINGS = 6  # of FIRST_DELAY reach LONGEST_DELAY; a thousand would be no float any more
LEAST_PROGRESS = 64 * 1024  # bytes; less, for an artifact under 64 MiB


def least_progress(total: int | None) -> int:
    """Bytes that an attempt must bring to count as progress.

    A byte for each attempt would be progress for ever: now a GiB takes at most 16 thousand attempts that do not count.
    """
    return LEAST_PROGRESS if total is None else max(1, min(LEAST_PROGRESS, total // 1024))


def _refuse_long_wait(failure: Failure) -> None:
    """Raise Failure, with the time, where the server asks for a longer wait than a call should take."""
    seconds = failure.retry_after
    if seconds is None or seconds <= LONGEST_RETRY_AFTER:
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + seconds))
    raise Failure(
        f"{failure.reason}, and it asks not to come back for {seconds:,.0f} s",
        lasting=True,
        status=failure.status,
        remedy=f"try again after {when}",
    )


@dataclass(slots=True)
class Tries:
    """Failures in a row without progress, of which `retries` are forgiven."""

    retries: int
    failed: int = 0

    def wait(self, failure: Failure, *, progress: bool) -> float:
        """Seconds to wait before the next attempt; raises `failure` itself if there is to be none."""
        if failure.lasting:
            raise failure
        _refuse_long_wait(failure)
        self.failed = 0 if progress else self.failed + 1
        if self.failed > self.retries:
            raise failure
        doublings = min(max(0, self.failed - 1), MOST_DOUBLINGS)
        bound = min(LONGEST_DELAY, FIRST_DELAY * 2**doublings)
        jitter = random.uniform(0, bound)  # noqa: S311
        if failure.retry_after is None:
            return jitter
        return failure.retry_after + min(jitter, 1.0)  # lest all clients that were sent away come back at once
