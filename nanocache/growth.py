"""How many connections are worth having: one more only where waiting for the network is what takes the time.

Pure: told the time, the bytes and the CPU, it answers with a number. A connection helps where each is limited (by the
server, or by its window over a long way), and hurts where the line, the disk or this CPU is what is full. Nothing but
the attempt tells, so it doubles, looks, and goes back to what it had if that was no use. Invariants: it judges only
after new connections had time to answer; a refusal ends growth for good.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Growth", "Sample"]

WINDOW = 0.05  # seconds to look; longer where the first byte takes longer to come
GAIN = 1.2  # a doubling that brings less than this was no use
BUSY = 0.5  # of one core: receiving that takes more than half of it is not waiting for the network
AGAIN = 30.0  # seconds after which what was no use is tried again, doubling


@dataclass(frozen=True, slots=True)
class Sample:
    """Running sums: seconds, bytes received, seconds of CPU that receiving them took."""

    time: float
    received: int
    cpu: float


class Growth:
    """`wanted` is how many connections there should be."""

    def __init__(self, most: int, start: Sample, *, latency: float) -> None:
        self.wanted, self.most = 1, most
        self._settle, self._window = 2 * latency, max(WINDOW, 2 * latency)
        self._since = start
        self._before: float | None = None  # bytes/s before the last doubling, which is to be judged
        self._not_before, self._patience = start.time, AGAIN

    def refused(self, left: int) -> None:
        """The server does not want more than the `left` connections there still are."""
        self.wanted = self.most = max(1, left)

    def look(self, now: Sample) -> int:
        """`wanted`, after another look."""
        passed = now.time - self._since.time
        if now.time < self._not_before:
            self._since = now
        elif passed >= self._window:
            rate, busy = (now.received - self._since.received) / passed, (now.cpu - self._since.cpu) / passed
            self._since = now
            self._judge(rate, busy, now.time)
        return self.wanted

    def _judge(self, rate: float, busy: float, time: float) -> None:
        if self._before is not None and rate <= self._before * GAIN:
            self.wanted, self._before = max(1, self.wanted // 2), None
            self._not_before, self._patience = time + self._patience, 2 * self._patience
        elif busy < BUSY and self.wanted < self.most:
            self.wanted, self._before = min(self.most, 2 * self.wanted), rate
            self._not_before = time + self._settle
        else:
            self._before = None
