"""When something happened, for other processes to ask how long ago that was.

    same boot of a host   its own clock, which runs through suspension and never jumps
    another host          the hosts' clocks: what they are apart is the error

time.time() alone would do neither: NTP steps it, by hours where a machine woke up with a wrong one, and a moment ago
would then be yesterday. Not for waiting: that is time.monotonic's.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from nanocache.coordination.process import boot_time, me

__all__ = ["Moment", "process_age"]


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time, that travels as JSON."""

    wall: float  # time.time()
    up: float  # seconds on the boot's clock
    boot: str

    @classmethod
    def now(cls) -> Moment:
        return cls(time.time(), boot_time(), me().boot)

    @classmethod
    def parse(cls, record: list[Any]) -> Moment:
        return cls(*record)

    def to_json(self) -> list[Any]:
        return [self.wall, self.up, self.boot]

    def age(self) -> float:
        """Seconds since then."""
        now = Moment.now()
        return now.up - self.up if now.boot == self.boot else now.wall - self.wall


def process_age() -> float:
    """Seconds since this process started; where the kernel does not say, since it imported this."""
    try:
        return boot_time() - int(me().start) / os.sysconf("SC_CLK_TCK")
    except ValueError:  # macOS
        return _imported.age()


_imported = Moment.now()
