"""What a waiter has seen of the holder, when, and how soon it looks again.

Not the waiting (`waiting`) and not what the holder writes (`holder`). Invariants: a look is one lstat, and reads only
what changed; nothing is believed for long before the record was opened, because mounts like NFS keep times and names
for up to a minute, and ask the server when a file is opened.
"""

from __future__ import annotations

import os
import time

from ..disk import files
from ..disk.absence import look_again
from .heartbeat import DELAY
from .holder import REWRITE, HolderRecord, read
from .process import Identity

__all__ = ["ObservedHolder"]

UNSURE = 0.01  # at most, if it has not said how long it still takes
PATIENT = 0.03  # at most, if it has
NEARLY_OVER = 1.0  # seconds until its end that a holder is left alone for
FAR_FROM_OVER = 2.5  # seconds until its end that another host's holder is looked at half as often
UNHEARD = 2.5 * REWRITE  # seconds without a rewrite after which a holder may be gone
REOPEN = 5.0  # seconds between two readings of another host's record


class ObservedHolder:
    """The record at `path`, as one waiter sees it."""

    def __init__(self, path: str) -> None:
        now = time.monotonic()
        self._path = path
        # A failure that is there now came before this wait, and binds no process that comes after it.
        self._stamp = files.stamp(path)
        self.record: HolderRecord | None = read(path) if self._stamp else None
        self.far = self._is_far()  # as it was last known: between two holders as well
        self._opened = now
        self._begun = now
        self._end: float | None = None  # when the holder ends its work, if it goes on like this
        self._expect_end()
        self.last_sign = now
        self.last_progress = now

    @property
    def standing(self) -> bool:
        """Whether a record lies there."""
        return self._stamp is not None

    @property
    def holder(self) -> Identity | None:
        return self.record.holder if self.record and self.standing else None

    def _is_far(self) -> bool:
        return self.record is not None and self.record.holder is not None and not self.record.holder.here

    # looking

    def look(self) -> bool:
        """Whether there is news: the record came, vanished, or is of a failure or another holder by now."""
        stamp = files.stamp(self._path)
        before = self._stamp
        self._stamp = stamp
        if stamp is None:
            self._end = None
            self.last_sign = self.last_sign if before is None else time.monotonic()
            return before is not None
        if stamp != before:
            self.last_sign = time.monotonic()
            if before is None or not self.far:
                return self.open()
        return self.far and self._outdated and self.open()

    @property
    def _outdated(self) -> bool:
        """Whether another host's record is to be read again: thousands of nodes may wait for it on one disk."""
        return time.monotonic() - self._opened >= (UNHEARD if self.quiet else REOPEN)

    def open(self) -> bool:
        """Read the record itself; whether there is news in it."""
        before = self.record
        self._opened = time.monotonic()
        record = read(self._path)
        if record is None or (before is not None and before.moment == record.moment):
            return False  # None: cleared just now, or met half written, and the next look tells
        self.last_sign = self._opened
        if before is None or (before.holder, before.done) != (record.holder, record.done):
            self.last_progress = self._opened
        self.record = record
        self.far = self.far if record.holder is None else self._is_far()
        self._expect_end()
        return before is None or (before.holder, before.salt) != (record.holder, record.salt)

    def _expect_end(self) -> None:
        left = None if self.record is None else self.record.left
        self._end = None if left is None else self._opened + left

    def ask_anew(self) -> bool:
        """Whether there was a sign of life after all, that the mount did not show."""
        before = self.last_sign
        look_again(self._path, below=os.path.dirname(self._path))
        self.look()
        self.open()
        return self.last_sign != before

    # what it tells

    @property
    def quiet(self) -> bool:
        """Whether no holder gives signs of life just now: the lock may be free."""
        return self.holder is None or time.monotonic() - self.last_sign >= UNHEARD

    @property
    def unknown(self) -> bool:
        """Whether a holder may be there that has not yet written its record."""
        return not self.standing and time.monotonic() - self._begun < 2 * DELAY

    @property
    def soon(self) -> bool:
        """Whether the holder may end within the next second."""
        return self._to_go < NEARLY_OVER

    @property
    def _to_go(self) -> float:
        """Seconds until the holder ends; 0 where that is not known."""
        return 0.0 if self._end is None else self._end - time.monotonic()

    def pause(self, near: float, far: float) -> float:
        """Seconds until the next look: the longer, the longer there is nothing to see.

        `near`: at a holder on this host that may end at any moment; `far`: at one elsewhere.
        """
        if self.far:
            return 2 * far if self._to_go > FAR_FROM_OVER else far
        now = time.monotonic()
        if self._end is None:
            return min(UNSURE, max(near, (now - self._begun) / 100))
        return min(PATIENT, max(near, abs(self._end - now) / 30))
