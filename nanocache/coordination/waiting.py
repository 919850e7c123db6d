"""Wait for a lock until the artifact appears, the lock is free, or its holder is dead.

Not the lock (`lock`), not what the holder writes (`holder`), not what a waiter sees of it (`observed`). Invariants: the
wait is bounded by the holder's life and never by a clock, so that a long healthy download fails no waiter; where a
holder is gone and its lock is not, one waiter goes on and the others wait for that one; if locking itself fails, warn
once and go on without it, which the store allows; a waiter adopts an error only from a failure that happened during its
wait, and only if its own request was the same.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..callers import let_pass
from ..cancel import Cancel
from ..errors import LockTimeout, NanocacheError, UnsafeCache
from .holder import HolderWriter, RequestIdentity, succeed
from .lock import Lock, LockPlace, try_lock
from .observed import ObservedHolder

__all__ = ["Goal", "WaitOptions", "hold_lock"]

logger = logging.getLogger("nanocache")

UNLOCKED = "%s; going on without: a download may be made twice"

# Measured with 7 waiters: a look costs 50 us of CPU, and the last of them is back one `NEAR` after publication.
NEAR = 0.003  # seconds between two looks at a holder on this host that may end at any moment
LOOKS = 5  # looks at the record for each attempt to lock, while no holder gives signs of life
# Thousands of nodes that poll one disk are its whole load. The last of them is back so long after publication.
FAR = 0.45  # seconds between two looks at another host's holder
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
    look_again: Callable[[], None] = lambda: None  # has the mount forget that it did not see the goal


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
            waiter.release()
            yield None
            return
        writer = HolderWriter(place if waiter.leads else None, standing=waiter.record_stands)
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
        self._succeeds = False  # whether this process goes on in the place of a holder that is gone
        self._place = place
        self._options = options
        self._observed = ObservedHolder(place.record)
        self._shown = self._observed.record
        self._looks_to_lock = 0  # looks until the next attempt to lock
        self._alive_at = time.monotonic()  # when the holder's process was last seen to live
        self._life_checked = 0.0
        # So that not all waiters lose their patience at once.
        self._patience = 1 + os.urandom(1)[0] / 2560

    @property
    def leads(self) -> bool:
        """Whether the record is this process's to write."""
        return self.lock is not None or self._succeeds

    @property
    def record_stands(self) -> bool:
        return self._succeeds or self._observed.standing

    def wait(self) -> None:
        """Return once the lock is held, the goal reached, or the wait given up: then the caller goes on without."""
        if self._try_lock():
            return
        while not self._over():
            if self._looks_to_lock > 0:
                self._sleep()
            elif self._try_lock():
                self.reached = self.lock is not None and self._is_reached_at_last()
                return

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _try_lock(self) -> bool:
        """Whether there is no more to wait for: the lock is held, or none is to be had."""
        self._looks_to_lock = LOOKS
        try:
            self.lock = try_lock(self._place.path, mode=self._place.mode)
        except UnsafeCache:
            raise
        except OSError as e:
            let_pass(e)
            logger.warning(UNLOCKED, f"cannot lock {self._place.path} ({e})")
            return True
        return self.lock is not None

    def _is_reached_at_last(self) -> bool:
        """Look once more, with the lock. Raises the error of a holder that failed meanwhile."""
        if self._observed.look() or self._observed.open():
            self._take()
        return self._is_reached()

    def _over(self) -> bool:
        """Whether the wait ends here without the lock. Raises what ends it with an error."""
        self._options.cancel.check()
        news = self._observed.look()
        if news:
            self._take()
        self._show()
        if (news or not self._observed.far) and (news or self._observed.soon):
            self.reached = self._is_reached()
        if self.reached:
            return True
        self._check_timeout()
        return self._holder_is_gone()

    def _take(self) -> None:
        """Ask for the lock at once if nothing holds it any more; raise the error if it is this waiter's, too."""
        record = self._observed.record
        if self._observed.holder is None:
            self._looks_to_lock = 0
        failed = None if record is None or not self._observed.standing else record.error
        if failed is not None and record is not None and record.is_of(self._options.identity):
            raise failed

    def _show(self) -> None:
        record = self._observed.record
        if record is not None and record is not self._shown and record.holder is not None:
            self._options.show(str(record.holder), record.done or 0, record.total)
        self._shown = record

    def _is_reached(self) -> bool:
        if self._options.goal():
            return True
        if not self._observed.far:
            return False
        self._options.look_again()
        return self._options.goal()

    def _sleep(self) -> None:
        self._options.cancel.sleep(self._observed.pause(NEAR, FAR))
        if self._observed.quiet:
            self._looks_to_lock -= 1

    def _check_timeout(self) -> None:
        limit = self._options.timeout
        if limit is None or self._stood_still < limit or self._observed.unknown:
            return
        self._observed.open()  # another host's record is seldom read
        if self._stood_still < limit:
            return
        record = self._observed.record
        holder = None if record is None else record.holder
        raise LockTimeout(
            path=self._place.path,
            waited=self._stood_still,
            pid=None if holder is None else holder.pid,
            host=None if holder is None else holder.host,
            done=None if record is None else record.done,
            total=None if record is None else record.total,
        )

    @property
    def _stood_still(self) -> float:
        return time.monotonic() - self._observed.last_progress

    def _holder_is_gone(self) -> bool:
        """Whether no living process was seen to hold the lock for so long that this one goes on without it."""
        now = time.monotonic()
        if now - self._life_checked < CHECK_LIFE:
            return False
        self._life_checked = now
        holder = self._observed.holder
        alive = False if holder is None else holder.alive
        if alive:
            self._alive_at = now
        elif alive is False and holder is not None:  # killed just now, and its lock is free
            self._looks_to_lock = 0
        patience = (SILENT if alive is None else DEAD) * self._patience
        if now - max(self._alive_at, self._observed.last_sign) < patience:
            return False
        return self._goes_on()

    def _goes_on(self) -> bool:
        """Whether this process is the one that goes on in the place of a holder that is gone."""
        if self._observed.ask_anew():
            self._take()
            return False
        self._alive_at = time.monotonic()  # if another waiter was faster: as patient with that one
        self._succeeds = succeed(self._place, self._observed.holder, standing=self._observed.standing)
        if self._succeeds:
            logger.warning(UNLOCKED, f"no living process is seen to hold {self._place.path}")
        return self._succeeds
