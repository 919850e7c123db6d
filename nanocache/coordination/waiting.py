"""Wait for a lock until the artifact appears, the lock is free, or its holder is dead.

Not the lock (`lock`) and not what the holder writes (`holder`). Invariants: the wait is bounded by the holder's life
and never by a clock, so that a long healthy download fails no waiter; if locking fails, warn once and go on without it,
which the store allows; a waiter adopts an error only from a failure that happened during its wait, and only if its own
request was the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..callers import let_pass
from ..cancel import Cancel
from ..disk import files
from ..errors import LockTimeout, NanocacheError, UnsafeCache
from .holder import HolderRecord, HolderWriter, RequestIdentity, read
from .lock import Lock, LockPlace, try_lock
from .process import Identity

__all__ = ["Goal", "WaitOptions", "hold_lock"]

logger = logging.getLogger("nanocache")

# Measured with 7 waiters: at 5 ms the last is back 4.8 ms after publication and burns 1.7% of a core; at 25 ms, 18 ms.
NEAR = 0.005  # seconds between two looks while the holder is on this host
LOOKS = 5  # looks for each attempt to lock, which costs as much as ten of them; a changed record brings one at once
FAR = (
    0.5  # seconds between two looks at another host's holder: thousands of nodes that poll one disk are its whole load
)
DEAD = 5.0  # seconds without a living holder on this host, after which a waiter goes on without the lock
SILENT = 60.0  # seconds that a holder elsewhere may give no sign of life
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

    Where the lock can't be had the block runs without it, after one warning. Raises the error of a failed holder whose
    request was the same, LockTimeout, Cancelled, UnsafeCache.
    """
    waiter = _Waiter(place, options)
    try:
        waiter.wait()
        if waiter.reached:
            yield None
            return
        writer = HolderWriter(place if waiter.lock else None, standing=waiter.stamp is not None)
        with _recorded(writer, options.identity):
            yield writer
    finally:
        waiter.release()


@contextmanager
def _recorded(writer: HolderWriter, identity: RequestIdentity) -> Iterator[None]:
    """Keep the holder's record while the block runs, and leave the error in it if the block fails."""
    try:
        writer.start()
        yield
    except NanocacheError as e:
        writer.failed(e, identity)
        raise
    except BaseException:  # an interruption, or a fault of this machine's: no other process's result
        writer.clear()
        raise
    else:
        writer.clear()
    finally:
        writer.stop()


class _Waiter:
    """One wait: what was seen, and when."""

    def __init__(self, place: LockPlace, options: WaitOptions) -> None:
        self.reached = False
        self.lock: Lock | None = None  # released by `hold_lock`, however the wait ends
        self._place = place
        self._options = options
        # A failure that is there now came before this wait, and binds no process that comes after it.
        self.stamp = files.stamp(place.record)
        self._record: HolderRecord | None = read(place.record) if self.stamp else None
        self._looks_to_lock = 0  # looks until the next attempt to lock
        now = time.monotonic()
        self._life_checked = 0.0
        self._last_sign = now  # of the holder's life
        self._last_progress = now

    def wait(self) -> None:
        """Return once the lock is held, the goal reached, or the wait given up: then the caller goes on without."""
        while True:
            try:
                self._try_lock()
            except UnsafeCache:
                raise
            except OSError as e:
                let_pass(e)
                self._warn_unlocked(f"cannot lock {self._place.path} ({e})")
                return
            if self.lock is not None:
                self._look()
                return
            if self._over():
                return
            self._sleep()

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _try_lock(self) -> None:
        if self._looks_to_lock <= 0:
            self._looks_to_lock = LOOKS
            self.lock = try_lock(self._place.path, mode=self._place.mode)

    def _over(self) -> bool:
        """Whether the wait ends here without the lock. Raises what ends it with an error."""
        self._options.cancel.check()
        if self._near and self._options.goal():
            self.reached = True
            return True
        self._look()
        self._check_timeout()
        return self._holder_is_gone()

    def _sleep(self) -> None:
        if self._looks_to_lock <= 0:  # the record changed: try the lock at once
            return
        near = self._near
        self._options.cancel.sleep(NEAR if near else FAR)
        self._looks_to_lock -= 1 if near else LOOKS

    @property
    def _holder(self) -> Identity | None:
        return self._record.holder if self._record else None

    @property
    def _near(self) -> bool:
        holder = self._holder
        return holder is None or holder.here

    def _look(self) -> None:
        """Read the record if it changed; raise the error in it if this waiter's request was the same."""
        stamp = files.stamp(self._place.record)
        if stamp == self.stamp:
            return
        self.stamp = stamp
        self._looks_to_lock = 0
        self._last_sign = time.monotonic()
        record = read(self._place.record) if stamp else None
        if record is not None:  # else it was cleared, or met half written: the next look tells
            self._take(record)

    def _take(self, record: HolderRecord) -> None:
        before = self._record
        self._record = record
        if record.error is not None and record.is_of(self._options.identity):
            raise record.error
        if before is None or (before.holder, before.done) != (record.holder, record.done):
            self._last_progress = self._last_sign
        if record.holder is not None:
            self._options.show(str(record.holder), record.done or 0, record.total)

    def _check_timeout(self) -> None:
        limit = self._options.timeout
        waited = time.monotonic() - self._last_progress
        if limit is None or waited < limit:
            return
        holder = self._holder
        record = self._record
        raise LockTimeout(
            path=self._place.path,
            waited=waited,
            pid=None if holder is None else holder.pid,
            host=None if holder is None else holder.host,
            done=None if record is None else record.done,
            total=None if record is None else record.total,
        )

    def _holder_is_gone(self) -> bool:
        """Whether no living process is seen to hold the lock for so long that this one goes on without it."""
        now = time.monotonic()
        if now - self._life_checked < CHECK_LIFE:
            return False
        self._life_checked = now
        holder = self._holder
        alive = False if holder is None else holder.alive
        if alive:
            self._last_sign = now
        patience = SILENT if alive is None else DEAD
        if now - self._last_sign < patience:
            return False
        self._warn_unlocked(f"no living process is seen to hold {self._place.path}")
        return True

    def _warn_unlocked(self, reason: str) -> None:
        logger.warning("%s; going on without: a download may be made twice", reason)
