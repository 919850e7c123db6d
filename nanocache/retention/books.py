"""The books of the cap: what the cache takes, and what is promised to work that is under way.

    usage-v1.json    {"bytes": used, "walked": seconds, "took": seconds, "boot": ..., "promises": {id: {...}}}

One page, read and written under a lock that is held for microseconds. A promise is the bytes that may still come to
one file or private folder; what those held before, `used` has. Invariants: `used` and the promises together are never
less than what lies in blobs-, products-, trees- and partials-v1, as far as processes with a cap put it there; the books
may say more, since only a walk knows what was deleted, and one comes before anything is evicted; a page that is
missing, damaged, of another boot, or older than a hundred walks take, is made anew by a walk.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..callers import suppress
from ..cancel import Cancel
from ..coordination.process import Identity, me
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import files
from ..store.blobs import Store
from ..store.layout import BLOBS, PARTIALS, PRODUCTS, TAGS, TREES, USAGE_FILE, product_lock_key
from . import walk

__all__ = ["Books", "Promise"]

UNSAVED = re.compile(f"{PARTIALS}/{files.NEW}[0-9a-f]+")
CAPPED = (BLOBS, PRODUCTS, TREES, PARTIALS)
WRITTEN_AS_ONE = 4096  # bytes, written as one
LONGEST_PAGE = 1 << 22  # bytes
BELIEVED = 10.0  # seconds that a page is believed at least; processes without a cap do not write in it
WORTH_A_WALK = 100  # times as long as the walk took, it is believed: so that looking costs a hundredth of the time
NO_SIGN = 900.0  # seconds without a sign of life after which a process that cannot be seen counts as dead
SIGN_OF_LIFE = 300.0  # seconds between two


@dataclass(slots=True)
class Promise:
    """What one piece of work may still bring."""

    room: int  # bytes
    counted: int = 0  # bytes of it that `used` has
    inode: int = 0  # of its file; 0: it has a folder
    place: str = ""  # where the file was at first, or where the folder is, below the base directory
    owner: Identity = field(default_factory=me)
    at: float = field(default_factory=time.time)  # the last sign of life, in seconds since the epoch

    @classmethod
    def parse(cls, record: dict[str, Any]) -> Promise:
        """Raises ValueError, TypeError, KeyError, AttributeError for what is none."""
        numbers = [record[name] for name in ("room", "counted", "inode", "at")]
        owner = Identity.parse(record["owner"])
        if owner is None or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError("not a promise")
        room, counted, inode, at = numbers
        return cls(int(room), int(counted), int(inode), str(record["place"]), owner, float(at))

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "owner"} | {
            "owner": self.owner.to_json()
        }

    @property
    def is_kept(self) -> bool:
        """Whether its process may still want it."""
        alive = self.owner.alive
        return time.time() - self.at < NO_SIGN if alive is None else alive


@dataclass(slots=True)
class _Page:
    used: int  # bytes
    walked: float  # when all was counted, in seconds since the epoch
    took: float  # seconds that it took
    promises: dict[str, Promise]

    @classmethod
    def parse(cls, text: bytes) -> _Page | None:
        """None for what is no page."""
        try:
            record = json.loads(text)
            promises = {str(name): Promise.parse(one) for name, one in record["promises"].items()}
            page = cls(int(record["bytes"]), float(record["walked"]), float(record["took"]), promises)
            if record["host"] == me().host and record["boot"] != me().boot:  # a power cut may have brought an old one
                page.walked = 0.0
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None
        return page if page.used >= 0 else None

    def to_bytes(self) -> bytes:
        record = {"bytes": self.used, "walked": self.walked, "took": self.took, "host": me().host, "boot": me().boot}
        promises = {name: promise.to_json() for name, promise in self.promises.items()}
        return json.dumps(record | {"promises": promises}, separators=(",", ":")).encode()

    @property
    def is_fresh(self) -> bool:
        return abs(time.time() - self.walked) < max(BELIEVED, WORTH_A_WALK * self.took)

    def promised(self, *, but: str = "") -> int:
        return sum(promise.room for name, promise in self.promises.items() if name != but)


_under_way: set[str] = set()  # this process's promises: of others that bear its name the end could not be noted


class Books:
    """The books of one base directory, under a cap of `limit` bytes."""

    def __init__(self, store: Store, limit: int) -> None:
        self.store = store
        self.limit = limit

    # --- what is noted ------------------------------------------------------------------------------------------------

    def promise(self, name: str, promise: Promise, cancel: Cancel) -> int:
        """Note it if it fits, or asks for nothing. Bytes that it lacks; at most 0 if it was noted.

        Raises Cancelled, OSError.
        """
        with self._opened(cancel) as page:
            if not page.is_fresh:
                self._count(page, cancel)
            lacking = page.used + page.promised(but=name) + promise.room - self.limit if promise.room else 0
            if lacking <= 0:
                _under_way.add(name)
                page.promises[name] = promise
        return lacking

    def renew(self, name: str, promise: Promise) -> None:
        """A sign of life."""
        with self._opened(Cancel()) as page:
            promise.at = time.time()
            self._doubt_unless(name in page.promises, page)
            page.promises[name] = promise

    def settle(self, name: str, kept: int) -> None:
        """The work is over; of its bytes `used` has `kept` more from now on, which may be below 0."""
        _under_way.discard(name)
        with self._opened(Cancel()) as page:
            self._doubt_unless(page.promises.pop(name, None) is not None, page)
            page.used = max(0, page.used + kept)

    def _doubt_unless(self, noted: bool, page: _Page) -> None:
        """Have all counted anew soon if a promise was struck off by others, or by a walk."""
        if not noted:
            page.walked = 0.0

    def walked(self) -> float:
        """When all was counted the last time: to be asked before something is deleted."""
        with self._opened(Cancel()) as page:
            return page.walked

    def went(self, size: int, *, since: float) -> None:
        """So many bytes were deleted. A walk since then may have missed them: they stay in the books, to be safe."""
        with self._opened(Cancel()) as page:
            if page.walked == since:
                page.used = max(0, page.used - size)

    def free(self, cancel: Cancel) -> int:
        """Bytes that are neither used nor promised."""
        with self._opened(cancel) as page:
            return self.limit - page.used - page.promised()

    def count_anew(self, cancel: Cancel) -> float:
        """Walk, and forget what dead processes were promised: what is there of it is counted now. `walked` then."""
        with self._opened(cancel) as page:
            self._count(page, cancel)
            return page.walked

    # --- the page -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self, cancel: Cancel) -> Iterator[_Page]:
        """The page, for as long as the block runs; what is changed in it is written then."""
        place = self.store.lock_place(product_lock_key(USAGE_FILE))
        waiting = WaitOptions(lambda: False, (USAGE_FILE, os.getpid()), cancel, None, lambda *_: None)
        with hold_lock(place, waiting):
            fd = self._open()
            try:
                self.store.check_trusted(self.store.usage, os.fstat(fd))
                text = os.pread(fd, LONGEST_PAGE, 0)
                page = _Page.parse(text) or _Page(0, 0.0, 0.0, {})
                yield page
                os.pwrite(fd, _padded(page.to_bytes(), len(text)), 0)
            finally:
                os.close(fd)

    def _open(self) -> int:
        with suppress(FileNotFoundError):
            return files.open_private(self.store.usage, os.O_RDWR)
        with suppress(FileExistsError):  # where locks let every process in
            files.create(self.store.usage, b"", self.store.modes.lock | 0o600)
        return files.open_private(self.store.usage, os.O_RDWR)

    def _count(self, page: _Page, cancel: Cancel) -> None:
        began = time.time()
        for promise in page.promises.values():
            self._take_unsaved(promise)
        ours = me()
        page.promises = {
            name: promise
            for name, promise in page.promises.items()
            if (name in _under_way if promise.owner == ours else promise.is_kept)
        }
        page.used = sum(promise.counted for promise in page.promises.values()) + self._settled(page, cancel)
        page.walked = time.time()
        page.took = page.walked - began

    def _take_unsaved(self, promise: Promise) -> None:
        """Delete the file of a dead process that had saved nothing: no other process can build on its bytes."""
        if UNSAVED.fullmatch(promise.place) and promise.owner.alive is False:
            files.remove(self.store.top(promise.place))

    def _settled(self, page: _Page, cancel: Cancel) -> int:
        """Bytes on the disk, without those that work under way has put there."""
        seen = {promise.inode for promise in page.promises.values()}
        tags = {f"{self.store.top(top)}/{name}" for top in CAPPED for name in TAGS}  # so that a file of that size fits
        folders = tuple(f"{self.store.base}/{one.place}/" for one in page.promises.values() if not one.inode)
        size = 0
        for path, st in self._files():
            cancel.check()
            if st.st_ino in seen or path in tags or path.startswith(folders):
                continue
            if st.st_nlink > 1:
                seen.add(st.st_ino)
            size += walk.occupied(st)
        return size

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for top in CAPPED:
            for entry in walk.scan(walk.top(self.store, top)):
                yield from walk.tree_files(entry.path, blind=top == PARTIALS)


def _padded(text: bytes, before: int) -> bytes:
    """Blocks, each of which no kill can split, over all of the `before` bytes. A torn page is no page."""
    return text.ljust(max(-(-len(text) // WRITTEN_AS_ONE) * WRITTEN_AS_ONE, before))
