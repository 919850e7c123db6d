"""Why an archive is refused, and the limits that refuse it.

Invariants: what an archive declares is not believed, what comes out is counted; a reason speaks of the archive and
never of this machine, whose faults are OSErrors.
"""

from __future__ import annotations

from ..cancel import ambient

__all__ = ["Allowance", "ArchiveRefused", "refuse_if"]


class ArchiveRefused(Exception):
    """Why an archive is refused, over which member. The hook knows the archive's name and raises UnsafeArchive."""

    def __init__(self, reason: str, member: str | None = None) -> None:
        super().__init__(reason, member)
        self.reason = reason
        self.member = member


def refuse_if(fault: object, reason: str) -> None:
    """Raise ArchiveRefused with the reason if there is the fault."""
    if fault:
        raise ArchiveRefused(reason)


class Allowance:
    """So many bytes or members, and no more."""

    def __init__(self, limit: float, reason: str) -> None:
        self._left = limit
        self._reason = reason
        self._cancel = ambient()

    def spend(self, amount: int = 1) -> None:
        """Raises ArchiveRefused with the reason once more is spent than there was."""
        self._cancel.check()  # here, since every byte and every member is spent from one
        self._left -= amount
        if self._left < 0:
            raise ArchiveRefused(self._reason)
