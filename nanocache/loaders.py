"""prefetch: the shards of an epoch, in order, the next ones fetched while the caller works on this one.

Not a dataset, not a format, no shuffling of samples. What is here is what a loader holds in its hand: an iterator that
knows its rank and worker, can be stopped anywhere, and goes on with any number of ranks.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from .artifact import arguments
from .artifact.artifact import Artifact
from .cache import Cache, PathLike
from .cancel import Cancel, ambient
from .config import Settings
from .engine import shares
from .engine.room import deleting
from .engine.shares import Place
from .engine.window import FetchShard, Window
from .retention.passing import PassingBlobs
from .store.blobs import Store

__all__ = ["Prefetch", "prefetch"]

OnError = Literal["raise", "skip"]
Yielded = Path | BaseException

STATE_VERSION = 1  # version of a state


def prefetch(
    artifacts: Iterable[object] | Mapping[Any, str],
    *,
    ahead: int = 2,
    evict_behind: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    epoch: int = 0,
    seed: int | None = None,
    start: int = 0,
    on_error: OnError = "raise",
    offline: bool | None = None,
    base_dir: PathLike | None = None,
) -> Prefetch:
    """The paths of this reader's share of `artifacts`, in order; the next `ahead` come while the caller works.

    With `seed` the order is shuffled, for each `epoch` anew and on all ranks alike. `rank` of `world_size` gets each
    world_size-th shard, and within it a DataLoader's worker each num_workers-th. `start`: so many of the epoch's shards
    are left out, over all ranks. The shard that is waited for has the connections first.

    An iterator, for `for`, `async for`, `next` and `with`; nothing is fetched before its first shard is asked for, and
    an abandoned one leaves nothing running. It pickles, and survives fork: a worker goes on with its own part of what
    is left. `state_dict()` is JSON; `load_state_dict` takes one, or the list of all ranks' states, and a new number of
    ranks goes on with what none of them yielded.

    `evict_behind` removes a shard that this iterator downloaded once the next one is asked for, unless it is pinned,
    held, or has a further name elsewhere: the disk holds `ahead` + 1 shards of each reader, and one more on its way.
    Of readers of the same shards on one disk the last to pass one removes it.

    `on_error`: "raise" has a shard's error come out where that shard would (`next` tries it again), "skip" yields the
    exception in its place. Raises ValueError; iterating raises what `fetch` raises.
    """
    return Prefetch(
        artifacts,
        ahead=ahead,
        evict_behind=evict_behind,
        rank=rank,
        world_size=world_size,
        epoch=epoch,
        seed=seed,
        start=start,
        on_error=on_error,
        offline=offline,
        base_dir=base_dir,
    )


def by_cache(cache: Cache, offline: bool | None) -> FetchShard:
    """How a shard comes into `cache`: as this process alone would fetch it."""
    return partial(cache.fetch_shard, offline)


class Prefetch:
    """What `prefetch` gives. One caller uses it at a time."""

    fetching: Callable[[Cache, bool | None], FetchShard] = staticmethod(by_cache)  # nanodist's has ranks share it

    def __init__(
        self,
        artifacts: Iterable[object] | Mapping[Any, str],
        *,
        ahead: int,
        evict_behind: bool,
        rank: int | None,
        world_size: int | None,
        epoch: int,
        seed: int | None,
        start: int,
        on_error: OnError,
        offline: bool | None,
        base_dir: PathLike | None,
    ) -> None:
        self._artifacts = Artifact.each(artifacts)
        self._ahead = arguments.whole("ahead", ahead, "shards", 0)
        self._evicts = arguments.flag("evict_behind", evict_behind)
        self._rank, self._world_size = _reader(rank, world_size)
        self._epoch = arguments.whole("epoch", epoch, "epochs", 0)
        self._seed = None if seed is None else arguments.whole("seed", seed, "any kind", -(1 << 63))
        self._consumed = set(range(min(arguments.whole("start", start, "shards", 0), len(self._artifacts))))
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self._skips = on_error == "skip"
        self._offline = arguments.option("offline", offline)
        self._base_dir = None if base_dir is None else os.fspath(base_dir)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._yielded = 0
        self._window: Window | None = None
        self._share: list[int] = []  # places of the order; of `self._place` in `self._pid`
        self._place: Place | None = None
        self._pid = 0
        self._finalizer: weakref.finalize[..., Prefetch] | None = None

    # --- iterating ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Path:
        return self._next(ambient())

    def _next(self, cancel: Cancel) -> Path:
        window = self._open()
        if self._yielded >= len(self._share):
            window.pass_all()
            window.finish()
            self.close()
            raise StopIteration
        outcome = window.take(self._yielded, cancel)
        if isinstance(outcome, BaseException) and not (self._skips and isinstance(outcome, Exception)):
            raise outcome
        self._yielded += 1
        return outcome  # type: ignore[return-value]  # an exception, where the caller asked for it

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Path:
        from .coordination import tasks

        outcome = await tasks.share_async(("prefetch", id(self), self._yielded), self._next_or_none)
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def _next_or_none(self, cancel: Cancel) -> Path | None:
        try:
            return self._next(cancel)
        except StopIteration:  # which no future may hold
            return None

    def __len__(self) -> int:
        """How many shards fall to this reader, from where it began."""
        place = self._here()
        return len(self._share if place == self._place else shares.share(len(self._artifacts), self._consumed, place))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is being fetched ahead. The iterator can go on afterwards."""
        window = self._window
        self._window = None
        if window is not None and self._pid == os.getpid():
            window.close()

    def _open(self) -> Window:
        """The window of this process and this worker; made anew in a forked or spawned one."""
        place = self._here()
        if place != self._place or self._pid != os.getpid():
            self._settle(place)
        if self._window is None:
            self._window = self._new_window()
        return self._window

    def _here(self) -> Place:
        worker, workers = _worker()
        return Place(self._rank, self._world_size, worker, workers)

    def _settle(self, place: Place) -> None:
        """Become the reader at `place`, of what this iterator has not yielded."""
        self._consumed |= set(self._share[: self._yielded])
        self._begin_anew()
        self._place = place
        self._pid = os.getpid()
        self._share = shares.share(len(self._artifacts), self._consumed, place)

    def _new_window(self) -> Window:
        order = shares.order(len(self._artifacts), self._seed, self._epoch)
        shards = [self._artifacts[order[place]] for place in self._share]
        cache = Cache(self._base_dir)
        passing = PassingBlobs(cache.store, partial(_deleting, cache.store)) if self._evicts else None
        window = Window(shards, self.fetching(cache, self._offline), self._ahead, passing)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, window.stop)
        self._finalizer.atexit = False  # its threads are daemons
        return window

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where this reader stands, as JSON: what it yielded counts as consumed."""
        place = self._place or self._here()
        return {
            "version": STATE_VERSION,
            "count": len(self._artifacts),
            "epoch": self._epoch,
            "seed": self._seed,
            "consumed": shares.ranges(self._consumed),
            "rank": place.rank,
            "world_size": place.world_size,
            "worker": place.worker,
            "workers": place.workers,
            "yielded": self._yielded,
        }

    def load_state_dict(self, state: dict[str, Any] | Sequence[dict[str, Any]]) -> None:
        """Go on where `state` stood, or after what all of a list of states yielded. Raises ValueError.

        One state stands for all readers of its run, which then have yielded equally many. Epoch and seed are the
        state's; rank and world size stay this iterator's own.
        """
        states = [state] if isinstance(state, dict) else list(state)
        _check(states, len(self._artifacts))
        self.close()
        self._consumed = shares.consumed_by(states)
        self._epoch, self._seed = states[0]["epoch"], states[0]["seed"]
        self._begin_anew()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_window": None, "_finalizer": None, "_pid": 0}


def _deleting(store: Store) -> Callable[[int], object]:
    return deleting(store, Settings.read())


def _reader(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError("rank and world_size come together: which share is meant, of how many")
    if rank is None or world_size is None:
        return 0, 1
    arguments.whole("world_size", world_size, "ranks", 1)
    if arguments.whole("rank", rank, "ranks", 0) >= world_size:
        raise ValueError(f"rank must be below world_size, got {rank} of {world_size}")
    return rank, world_size


def _worker() -> tuple[int, int]:
    """(number, count) of this process among a DataLoader's workers; (0, 1) elsewhere. Loads no torch."""
    data = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


_KINDS: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "count": (int,),
    "epoch": (int,),
    "seed": (int, type(None)),
    "consumed": (list, tuple),
    "rank": (int,),
    "world_size": (int,),
    "worker": (int,),
    "workers": (int,),
    "yielded": (int,),
}
_ALIKE = ("version", "count", "epoch", "seed", "consumed", "world_size", "workers")


def _check(states: Sequence[Any], count: int) -> None:
    """Raise ValueError unless `states` are of one run over `count` artifacts."""
    if not states:
        raise ValueError("the list of states is empty")
    for state in states:
        if not isinstance(state, dict) or not all(isinstance(state.get(name), kinds) for name, kinds in _KINDS.items()):
            raise ValueError("not a state of prefetch: load what state_dict() gave, or a list of such")
    if states[0]["version"] != STATE_VERSION:
        raise ValueError(f"the state is of another version of prefetch: {states[0]['version']}")
    for name in _ALIKE:
        if any(state[name] != states[0][name] for state in states):
            raise ValueError(f"the states are of different runs: their {name} differs")
    if states[0]["count"] != count:
        raise ValueError(f"the state is of {states[0]['count']:,} artifacts, and there are {count:,}")
