"""The room that one piece of work has under a cap: promised in the books before a byte of it comes, settled at its end.

What does not fit is refused before it comes, unless something long unused can go. Invariants: more bytes than were
promised are never on the disk; a file whose end is not known is promised in growing steps; whatever becomes of the
work, one call ends it, and a killed process's promises end with it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from functools import partial

from ..callers import suppress
from ..cancel import Cancel
from ..coordination.process import boot_time
from ..disk import files
from ..errors import NoSpace
from ..room import Room
from ..store.blobs import Store
from . import walk
from .books import SIGN_OF_LIFE, Books, Promise
from .making_room import Stayed, make_room, what_stays
from .prune import one_at_a_time

__all__ = ["Reserved"]

FIRST_STEP = 1 << 20  # bytes that a file of unknown length is promised at first, and then as many again
FOLDERS_RECORD = 1024  # bytes at most of the record that names a private folder's process
CONTENTS_RECORD = 128  # bytes of what is noted beside a product
LONGEST_STEP = 64 << 20  # bytes
SLACK = 100  # a hundredth of the cap goes besides, so that not each of many small files looks for something old


class Reserved(Room):
    """A Room in the books of `store`, whose cap is `limit` bytes."""

    def __init__(self, store: Store, limit: int, cancel: Cancel) -> None:
        self._books = Books(store, limit)
        self._store = store
        self._limit = limit
        self._cancel = cancel
        self._lock = threading.Lock()  # the file's bytes and its record come from two threads
        self._pid = os.getpid()
        self._begin()

    def _begin(self) -> None:
        self._name = files.random_name()
        self._promise = Promise(0)
        self._total = 0  # bytes of the file that there is room for
        self._besides = 0  # bytes of the record besides it
        self._grown = 0  # bytes that came to be in the folder
        self._kept = 0  # bytes of those that were published
        self._noted = False
        self._renewed = boot_time()
        self._fd = -1

    def of_file(self, fd: int, path: str) -> None:
        st = os.fstat(fd)
        self._promise = Promise(0, counted=walk.occupied(st), inode=st.st_ino, place=self._below_base(path))
        self._fd = os.dup(fd)  # so that no other file gets its inode before it is settled
        if self._promise.counted:
            with suppress(OSError):  # from now on a walk does not count what it holds at that moment
                self._noted = True
                self._books.promise(self._name, self._promise, Cancel())

    def of_folder(self, path: str) -> None:
        self._promise = replace(self._promise, place=self._below_base(path))
        self._insist(FOLDERS_RECORD)
        self._besides = FOLDERS_RECORD

    def _below_base(self, path: str) -> str:
        return os.path.relpath(path, self._store.base)

    # --- more room ----------------------------------------------------------------------------------------------------

    def have(self, total: int, *, known: bool = True) -> None:
        if total > self._total:
            with self._lock:
                self._extend(total, known)

    def _extend(self, total: int, known: bool) -> None:
        step = total if known else total + min(max(total, FIRST_STEP), LONGEST_STEP)
        if step > total and self._note(self._room(step, self._besides)):
            self._total = step
        elif total > self._total:
            self._insist(self._room(total, self._besides))
            self._total = total

    def besides(self, size: int) -> None:
        if size > self._besides:
            with self._lock:
                room = self._room(self._total, size)
                if room > self._promise.room and not self._note(room):
                    raise self._refused(room, None)
                self._besides = size

    def grow(self, size: int) -> None:
        self._grown += size
        self.have(self._grown, known=False)

    def publishing(self, path: str) -> None:
        self._grown = sum({st.st_ino: walk.occupied(st) for _, st in walk.tree_files(path)}.values()) + CONTENTS_RECORD
        self.have(self._grown)

    def _room(self, total: int, besides: int) -> int:
        return max(0, total - self._promise.counted) + besides

    def _note(self, room: int) -> bool:
        """Whether so much fits."""
        return self._lacking(room) <= 0

    def _lacking(self, room: int) -> int:
        wider = replace(self._promise, room=room)
        noted, self._noted = self._noted, True  # before it is: Ctrl-C may come in between
        lacking = self._books.promise(self._name, wider, self._cancel)
        if lacking <= 0:
            self._promise = wider
        else:
            self._noted = noted
        return lacking

    def _insist(self, room: int) -> None:
        """Have so much room, whatever has to go for it. Raises NoSpace."""
        if room <= self._promise.room:
            return
        whole = room + self._promise.counted
        if whole > self._limit:
            raise NoSpace(
                path=self._store.base,
                needed=whole,
                available=self._limit,
                reason="larger than NANOCACHE_MAX_SIZE allows",
                remedy="raise or unset NANOCACHE_MAX_SIZE",
                kept=what_stays(self._store).sizes(),
            )
        if not self._note(room):
            with one_at_a_time(self._store, self._cancel):
                stayed = self._make(room)
            if stayed is not None:
                raise self._refused(room, stayed)

    def _make(self, room: int) -> Stayed | None:
        """Evict until it fits; what stayed if it does not."""
        while True:
            gone = partial(self._books.went, since=self._books.count_anew(self._cancel))
            if (lacking := self._lacking(room)) <= 0:
                return None
            stayed = make_room(self._store, lacking + self._limit // SLACK, self._cancel, gone)
            if self._note(room):
                return None
            if stayed is not None:
                return stayed

    def _refused(self, room: int, stayed: Stayed | None) -> NoSpace:
        free = self._books.free(self._cancel)
        return NoSpace(
            path=self._store.base,
            needed=room + self._promise.counted,
            available=max(0, free + self._promise.room),
            reason=f"NANOCACHE_MAX_SIZE, {self._limit:,} bytes, leaves no room",
            remedy="raise NANOCACHE_MAX_SIZE, or see `nanocache prune --explain --dry-run --max-size 0`",
            kept=None if stayed is None else stayed.sizes(),
        )

    # --- until it ends ------------------------------------------------------------------------------------------------

    def renew(self, now: float) -> None:
        if not self._noted or now - self._renewed < SIGN_OF_LIFE:
            return
        with self._lock, suppress(OSError):
            self._renewed = now
            self._books.renew(self._name, self._promise)

    def keep(self) -> None:
        self._kept = self._grown

    def settle(self, kept: int = 0) -> None:
        try:
            self._account(kept)
        except KeyboardInterrupt:  # else it would narrow the cap for as long as this process lives
            self._account(kept)
            raise
        finally:
            fd = self._fd
            self._begin()
            if fd >= 0:
                os.close(fd)

    def _account(self, kept: int) -> None:
        if os.getpid() != self._pid:  # a forked child that unwinds through it
            return
        with suppress(OSError):  # no reason to fail a fetch: the next walk finds it out
            change = self._left() + kept + self._kept - self._promise.counted
            if self._noted or change:
                self._books.settle(self._name, change)

    def _left(self) -> int:
        """Bytes of the file, if it still has a name."""
        st = None if self._fd < 0 else os.fstat(self._fd)
        return 0 if st is None or not st.st_nlink else walk.occupied(st)
