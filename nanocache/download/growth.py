"""How many connections are worth having: more only where waiting for the network is what takes the time.

Pure: told the time, the bytes and the waiting, it answers with a number. A connection helps where each is limited (by
the server, or by its window over a long way), and is of no use where the line, the disk or this CPU is what is full.
Nothing but the attempt tells, so it doubles, looks, and goes back to what it had if that was no use. Invariants: growth
that is not seen to help is undone; a refusal ends growth for good.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Growth", "Sample"]

IDLE = 0.5  # of a connection's time: one whose socket has something to read for longer waits for us, not we for it
SOON, CLEAR_GAIN = 0.05, 1.5  # after so many seconds a doubling is judged a success if it brought that factor
LATE, LEAST_GAIN = 0.5, 1.2  # and after so many a failure if it brought less; limited servers send in bursts of 0.3 s
QUIET = 30.0  # seconds after which what was no use is tried again; twice as many each time


@dataclass(frozen=True, slots=True)
class Sample:
    """Running sums: seconds, bytes received, seconds that all connections together waited for some."""

    time: float
    received: int
    waited: float


class Growth:
    """`wanted` is how many connections there should be, from 1 to `most`. `latency`: seconds until a first byte."""

    def __init__(self, most: int, start: Sample, *, latency: float) -> None:
        self.wanted, self.most = 1, most
        self._soon, self._late = max(SOON, 4 * latency), max(LATE, 12 * latency)
        self._since, self._before = start, 0.0  # bytes/s before the last doubling, 0 if none is to be judged
        self._not_before, self._quiet = start.time, QUIET

    def refused(self, left: int) -> None:
        """The server does not want more than the `left` connections there still are."""
        self.wanted = self.most = max(1, left)

    def look(self, now: Sample) -> int:
        """`wanted`, after another look."""
        passed = now.time - self._since.time
        if passed < self._soon or self.most == 1:
            return self.wanted
        rate, idle = (now.received - self._since.received) / passed, (now.waited - self._since.waited) / passed
        if self._before and rate < self._before * CLEAR_GAIN and passed < self._late:
            return self.wanted  # too early to tell
        if self._before and rate < self._before * LEAST_GAIN:
            self._undo(now.time)
        elif idle > IDLE * self.wanted and self.wanted < self.most and now.time >= self._not_before:
            self.wanted, self._before = min(self.most, 2 * self.wanted), max(rate, 1.0)
        else:
            self._before = 0.0
        self._since = now
        return self.wanted

    def _undo(self, time: float) -> None:
        self.wanted, self._before = max(1, self.wanted // 2), 0.0
        self._not_before, self._quiet = time + self._quiet, 2 * self._quiet
