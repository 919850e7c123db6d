"""The bytes that one piece of work may put on the disk: asked for before they come, accounted for when it ends.

This one grants everything: without a cap nothing is counted and no file is touched. With one, `retention.reserved` is
handed in instead. Invariant: what writes into the base directory asks first; a hook that is no code of ours is asked
about once it has built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .scope import Scoped

__all__ = ["UNLIMITED", "Room", "ambient_room", "within_room"]

T = TypeVar("T")


class Room:
    """As much as the disk has. For one piece of work at a time: `settle` ends it, and the next may begin."""

    def of_file(self, fd: int, path: str) -> None:
        """The work is the file behind `fd`, at `path` now. What it holds already has been counted."""

    def of_folder(self, path: str) -> None:
        """The work is what comes to be in a private folder. Raises NoSpace, Cancelled."""

    def have(self, total: int, *, known: bool = True) -> None:
        """Have room for `total` bytes of the work in all; not `known`: more may come. Raises NoSpace, Cancelled."""

    def besides(self, size: int) -> None:
        """Have room for a record of `size` bytes besides: nothing is evicted for one. Raises NoSpace, Cancelled."""

    def grow(self, size: int) -> None:
        """Have room for `size` bytes more in the folder. Raises NoSpace, Cancelled."""

    def publishing(self, path: str) -> None:
        """Have room for all that was built at `path` in the folder. Raises NoSpace, Cancelled."""

    def keep(self) -> None:
        """What came to be in the folder has been published."""

    def renew(self, now: float) -> None:
        """A sign of life, at `now` seconds of the boot's clock."""

    def settle(self, kept: int = 0) -> None:
        """The work is over; `kept` bytes of its record stay. To be called once more does nothing."""


UNLIMITED = Room()
_room = Scoped("nanocache room", UNLIMITED)


def ambient_room() -> Room:
    """The room that the caller's hook builds in, for our own code that the hook is or calls."""
    return _room.get()


def within_room(room: Room, step: Callable[[], T]) -> T:
    """What `step` gives, which may be the caller's code, in `room`."""
    return _room.call(room, step)
