"""Who takes part: the disks that need something say so in the store, and one of them closes the roll.

    <key>/have, <key>/have/<disk>     disks that have it all, once each for the job
    <key>/round, <key>/<round>/closings   how many rolls were closed
    <key>/<round>/needs, .../need/<n> who needs what, in order of arrival, which is the order in the tree
    <key>/<round>/plan                the closed roll: decided by one of them, and read by all

    disks/<n>/ranks, disks/<n>        ranks that said which disk they are on, and the disks they said

Invariants: nobody waits more than `SILENT_DISK_PATIENCE` for a disk that has said nothing, and not at all once all
have spoken; a roll is closed once, and whoever comes later calls the next one; a hit says its word once, in one
operation, and waits for nothing.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..coordination.coordinator import Coordinator, pauses
from ..coordination.election import decide
from ..shared_disk import disk_name

__all__ = ["ClosedRoll", "RollCall", "announce_complete", "announced", "count_rank"]

SILENT_DISK_PATIENCE = 2.0  # seconds
SHORTEST_PATIENCE = 0.05  # seconds, where nobody else came the last times: each rank wants files of its own, it seems
NEEDS_TIMEOUT = 1.0  # seconds from being counted to the word itself

_lonely: dict[str, int] = {}  # disk -> rolls in a row that nobody else was on
_said: set[tuple[str, str]] = set()  # (key, base directory)
_disks: dict[str, int] = {}  # the disks this process has named, numbered


def announce_complete(at: Coordinator, key: str, base: Path) -> None:
    """Say that nothing is needed on the disk under `base`, for whoever calls a roll of `key`. Once."""
    _said.add((key, str(base)))
    if (disk := disk_name(base, at.job)) is not None:
        count_rank(at, disk)
        if at.add(f"{key}/have/{disk}", 1) == 1:
            at.add(f"{key}/have", 1)


def announced(key: str, base: Path) -> bool:
    """Whether this process did so already."""
    return (key, str(base)) in _said


def count_rank(at: Coordinator, disk: str) -> int:
    """Be counted among the ranks on `disk`; the number of this disk in this process.

    All ranks come to their first, second... base directory in the same order, as they do everything; where they don't,
    a roll is closed too early or too late, and the bytes come from the origin or two seconds later.
    """
    if disk not in _disks:
        number = _disks[disk] = len(_disks)
        if at.add(f"disks/{number}/{disk}", 1) == 1:
            at.add(f"disks/{number}", 1)
        at.add(f"disks/{number}/ranks", 1)
    return _disks[disk]


@dataclass(frozen=True, slots=True)
class ClosedRoll:
    """A closed roll, and this process's place on it."""

    session: str
    position: int
    size: int
    needs: frozenset[int]  # what anybody on it needs


class RollCall:
    """The rolls of one key."""

    def __init__(self, at: Coordinator, key: str, disk: str, count: int) -> None:
        """`count`: the artifacts that there are to need; of a single one, whoever comes needs that, without a word."""
        self._at, self._key, self._disk, self._count = at, key, disk, count

    def enter(self, needs: set[int]) -> ClosedRoll:
        """Say what this disk needs, and wait for the roll to be closed. Raises CoordinatorLost."""
        number = count_rank(self._at, self._disk)
        while True:
            turn = self._at.add(f"{self._key}/round", 0)
            mine = self._at.add(f"{self._key}/{turn}/needs", 1)
            if self._count > 1:
                self._at.set(f"{self._key}/{turn}/need/{mine}", json.dumps(sorted(needs)))
            plan = decide(self._at, f"{self._key}/{turn}/plan", partial(self._close, turn, number)).value
            if mine <= plan["size"]:
                return ClosedRoll(plan["session"], mine - 1, plan["size"], frozenset(plan["needs"]))

    def _close(self, turn: int, number: int) -> dict[str, Any]:
        self._wait(turn, number)
        # Closed first, counted then: who is not counted finds the next round open.
        if self._at.add(f"{self._key}/{turn}/closings", 1) == 1:
            self._at.add(f"{self._key}/round", 1)
        size = self._at.add(f"{self._key}/{turn}/needs", 0)
        words = [f"{self._key}/{turn}/need/{n}" for n in range(1, size + 1)]
        needs = {need for word in words for need in self._word(word)} if self._count > 1 else {0}
        _lonely[self._disk] = _lonely.get(self._disk, 0) + 1 if size == 1 else 0
        return {"session": f"cast/{uuid.uuid4().hex}", "size": size, "needs": sorted(needs)}

    def _wait(self, turn: int, number: int) -> None:
        patience = max(SILENT_DISK_PATIENCE / 2 ** _lonely.get(self._disk, 0), SHORTEST_PATIENCE)
        deadline = time.monotonic() + patience
        for _ in pauses(self._at.world_size):
            if self._all_spoke(turn, number) or time.monotonic() > deadline:
                return

    def _all_spoke(self, turn: int, number: int) -> bool:
        if self._at.add(f"disks/{number}/ranks", 0) < self._at.world_size:
            return False
        spoke = self._at.add(f"{self._key}/{turn}/needs", 0) + self._at.add(f"{self._key}/have", 0)
        return spoke >= self._at.add(f"disks/{number}", 0)

    def _word(self, key: str) -> list[int]:
        deadline = time.monotonic() + NEEDS_TIMEOUT
        for _ in pauses(self._at.world_size):
            if self._at.check(key):
                needs: list[int] = json.loads(self._at.get(key))
                return needs
            if time.monotonic() > deadline:
                break  # it died between the two; its place in the tree is a hole
        return []
