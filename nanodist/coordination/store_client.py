"""A client of the store: a few operations under one prefix, each of which ends.

Each raises CoordinatorLost once the store is out of reach: refused, reset, or silent for `ANSWER` seconds. Invariants:
a lost store is asked nothing more, because a late answer would be taken for the next question's; a key is deleted only
once no rank will read it, because torch waits for a missing key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ..errors import CoordinatorLost
from .torch_calls import TorchCalls

__all__ = ["ANSWER", "StoreClient", "torch_distributed"]

ANSWER = 10.0  # seconds that a store has to answer


class StoreClient:
    """A client of a store, under a prefix."""

    def __init__(self, address: str, client: Any, prefix: str) -> None:
        self.lost: CoordinatorLost | None = None
        self.store: Any = torch_distributed().PrefixStore(prefix, client)
        self._address = address
        self.calls = TorchCalls()

    def check(self, key: str) -> bool:
        return bool(self.ask(self.store.check, [key]))

    def wait(self, key: str, seconds: float, looks: Iterator[None]) -> bool:
        """Whether the key is there, after `seconds` at most of looking for it at each of `looks`; one look at least."""

        def look() -> bool:
            deadline = time.monotonic() + seconds
            while not self.store.check([key]):
                if time.monotonic() >= deadline:
                    return False
                next(looks)
            return True

        return bool(
            self.ask(look)
        )  # one job for all looks: handing each look to the thread costs as much as the look itself

    def get(self, key: str) -> str:
        """The value of a key that is there; a missing one would be waited for."""
        return str(self.ask(self.store.get, key).decode())

    def set(self, key: str, value: str) -> None:
        self.ask(self.store.set, key, value)

    def delete(self, key: str) -> None:
        """Of a key that no rank will read any more."""
        self.ask(self.store.delete_key, key)

    def add(self, key: str, amount: int) -> int:
        """The sum so far, this amount included; a missing key is 0."""
        return int(self.ask(self.store.add, key, amount))

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        """The key's value afterwards: `desired`, if it was `expected` (or absent, and that is "")."""
        return str(self.ask(self.store.compare_set, key, expected, desired).decode())

    def ask(self, question: Any, *args: Any) -> Any:
        if self.lost is not None:
            raise self.lost
        try:
            return self.calls.call(ANSWER, question, *args)
        except TimeoutError:
            self.lost = CoordinatorLost(address=self._address, reason=f"no answer within {ANSWER:g} s")
        except RuntimeError as e:  # torch's DistError, and what its socket code throws
            self.lost = CoordinatorLost(address=self._address, reason=str(e).split("\n", 1)[0])
        raise self.lost


def torch_distributed() -> Any:
    """torch.distributed, untyped: its stores are not exported to type checkers."""
    import torch.distributed

    return torch.distributed
