"""The shards around the one that is being read: fetched ahead, at most so many, the one that is wanted first of all.

    take(n)     shard n, once it is here; those behind it come meanwhile

Not the order of an epoch (`shares`). Invariants: a failure belongs to its own shard, and is raised when that one is
asked for; the first that is missing has the connections before the others, which begin when it can use no more; at
most `ahead` shards are here or on their way that were not asked for; once closed, no thread is left after a second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..artifact.artifact import Artifact
from ..callers import suppress
from ..cancel import Cancel, Cancelled
from ..coordination.threads import ThreadPool
from ..download.turn import Turn
from ..errors import NoSpace
from ..retention.passing import PassingBlobs

__all__ = ["FetchShard", "Window"]

FetchShard = Callable[[Artifact, Cancel, Turn], Path]
Settled = Path | BaseException


class Window:
    """The shards of one reader. `fetch` is called in threads, and for each shard once unless it failed."""

    def __init__(self, shards: Sequence[Artifact], fetch: FetchShard, ahead: int, passing: PassingBlobs | None) -> None:
        self._shards = shards
        self._fetch = fetch
        self._passing = passing  # what evicts shards that were passed
        self._ahead = ahead
        self._changed = threading.Condition()
        self._turns: dict[int, Turn] = {}  # of the shards that were begun
        self._settled: dict[int, Settled] = {}
        self._wanted = 0  # the shard that is being waited for, or will be next
        self._waiting = False
        self._cancel = Cancel()
        self._pid = os.getpid()
        self._pool = ThreadPool(ahead + 1)

    def take(self, n: int, cancel: Cancel) -> Settled:
        """Shard `n`, or the error of its fetch, which is forgotten: asked for again, it is fetched again.

        Raises Cancelled once `cancel` is set, or the window closed.
        """
        with self._changed:
            self._wanted = n
            self._waiting = True
            self._forget_before(n)
            begun = n in self._turns
            if isinstance(self._settled.get(n), NoSpace):
                self._forget(n)
        try:
            outcome = self._outcome(n, cancel)
            if begun and isinstance(outcome, NoSpace):  # it asked for room before what was passed had gone
                outcome = self._outcome(n, cancel)
        finally:
            self._waiting = False
        self._advance()
        return outcome

    def _outcome(self, n: int, cancel: Cancel) -> Settled:
        """Begin it if it is not under way, and wait for it. An error is forgotten."""
        with self._changed:
            self._wanted = n
        self._advance()
        with cancel.watch(self._wake), self._changed:
            self._changed.wait_for(lambda: n in self._settled or cancel.is_set() or self._cancel.is_set())
            cancel.check()
            self._cancel.check()
            outcome = self._settled[n]
            if isinstance(outcome, BaseException):
                self._forget(n)
            self._wanted = n + 1  # in this step, or a shard that failed would be begun anew
            return outcome

    def pass_all(self) -> None:
        """The caller is done with every shard that it took."""
        with self._changed:
            self._forget_before(self._wanted)

    def _forget_before(self, n: int) -> None:
        for shard in [shard for shard in self._turns if shard < n]:
            path = self._settled.get(shard)
            if self._passing is not None and isinstance(path, Path):
                self._passing.passed(path)
            self._forget(shard)

    def _forget(self, n: int) -> None:
        self._turns.pop(n, None)
        self._settled.pop(n, None)

    # --- what is fetched now ------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin what may begin. Called whenever a shard is asked for, is here, or can use no more connections."""
        with self._changed:
            begun = [self._begin(n) for n in self._next() if n not in self._turns]
        for job in begun:
            self._pool.submit(job)

    def _next(self) -> range:
        """The shards that may be on their way now."""
        end = self._wanted + max(self._ahead, 1 if self._waiting else 0)
        end = min(end, len(self._shards))
        first = next((n for n in range(self._wanted, end) if n not in self._settled), end)
        turn = self._turns.get(first)
        if turn is not None:
            turn.first = True
        return range(self._wanted, end if turn is not None and turn.is_settled else min(first + 1, end))

    def _begin(self, n: int) -> Callable[[], None]:
        self._turns[n] = turn = Turn(self._advance)
        turn.first = all(before in self._settled for before in range(self._wanted, n))
        return partial(self._bring, n, turn)

    def _bring(self, n: int, turn: Turn) -> None:
        """Fetch shard `n` in a thread of the pool."""
        try:
            self._cancel.check()
            outcome: Settled = self._hold(n, turn)
        except BaseException as e:  # noqa: BLE001 - raised where the shard is asked for
            outcome = e
        with self._changed:
            if self._turns.get(n) is turn and not isinstance(outcome, Cancelled):
                self._settled[n] = outcome
            self._changed.notify_all()
        self._advance()
        with suppress(Cancelled):
            turn.afterwards()

    def _hold(self, n: int, turn: Turn) -> Path:
        """Fetch it, and have it stay. A reader beside this one may evict it before this one holds it."""
        while True:
            path = self._fetch(self._shards[n], self._cancel, turn)
            if self._passing is None or self._passing.hold(path, turn.came):
                return path
            self._cancel.check()

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Every shard was taken: return once what they left to do is over."""
        self._pool.close()

    def stop(self) -> None:
        """Have what is on its way end within a second. Waits for nothing, so that garbage collection may call it."""
        if self._pid == os.getpid():  # a forked child has no thread of it, and locks that none will release
            self._cancel.set()
            self._wake()
            if self._passing is not None:
                self._passing.close()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """`stop`, and return once all has ended. What had come of a shard is kept, and resumed by the next fetch."""
        self.stop()
        self._pool.close()
