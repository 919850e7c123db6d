"""How many connections are worth having: more only where waiting for the network is what takes the time.

Pure: told the time, the bytes and the waiting, it answers with a number. A connection helps where each is limited (by
the server, or by its window over a long way), and is of no use where the line, the disk or this CPU is what is full.
Only the attempt tells, so it doubles, looks, and goes back to what it had if that was no use. What it compares with
comes from a few hundredths of a second, and many servers begin with a burst: so going back is judged as well.
Invariants: growth that is not seen to help is undone; a refusal ends growth for good.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Growth", "Sample"]

IDLE_SHARE = 0.5  # of a connection's time; one whose socket has something to read for longer waits for this process
SOON = 0.05  # seconds after which a doubling is judged a success if it brought CLEAR_GAIN
CLEAR_GAIN = 1.5  # times the rate before
LATE = 0.5  # seconds after which it is judged a failure below LEAST_GAIN; limited servers send in bursts of 0.3 s
LEAST_GAIN = 1.2  # times the rate before
QUIET = 30.0  # seconds after which what was no use is tried again; twice as many each time


@dataclass(frozen=True, slots=True)
class Sample:
    """Running sums: seconds, bytes received, seconds that all connections together waited for some."""

    time: float
    received: int
    waited: float
    open: int = 0  # connections at this moment: those that are too many end with their pieces


class Growth:
    """`target` is how many connections there should be, from 1 to `limit`. `latency`: seconds until a first byte."""

    def __init__(self, limit: int, start: Sample, *, latency: float) -> None:
        self.target = 1
        self.limit = limit
        self._soon = max(SOON, 4 * latency)
        self._late = max(LATE, 12 * latency)
        self._since = start
        self._rate_before = 0.0  # bytes/s before the last doubling, 0 if none is to be judged
        self._seen_briefly = False  # that rate, in which a burst may be
        self._rate_undone = 0.0  # bytes/s before going back, 0 if that is not to be judged
        self._not_before = start.time
        self._quiet = QUIET

    def is_over(self, time: float) -> bool:
        """Whether no more connections will be opened for now."""
        return self.target >= self.limit or time < self._not_before

    def refused(self, left: int) -> None:
        """The server does not want more than the `left` connections there still are."""
        self.limit = max(1, left)
        self.target = self.limit

    def look(self, now: Sample) -> int:
        """`target`, after another look."""
        passed = now.time - self._since.time
        if self.limit == 1 or passed < self._soon:
            return self.target
        if not self._rate_undone or now.open <= self.target:
            rate = (now.received - self._since.received) / passed
            if passed < self._late and self._is_early(rate):
                return self.target
            idle = (now.waited - self._since.waited) / passed
            self._judge(rate, idle, now.time, briefly=passed < self._late)
        self._since = now
        return self.target

    def _is_early(self, rate: float) -> bool:
        """Whether the time was too short to tell."""
        return self._rate_undone > 0 or rate < self._rate_before * CLEAR_GAIN

    def _judge(self, rate: float, idle: float, time: float, *, briefly: bool) -> None:
        if rate < self._rate_before * LEAST_GAIN:
            self._undo(rate, time)
        elif rate * LEAST_GAIN < self._rate_undone:  # what was undone did help
            self._not_before = time
            self._double(rate, briefly=briefly)
        elif self._may_grow(idle, time):
            self._double(rate, briefly=briefly)
        else:
            self._rate_before = self._rate_undone = 0.0

    def _may_grow(self, idle: float, time: float) -> bool:
        waiting = idle > IDLE_SHARE * self.target
        return waiting and self.target < self.limit and time >= self._not_before

    def _double(self, rate: float, *, briefly: bool) -> None:
        self.target = min(self.limit, 2 * self.target)
        self._rate_before = max(rate, 1.0)
        self._seen_briefly = briefly
        self._rate_undone = 0.0

    def _undo(self, rate: float, time: float) -> None:
        self.target = max(1, self.target // 2)
        self._rate_before = 0.0
        self._rate_undone = rate if self._seen_briefly else 0.0
        self._not_before = time + self._quiet
        self._quiet *= 2
