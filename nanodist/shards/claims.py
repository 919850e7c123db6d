"""Which process brings a shard into the job: the first that says so in the store, and says where it gives it away.

    shard/<identity>    the claim, as JSON; "" once it was given up

Invariants: of the processes that claim one shard at one moment one wins; a claim is taken over only from a holder that
was tried in vain; what stands in the store is no credential of the artifact's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..coordination.store_client import StoreClient
from ..errors import CoordinatorLost

__all__ = ["ShardClaim", "claim", "give_up"]


@dataclass(frozen=True, slots=True)
class ShardClaim:
    """Who holds a shard, or will once it is downloaded."""

    disk: str  # the name of its disk in this job
    host: str
    port: int
    word: str  # what a process says that has read the claim, and no other can

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> ShardClaim:
        """Raises CoordinatorLost if it is none: another program writes there."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            raise CoordinatorLost(address="the job", reason=f"it holds no claim but {text[:100]!r}") from None


def claim(store: StoreClient, identity: str, mine: ShardClaim, *, instead: ShardClaim | None = None) -> ShardClaim:
    """The claim that holds now: `mine`, if there was none, or `instead`. Raises CoordinatorLost."""
    before = "" if instead is None else instead.to_text()
    text = store.compare_set(f"shard/{identity}", before, mine.to_text())
    return ShardClaim.from_text(text) if text else claim(store, identity, mine)


def give_up(store: StoreClient, identity: str, mine: ShardClaim) -> None:
    """Let another process try. Raises CoordinatorLost."""
    store.compare_set(f"shard/{identity}", mine.to_text(), "")
