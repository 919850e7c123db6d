"""How one waits for a lock, and for whom: until the goal is there, the lock is free, or nobody lives who holds it.

Not the lock (`locks`) and not what the holder writes (`records`). Invariants: the wait is bounded by the holder's life
and never by a clock, so that a long healthy download fails nobody; what cannot be waited for costs one warning and is
done without the lock, which the store allows; an error is adopted only from a failure that happened during the wait,
and only by those who asked the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..cancel import Cancel
from ..disk import files
from ..errors import LockTimeout, NanocacheError, UnsafeCache
from . import holder as records
from .holder import HolderRecord, HolderWriter, RequestIdentity
from .lock import Lock, LockPlace, try_lock

__all__ = ["Goal", "WaitOptions", "hold_lock"]

logger = logging.getLogger("nanocache")

# Measured with 7 waiters: at 5 ms the last is back 4.8 ms after publication and burns 1.7% of a core; at 25 ms, 18 ms.
NEAR = 0.005  # seconds between two looks while the holder is on this host
LOOKS = 5  # for each attempt to lock, which costs as much as ten of them; a record that changes brings one at once
FAR = 0.5  # while it is not: thousands of nodes that poll one disk are its whole load
DEAD = 5.0  # seconds that nobody on this host may be seen to hold the lock before one goes on without it
SILENT = 60.0  # seconds that a holder elsewhere may give no sign of life
UNLOCKED = "going on without: a download may be made twice"
CHECK_LIFE = 0.25  # seconds between two looks at the holder's pid

Goal = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """What a waiter wants, and what it tells meanwhile."""

    goal: Goal  # whether what the lock protects is there already: at most a stat or two
    identity: RequestIdentity
    cancel: Cancel
    timeout: float | None  # seconds without progress of the holder before LockTimeout
    show: Callable[[str, int, int | None], None]  # holder, bytes done, total: called whenever its record changed


@contextmanager
def hold_lock(place: LockPlace, options: WaitOptions) -> Iterator[HolderWriter | None]:
    """Hold the lock at `place` for the block; None if the goal was reached while waiting for it.

    Where the lock can't be had the block runs without it, after one warning. Raises the error of a failed holder that
    asked the same, LockTimeout, Cancelled, UnsafeCache.
    """
    waiter = _Waiter(place, options)
    try:
        waiter.wait()
        if waiter.reached:
            yield None
            return
        with _holding(place, waiter.lock is not None, options.identity) as holding:
            yield holding
    finally:
        waiter.release()


@contextmanager
def _holding(place: LockPlace, locked: bool, identity: RequestIdentity) -> Iterator[HolderWriter]:
    holding = HolderWriter(place if locked else None)
    try:
        yield holding
    except NanocacheError as e:
        holding.failed(e, identity)
        raise
    except BaseException:  # an interruption, or a fault of this machine's: no other caller's result
        holding.clear()
        raise
    holding.clear()


class _Waiter:
    """One wait: what was seen, and when."""

    def __init__(self, place: LockPlace, options: WaitOptions) -> None:
        self.reached = False
        self.lock: Lock | None = None  # released by `hold_lock`, however the wait ends
        self._place = place
        self._options = options
        # Whatever is there now failed before this wait began, and binds nobody who comes after.
        self._stamp = files.stamp(self._place.record)
        self._record: HolderRecord | None = records.read(self._place.record) if self._stamp else None
        self._looked = 0.0
        self._due = 0  # looks until the next attempt to lock
        self._sign = self._progress = self._begun = time.monotonic()

    def wait(self) -> None:
        """Until `lock` is held; or until `reached`; or because one goes on without it."""
        while True:
            try:
                self._try()
            except UnsafeCache:
                raise
            except OSError as e:
                logger.warning(
                    "cannot lock %s (%s); going on without: a download may be made twice", self._place.path, e
                )
                return
            if self.lock is not None:
                self._look()
                return
            if self._over():
                return
            if self._due > 0:
                near = self._near()
                self._options.cancel.sleep(NEAR if near else FAR)
                self._due -= 1 if near else LOOKS

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _try(self) -> None:
        if self._due <= 0:
            self._due = LOOKS
            self.lock = try_lock(self._place.path, mode=self._place.mode)

    def _near(self) -> bool:
        holder = self._record.holder if self._record else None
        return holder is None or holder.here

    def _over(self) -> bool:
        """Whether the wait ends here without the lock. Raises what ends it with an error."""
        self._options.cancel.check()
        if self._near() and self._options.goal():
            self.reached = True
            return True
        self._look()
        self._check_timeout()
        return self._nobody()

    def _look(self) -> None:
        """Read the record if it changed; raise the error in it if it is meant for us."""
        stamp = files.stamp(self._place.record)
        if stamp == self._stamp:
            return
        self._stamp, self._due, now = stamp, 0, time.monotonic()
        before, record = self._record, records.read(self._place.record) if stamp else None
        self._sign = now
        if record is None:
            return  # cleared, or met half written: the next look tells
        self._record = record
        if record.error is not None and record.asked_by(self._options.identity):
            raise record.error
        if before is None or (before.holder, before.done) != (record.holder, record.done):
            self._progress = now
        if record.holder is not None:
            self._options.show(str(record.holder), record.done or 0, record.total)

    def _check_timeout(self) -> None:
        limit, waited = self._options.timeout, time.monotonic() - self._progress
        if limit is None or waited < limit:
            return
        record = self._record
        holder = record.holder if record else None
        raise LockTimeout(
            path=self._place.path,
            waited=waited,
            pid=holder.pid if holder else None,
            host=holder.host if holder else None,
            done=record.done if record else None,
            total=record.total if record else None,
        )

    def _nobody(self) -> bool:
        """Whether nobody alive is seen to hold the lock for so long that one goes on without it."""
        now = time.monotonic()
        if now - self._looked < CHECK_LIFE:
            return False
        self._looked = now
        holder = self._record.holder if self._record else None
        alive = holder.alive if holder else False
        if alive:
            self._sign = now
        if now - self._sign < (SILENT if alive is None else DEAD):
            return False
        logger.warning(
            "nobody alive is seen to hold %s; going on without: a download may be made twice", self._place.path
        )
        return True
