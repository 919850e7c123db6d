"""What is wrong with one thing in the cache, whether it still is, and how it is mended.

A thing may be on its way while it is looked at: a product comes before the record of what it holds. So a finding is
looked at again at the end, and only what is wrong then is damage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Damage", "Suspicion"]


@dataclass(frozen=True, slots=True)
class Damage:
    """What `verify` found."""

    path: str
    reason: str
    repaired: bool


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What may be damage."""

    path: str
    reason: str
    stays: Callable[[], bool]
    mend: Callable[[], bool]  # whether it could be; raises OSError and NanocacheError

    def settle(self, *, repair: bool) -> Damage:
        """What becomes of it. It may be mended together with another one."""
        return Damage(self.path, self.reason, repair and (not self.stays() or (self.mend() and not self.stays())))
