"""What happens in a cache, told to a caller that listens and counted for all that do not.

Not the log, which is for people, and not the display. A call says for its thread where events go (`telling`); what
works below it says `tell`. Invariants: an event holds no credential; a listener is called by the thread that works, and
what it raises comes out of its own call alone; a hit that no one listens to costs one addition.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar
from weakref import WeakSet

from .callers import call_back
from .progress import EVERY, Progress
from .scope import Scoped

__all__ = [
    "Counts",
    "Event",
    "Evict",
    "Heal",
    "Hit",
    "Listener",
    "Miss",
    "Progress",
    "Publish",
    "Retry",
    "Start",
    "Stats",
    "Wait",
    "is_heard",
    "tell",
    "telling",
]


@dataclass(frozen=True, slots=True)
class Hit:
    """It was here: no network, no lock, no read."""

    kind: ClassVar[str] = "hit"
    url: str
    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class Miss:
    """It was not here, or was to be read again. What follows brings it, or is the call's error."""

    kind: ClassVar[str] = "miss"
    url: str
    digest: str | None  # as far as the caller gave it


@dataclass(frozen=True, slots=True)
class Wait:
    """The call waited until another process, or another call of this one, had it or let go of it."""

    kind: ClassVar[str] = "wait"
    url: str
    holder: str  # "pid 4711 on node7"
    seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """A server is about to be asked for it."""

    kind: ClassVar[str] = "start"
    url: str
    size: int | None  # bytes, as far as the caller gave it


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed, and is asked for again after a pause."""

    kind: ClassVar[str] = "retry"
    url: str
    reason: str
    seconds: float  # of the pause


@dataclass(frozen=True, slots=True)
class Publish:
    """A download is verified, synced and visible."""

    kind: ClassVar[str] = "publish"
    url: str  # that gave it
    digest: str
    path: str
    size: int  # bytes
    seconds: float  # since its Start


@dataclass(frozen=True, slots=True)
class Heal:
    """A file that something seemed to have written to was read."""

    kind: ClassVar[str] = "heal"
    url: str
    digest: str
    right: bool  # False: it is replaced


@dataclass(frozen=True, slots=True)
class Evict:
    """Something went to make room, or because it was long unused."""

    kind: ClassVar[str] = "evict"
    what: str  # trash, partial, product, tree, blob
    path: str
    size: int  # bytes that went with it
    reason: str


Event = Hit | Miss | Wait | Start | Progress | Retry | Publish | Heal | Evict
Listener = Callable[[Event], object]


@dataclass(frozen=True, slots=True)
class Stats:
    """What this process did in one base directory since it began. Sizes in bytes."""

    hits: int
    misses: int
    waits: int
    starts: int
    retries: int
    publishes: int
    heals: int
    evicts: int
    bytes_published: int
    bytes_evicted: int
    seconds_waited: float


# What an event adds beside one of its kind -> the counter, and the fact.
_SUMS: dict[type, tuple[str, str]] = {
    Publish: ("bytes_published", "size"),
    Evict: ("bytes_evicted", "size"),
    Wait: ("seconds_waited", "seconds"),
}
_PLURALS = {"miss": "misses", "retry": "retries", "publish": "publishes"}


class Counts:
    """The counters of one base directory in this process; a forked child begins at zero."""

    def __init__(self) -> None:
        self.hits = 0  # added to without the lock, which would cost a hit 1% of its time
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()
        _all.add(self)

    def add(self, event: Event) -> None:
        kind = type(event)
        if kind is Hit:
            self.hits += 1
            return
        with self._lock:
            self._sums[_PLURALS.get(event.kind, f"{event.kind}s")] += 1
            if kind in _SUMS:
                name, fact = _SUMS[kind]
                self._sums[name] += getattr(event, fact)

    def stats(self) -> Stats:
        with self._lock:
            return Stats(**{field.name: self._sums[field.name] for field in fields(Stats)} | {"hits": self.hits})

    def reset(self) -> None:
        self.hits = 0
        self._lock = threading.Lock()  # a thread of the parent may have held it
        self._sums.clear()


_all: WeakSet[Counts] = WeakSet()


def _reset() -> None:
    for counts in list(_all):
        counts.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


T = TypeVar("T")


class _Ears:
    """Where the events of one call go."""

    def __init__(self, counts: Counts, listener: Listener | None) -> None:
        self.counts = counts
        self.listener = listener
        self._progress: Progress | None = None  # the last one
        self._progress_at = 0.0  # when that was, in seconds of the monotonic clock

    def tell(self, event: Event) -> None:
        if type(event) is not Progress:
            self.counts.add(event)
        elif self._is_no_news(event):
            return
        if self.listener is not None:
            call_back(self.listener, event)

    def _is_no_news(self, progress: Progress) -> bool:
        now = time.monotonic()
        too_soon = now - self._progress_at < EVERY and progress.done != progress.total
        if too_soon or progress == self._progress:
            return True
        self._progress, self._progress_at = progress, now
        return False


_ears: Scoped[_Ears | None] = Scoped("nanocache ears", None)


def telling(counts: Counts, listener: Listener | None, step: Callable[[], T]) -> T:
    """What `step` gives. What it does in this thread is counted, and told to `listener`.

    What the listener raises is CallersError until it leaves the caller's call.
    """
    return _ears.call(_Ears(counts, listener), step)


def tell(event: Event) -> None:
    """Say what happened. Outside of `telling` it is lost."""
    if (ears := _ears.get()) is not None:
        ears.tell(event)


def is_heard() -> bool:
    """Whether a caller listens: for events that come a hundred times a second."""
    return (ears := _ears.get()) is not None and ears.listener is not None
