"""Open connections that wait for their next exchange, by where they lead.

Not what a connection is (`exchange`). Invariants: one that waits has one user at most; one that waited for longer than
servers wait is not used again; no lock is held, so that no fork meets one.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from ..callers import suppress

__all__ = ["IdleConnection", "close_all", "give_back", "kept", "take"]

IDLE_CONNECTIONS = 64  # kept open at most, less one for each origin

Key = tuple[Any, ...]


class IdleConnection(Protocol):
    """What can be kept."""

    key: Key
    since: float  # monotonic seconds since which it is idle

    def close(self) -> None: ...


# Lists, whose append and pop are atomic.
kept: dict[Key, list[Any]] = {}


def take(key: Key, seconds: float) -> Any:
    """The one that was used last; None if there is none that was within so many `seconds`."""
    while waiting := kept.get(key):
        with suppress(IndexError):  # another thread was faster
            connection = waiting.pop()
            if time.monotonic() - connection.since < seconds:
                return connection
            connection.close()
    return None


def give_back(connection: IdleConnection) -> None:
    connection.since = time.monotonic()
    kept.setdefault(connection.key, []).append(connection)
    if sum(1 + len(waiting) for waiting in list(kept.values())) > IDLE_CONNECTIONS:
        _close_some()


def _close_some() -> None:
    """Close what is idle to the origin that was not asked for the longest."""
    newest = {key: _newest(waiting) for key, waiting in list(kept.items())}
    waiting = kept.pop(min(newest, key=lambda key: newest[key], default=()), [])
    while waiting:
        with suppress(IndexError):  # another thread took it
            waiting.pop().close()


def _newest(waiting: list[IdleConnection]) -> float:
    return max((connection.since for connection in list(waiting)), default=0.0)


def close_all() -> None:
    while kept:
        _close_some()
