"""Which processes take part: each disk that needs something says so in the store, and one process closes the roll call.

    <key>/have, <key>/have/<disk>         disks that have it all, once each for the job; and so for `lack`
    <key>/round                           how many rounds were closed
    <key>/<round>/needs, .../need/<n>     what each disk needs, in order of arrival
    <key>/<round>/opened                  when its first disk came
    <key>/<round>/plan                    the closed roll call: decided by one process, and read by all

    disks/<n>, disks/<n>/<disk>           the disks that ranks said they are on
    disks/<n>/ranks, .../rank/<rank>      the ranks that said so

Invariants: no process waits more than `SILENT_DISK_PATIENCE` for a disk that has said nothing, and not at all once all
disks have spoken; a roll call is closed once, and a process that comes later enters the next one; a hit is announced
once, in one operation of the store, and waits for nothing.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..coordination.clock import Moment
from ..coordination.coordinator import Coordinator, pauses
from ..coordination.election import decide
from ..shared_disk import disk_name

__all__ = ["HAVE", "LACK", "ClosedRollCall", "RollCall", "announce", "announce_complete", "announced", "count_rank"]
__all__ += ["has_another"]

SILENT_DISK_PATIENCE = 2.0  # seconds
SHORTEST_PATIENCE = 0.05  # seconds, after several calls without another disk: each rank seems to want its own files
NEEDS_TIMEOUT = 1.0  # seconds between a process's entry in the roll call and the list of what it needs

HAVE, LACK = "have", "lack"  # what a disk says of itself

_lonely: dict[str, int] = {}  # disk -> rolls in a row that no other disk was on
_announced: set[tuple[str, str]] = set()  # (key, base directory)
_counting = threading.Lock()
_disks: dict[str, int] = {}  # the disks that this process has named, numbered


def announce_complete(coordinator: Coordinator, key: str, base: Path) -> None:
    """Say once that nothing is needed on the disk under `base`, to each process that closes a roll call of `key`."""
    disk = disk_name(base, coordinator.job)
    if disk is not None:
        announce(coordinator, key, disk, HAVE)
    _announced.add((key, str(base)))


def announce(coordinator: Coordinator, key: str, disk: str, word: str) -> None:
    """Say of `disk` that it has what is meant by `key`, or lacks it."""
    count_rank(coordinator, disk)
    if coordinator.add(f"{key}/{word}/{disk}", 1) == 1:
        coordinator.add(f"{key}/{word}", 1)


def has_another(coordinator: Coordinator, key: str, disk: str) -> bool:
    """Whether a disk says that it has it: waited for until all disks have spoken, or one was silent for too long."""
    number = count_rank(coordinator, disk)
    deadline = time.monotonic() + SILENT_DISK_PATIENCE
    for _ in pauses(coordinator.world_size):
        if coordinator.add(f"{key}/{HAVE}", 0):
            return True
        if _all_counted(coordinator, number, coordinator.add(f"{key}/{LACK}", 0)) or time.monotonic() > deadline:
            break
    return False


def announced(key: str, base: Path) -> bool:
    """Whether this process announced it already."""
    return (key, str(base)) in _announced


def count_rank(coordinator: Coordinator, disk: str) -> int:
    """Count this process among the ranks on `disk`, once; the number of the disk in this process.

    All ranks come to their first, second... base directory in the same order, as they do everything. Where they don't,
    a roll call is closed too early or too late, and the bytes come from the origin or two seconds later.
    """
    with _counting:
        if disk not in _disks:
            _count_rank(coordinator, disk, len(_disks))
            _disks[disk] = len(_disks)  # not before the store has heard of it: Ctrl-C may come first
        return _disks[disk]


def _count_rank(coordinator: Coordinator, disk: str, number: int) -> None:
    if coordinator.add(f"disks/{number}/{disk}", 1) == 1:
        coordinator.add(f"disks/{number}", 1)
    if coordinator.add(f"disks/{number}/rank/{coordinator.rank}", 1) == 1:  # a rank started anew is no further one
        coordinator.add(f"disks/{number}/ranks", 1)


@dataclass(frozen=True, slots=True)
class ClosedRollCall:
    """A closed roll call, and this process's place on it: the less it needs, the nearer to the source."""

    session: str
    position: int
    size: int
    needs: frozenset[int]  # the numbers of the artifacts that any of its disks needs
    givers: int  # how many said that they need nothing, and so come first


class RollCall:
    """The rolls of one key."""

    def __init__(
        self, coordinator: Coordinator, key: str, disk: str, *, lists: bool, patience: float | None = None
    ) -> None:
        """`lists`: whether each process says what it needs; else all that enter need the one artifact there is.

        `patience`: seconds for a disk that says nothing; by default the less, the more often no other disk came.
        """
        self._coordinator = coordinator
        self._key = key
        self._disk = disk
        self._lists = lists
        self._patience = patience

    def enter(self, needs: set[int]) -> ClosedRollCall:
        """Say what this disk needs, and wait for the roll call to be closed. Raises CoordinatorLost."""
        disk_number = count_rank(self._coordinator, self._disk)
        while True:
            number = self._open_round()
            turn = self._turn(number)
            mine = self._coordinator.add(f"{turn}/needs", 1)
            if self._lists:
                self._coordinator.set(f"{turn}/need/{mine}", json.dumps(sorted(needs)))
            plan = decide(self._coordinator, f"{turn}/plan", partial(self._close, number, disk_number)).value
            if mine <= plan["size"]:
                position = plan["order"].index(mine - 1)
                return ClosedRollCall(plan["session"], position, plan["size"], frozenset(plan["needs"]), plan["givers"])

    def _open_round(self) -> int:
        """The round that this process may enter: what entered it before is of this attempt of the job."""
        while True:
            number = self._coordinator.add(f"{self._key}/round", 0)
            now = json.dumps(Moment.now().to_json())
            opened = self._coordinator.compare_set(f"{self._turn(number)}/opened", "", now)
            if Moment.parse(json.loads(opened)).age() <= self._coordinator.oldest():
                return number
            self._end(number)

    def _end(self, number: int) -> None:
        """Have the next process that comes find the next round open."""
        self._coordinator.compare_set(f"{self._key}/round", str(number), str(number + 1))

    def _close(self, number: int, disk_number: int) -> dict[str, Any]:
        """The plan of the roll call: what one process decides for all that are on it."""
        turn = self._turn(number)
        self._wait(turn, disk_number)
        # Closed first, counted then: a process that is not counted finds the next round open.
        self._end(number)
        size = self._coordinator.add(f"{turn}/needs", 0)
        if self._patience is None:
            self._remember(alone=size == 1)
        needs = self._needs(turn, size)
        return {
            "session": f"cast/{uuid.uuid4().hex}",
            "size": size,
            "needs": sorted({n for needed in needs for n in needed or ()}),
            "order": sorted(range(size), key=lambda member: _distance(needs[member])),
            "givers": needs.count([]),
        }

    def _turn(self, number: int) -> str:
        return f"{self._key}/{number}"

    def _remember(self, *, alone: bool) -> None:
        _lonely[self._disk] = _lonely.get(self._disk, 0) + 1 if alone else 0

    def _needs(self, turn: str, size: int) -> list[list[int] | None]:
        """Of each process on the roll call; None of one that died after it had entered."""
        if not self._lists:
            return [[0]] * size
        return [self._needs_of(f"{turn}/need/{member}") for member in range(1, size + 1)]

    def _needs_of(self, key: str) -> list[int] | None:
        deadline = time.monotonic() + NEEDS_TIMEOUT
        for _ in pauses(self._coordinator.world_size):
            if self._coordinator.check(key):
                needs: list[int] = json.loads(self._coordinator.get(key))
                return needs
            if time.monotonic() > deadline:
                break
        return None

    def _wait(self, turn: str, disk_number: int) -> None:
        """Until all disks of the job have spoken, or one was silent for too long."""
        deadline = time.monotonic() + (self._patience or self._usual_patience())
        for _ in pauses(self._coordinator.world_size):
            if self._all_spoke(turn, disk_number) or time.monotonic() > deadline:
                return

    def _usual_patience(self) -> float:
        halvings: int = _lonely.get(self._disk, 0)
        return max(SILENT_DISK_PATIENCE / float(2**halvings), SHORTEST_PATIENCE)

    def _all_spoke(self, turn: str, disk_number: int) -> bool:
        on_it = self._coordinator.add(f"{turn}/needs", 0)
        complete = self._coordinator.add(f"{self._key}/{HAVE}", 0)
        return _all_counted(self._coordinator, disk_number, on_it + complete)


def _distance(needed: list[int] | None) -> float:
    """From the source, in the tree. A dead process comes last, so that nothing is below it."""
    return float("inf") if needed is None else len(needed)


def _all_counted(coordinator: Coordinator, disk_number: int, spoke: int) -> bool:
    """Whether all ranks have said which disk they are on, and `spoke` disks are all there are."""
    if coordinator.add(f"disks/{disk_number}/ranks", 0) < coordinator.world_size:
        return False
    return spoke >= coordinator.add(f"disks/{disk_number}", 0)
