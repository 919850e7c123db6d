"""The bytes that one piece of work may put on the disk: asked for before they come, accounted for when it ends.

This one grants everything: without a cap nothing is counted and no file is touched. With one, `retention.reserved` is
handed in instead. Invariant: what writes into the base directory asks first.
"""

from __future__ import annotations

__all__ = ["UNLIMITED", "Room"]


class Room:
    """As much as the disk has. For one piece of work at a time: `settle` ends it, and the next may begin."""

    def of_file(self, fd: int) -> None:
        """The work is the file behind `fd`. What it holds already has been counted."""

    def of_folder(self, path: str) -> None:
        """The work is what comes to be in a private folder. Raises NoSpace, Cancelled."""

    def have(self, total: int, *, known: bool = True) -> None:
        """Have room for `total` bytes of the file in all; not `known`: more may come. Raises NoSpace, Cancelled."""

    def besides(self, size: int) -> None:
        """Have room for a record of `size` bytes besides: nothing is evicted for one. Raises NoSpace, Cancelled."""

    def add(self, size: int) -> None:
        """Have room for `size` bytes more in the folder. Raises NoSpace, Cancelled."""

    def add_all(self, path: str) -> None:
        """Have room for what was built at `path`, in the folder. Raises NoSpace, Cancelled."""

    def keep(self) -> None:
        """What was added has been published."""

    def renew(self, now: float) -> None:
        """A sign of life, at `now` seconds of the boot's clock."""

    def settle(self, kept: int = 0) -> None:
        """The work is over; `kept` bytes of its record stay. To be called once more does nothing."""


UNLIMITED = Room()
