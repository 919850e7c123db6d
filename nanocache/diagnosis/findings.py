"""What one probe found: how well it works here, what is lost where it does not, and what to do about it.

Not the probing. Invariants: what is not fine says in plain words what degrades; no secret is in any of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["FINE", "FROM_GOOD_TO_BAD", "LOCAL_DISK", "LOSSES", "UNUSABLE", "Finding", "Level", "worst"]

Level = Literal["fine", "works with losses", "unusable"]
FINE: Level = "fine"
LOSSES: Level = "works with losses"  # files are right all the same: what is lost is bandwidth, room or a convenience
UNUSABLE: Level = "unusable"  # fetches fail
FROM_GOOD_TO_BAD = (FINE, LOSSES, UNUSABLE)
LOCAL_DISK = "set NANOCACHE_DIR to a local disk"  # the remedy of whatever the mount itself lacks


@dataclass(frozen=True, slots=True)
class Finding:
    """What `doctor` found out about one thing."""

    probe: str  # what was probed
    level: Level
    seen: str
    degrades: str = ""  # what is lost by it
    remedy: str = ""  # what to set or to do

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Level:
    """The level of all of them together."""
    return max((finding.level for finding in findings), key=FROM_GOOD_TO_BAD.index, default=FINE)
