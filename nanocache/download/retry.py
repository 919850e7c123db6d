"""When to ask again, and how long to wait before: the policy of failures. No socket and no thread.

Sources: full jitter, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; Retry-After, RFC 9110 10.2.3;
lowest speed, cargo's `http.low-speed-limit`. Invariant: a server can end every attempt, but not keep us for ever: what
counts as progress is bounded from below, so is the speed, and so is what a Retry-After may ask for.
"""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

__all__ = ["Failure", "Offline", "Pace", "Tries", "parse_retry_after", "retried"]

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds
LONGEST_RETRY_AFTER = 120.0  # seconds
LOWEST_SPEED = 1024  # bytes per second
SPEED_WINDOW = 60.0  # seconds
LEAST_PROGRESS = 64 * 1024  # bytes; less, for an artifact under 64 MiB


class Failure(Exception):
    """One attempt failed. Internal: the caller sees a DownloadFailed that holds the reason of each URL's last one."""

    def __init__(
        self,
        reason: str,
        *,
        lasting: bool = False,  # asking again cannot help
        status: int | None = None,
        retry_after: float | None = None,  # seconds, as the server asked
        remedy: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason, self.lasting, self.status = reason, lasting, status
        self.retry_after, self.remedy = retry_after, remedy


class Offline(Exception):
    """A request was about to be made while offline."""


def retried(status: int) -> bool:
    """Whether a status may pass by itself."""
    return status in (408, 425, 429) or 500 <= status <= 599


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks for, in either form (`now` is time.time()); None if there is none to read."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, moment - now), LONGEST_RETRY_AFTER)


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


class Pace:
    """Ends what drips: less than 1 KiB/s over a minute, while each byte keeps the read timeout from striking."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def check(self, received: int) -> None:
        """Count bytes that came; raises Failure if they came too slowly."""
        self._bytes += received
        passed = time.monotonic() - self._since
        if passed < SPEED_WINDOW:
            return
        if self._bytes < LOWEST_SPEED * passed:
            raise Slow(f"slower than {LOWEST_SPEED:,} bytes/s for {passed:.0f} s")
        self._since, self._bytes = time.monotonic(), 0


class Slow(Failure):
    """It drips: the few bytes that came are no progress."""
