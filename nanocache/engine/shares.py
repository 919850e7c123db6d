"""Which reader gets which shard of an epoch, and what is left of one: pure arithmetic on positions.

    order       the positions of the artifacts, as the epoch's seed shuffles them
    consumed    places in the order that were yielded, on whatever rank
    share       what is left of the order, dealt out to ranks and, within a rank, to workers

Elastic: a state says what was consumed, not where a rank stood, so any number of ranks can go on with the rest.
Invariant: over an epoch each shard is dealt out exactly once, however often the number of ranks changes on the way.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Place", "consumed_by", "order", "ranges", "rest_of", "share"]


@dataclass(frozen=True, slots=True)
class Place:
    """One of the readers of an epoch: a rank, or a worker of it."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1

    def deal(self, rest: Sequence[int]) -> Sequence[int]:
        """This reader's part of `rest`."""
        return rest[self.rank :: self.world_size][self.worker :: self.workers]

    @property
    def readers(self) -> Iterator[Place]:
        """All readers of which this is one."""
        for rank in range(self.world_size):
            for worker in range(self.workers):
                yield Place(rank, self.world_size, worker, self.workers)


def order(count: int, seed: int | None, epoch: int) -> list[int]:
    """The positions 0 to `count`, in the epoch's order: as they are without a seed."""
    positions = list(range(count))
    if seed is not None:
        random.Random(f"{seed} {epoch}").shuffle(positions)  # noqa: S311
    return positions


def rest_of(count: int, consumed: Iterable[int]) -> list[int]:
    """The places of the order that are left."""
    gone = set(consumed)
    return [place for place in range(count) if place not in gone]


def share(count: int, consumed: Iterable[int], place: Place) -> list[int]:
    """The places of the order that fall to the reader at `place`."""
    return list(place.deal(rest_of(count, consumed)))


def ranges(places: Iterable[int]) -> list[list[int]]:
    """`places` as half-open ranges, for a state that stays short."""
    found: list[list[int]] = []
    for place in sorted(set(places)):
        if found and found[-1][1] == place:
            found[-1][1] = place + 1
        else:
            found.append([place, place + 1])
    return found


def consumed_by(states: Sequence[dict[str, Any]]) -> set[int]:
    """What the run that left `states` consumed: all its readers' states, or one, which stands for all alike."""
    first = states[0]
    before = {place for start, end in first["consumed"] for place in range(start, end)}
    rest = rest_of(first["count"], before)
    yielded = {_place(state): state["yielded"] for state in states}
    if len(states) == 1:  # the readers go in step, as training does
        yielded = dict.fromkeys(_place(first).readers, first["yielded"])
    for place, count in yielded.items():
        before.update(place.deal(rest)[:count])
    return before


def _place(state: dict[str, Any]) -> Place:
    return Place(state["rank"], state["world_size"], state["worker"], state["workers"])
