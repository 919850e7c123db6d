"""What `Coordinator` offers, on a dict, in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from nanocache.coordination.process import Identity, me
from nanodist.coordination.clock import Moment
from nanodist.coordination.election import LeaderClaim


class FakeStore:
    """What `Coordinator` offers, in one process. `later` runs at the next look at a missing key."""

    def __init__(self, rank: int = 0) -> None:
        self.rank, self.world_size, self.age, self.lost = rank, 4, float("inf"), None
        self.last_outcome: dict[str, str] = {}
        self.where = SimpleNamespace(lasting=True)
        self.values: dict[str, str] = {}
        self.later: list[Callable[[], None]] = []
        self.boot = me().boot

    def oldest(self) -> float:
        return self.age

    def check(self, key: str) -> bool:
        if key not in self.values and self.later:
            self.later.pop(0)()
        return key in self.values

    def wait(self, key: str, seconds: float, looks: Iterator[None]) -> bool:
        next(looks)
        return self.check(key)

    def get(self, key: str) -> str:
        return self.values[key]  # the real one would block

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def add(self, key: str, amount: int) -> int:
        self.values[key] = str(int(self.values.get(key, "0")) + amount)
        return int(self.values[key])

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        if self.values.get(key, "") == expected:
            self.values[key] = desired
        return self.values[key]

    def claim(self, key: str, who: Identity, *, made: float, nonce: str = "theirs") -> LeaderClaim:
        self.boot = who.boot
        claim = LeaderClaim(nonce, 3, self.moment(made), who)
        self.values[key] = claim.text
        return claim

    def outcome(self, key: str, ended: float, nonce: str = "theirs", **record: Any) -> None:
        self.values[f"{key}/{nonce}/out"] = json.dumps(record | {"ended": self.moment(ended).to_json()})

    def moment(self, at: float) -> Moment:
        return Moment(at, at, self.boot)


def another(at: FakeStore) -> FakeStore:
    """Another rank at the same store."""
    rank = FakeStore()
    rank.values = at.values
    return rank
