"""How one exchange can fail, and what a server may ask for: the words that everything above this room catches.

Not the policy of what follows (`download.retry`). Source: Retry-After, RFC 9110 10.2.3; lowest speed, cargo's
`http.low-speed-limit`. Invariants: these exceptions are internal, the caller sees a DownloadFailed that holds their
reasons; a server cannot keep a connection busy for ever, because its speed is bounded from below.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

__all__ = ["Failure", "Offline", "Pace", "Slow", "StartOver", "parse_retry_after", "retried"]

FAR_OFF = 1e9  # seconds, 31 years; a Retry-After is not taken for more
LOWEST_SPEED = 1024  # bytes per second
SPEED_WINDOW = 60.0  # seconds


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


class StartOver(Failure):
    """The bytes so far are not to be built on."""


class Slow(Failure):
    """It drips: the few bytes that came are no progress."""


def retried(status: int) -> bool:
    """Whether a status may pass by itself."""
    return status in (408, 425, 429) or 500 <= status <= 599


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks for, in either form (`now` is time.time()); None if there is none to read."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), FAR_OFF)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, moment - now), FAR_OFF)


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
