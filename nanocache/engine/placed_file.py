"""One file in a folder of the caller's that came from the cache: how it gets there, and what becomes of what is there.

    <into>/<name>                 shares the blob's blocks, else is a hard link to it (read-only), else a copy
    <into>/.nanocache/<random>    the same on its way; a kill leaves one, which the next call here deletes in an hour

Invariants: it appears complete, by one rename; it carries the seal of its digest, so that an lstat tells later whether
it was written to; nothing of the caller's is lost: what stands in the way and neither is in the cache nor came from it
unchanged is moved to `<name>.before-<random>`.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from ..callers import suppress
from ..cancel import Cancel
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import copying, durable, faults, files, hashing
from ..errors import NoSpace
from ..store import seal
from ..store.blobs import Store
from ..store.layout import BLOBS, product_lock_key

__all__ = ["PlacedFile"]

logger = logging.getLogger("nanocache")

ON_THE_WAY = ".nanocache"
LEFT_BEHIND = 3600.0  # seconds after which a file on its way belongs to a process that is gone
FULL_REMEDY = "free some, or give into= a folder on another disk"


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """One file on its way from the cache to where the caller wants it."""

    store: Store
    source: str
    target: str
    digest: str | None  # None for what a hook built
    rehash: bool = False

    @classmethod
    def of(cls, store: Store, source: str, target: str, *, rehash: bool = False) -> PlacedFile:
        above = os.path.relpath(source, store.base).split(os.sep)
        return cls(store, source, target, above[-2] if above[0] == BLOBS else None, rehash)

    @property
    def _folder(self) -> str:
        return os.path.dirname(self.target)

    # --- what is there ------------------------------------------------------------------------------------------------

    def stands(self) -> bool:
        """Whether the target is the source's content, as far as its lstat tells."""
        there = _lstat(self.target)
        if there is None or not stat.S_ISREG(there.st_mode):
            return False
        source = os.lstat(self.source)
        if self.digest is None:
            return (there.st_size, there.st_mtime_ns) == (source.st_size, source.st_mtime_ns)
        return os.path.samestat(there, source) or (there.st_size == source.st_size and seal.holds(there, self.digest))

    def _is_right(self, cancel: Cancel) -> bool:
        if not self.stands():
            return False
        return not self.rehash or self.digest is None or _hash(self.target, cancel) == self.digest

    # --- putting it there ---------------------------------------------------------------------------------------------

    def put_product(self, cancel: Cancel) -> None:
        if os.path.islink(self.source):
            self._put_symlink()
        else:
            self.put(cancel)

    def put(self, cancel: Cancel) -> None:
        if self._is_right(cancel):
            return
        with self._locked(cancel):
            if not self._is_right(cancel):
                faults.persistently(self._folder, partial(self._put, cancel))

    @contextmanager
    def _locked(self, cancel: Cancel) -> Iterator[None]:
        """So that of several processes one copies. Without a lock each does, and the last rename wins."""
        key = product_lock_key(f"into\n{self.target}")
        options = WaitOptions(self.stands, ("into",), cancel, None, lambda *_: None)
        with hold_lock(self.store.lock_place(key), options) if self.store.prepare() else nullcontext():
            yield

    def _put(self, cancel: Cancel) -> bool:
        grown = _make_folder(self._folder)
        with _on_the_way(self._folder) as fresh:
            self._make(fresh, cancel)
            self._make_way(cancel)
            os.rename(fresh, self.target)
        for folder in (self._folder, *grown):
            durable.sync_folder(folder)
        return True

    def _make(self, fresh: str, cancel: Cancel) -> None:
        source = os.open(self.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with _created(fresh) as copy:
                if not copying.share_blocks(source, copy):
                    if self._link(fresh):
                        return
                    self._copy(source, copy, cancel)
                self._keep_facts(source, copy)
                durable.sync_file(copy)
        finally:
            os.close(source)

    def _link(self, fresh: str) -> bool:
        """Whether `fresh` is a hard link to the blob now."""
        if self.digest is None or not self.store.holds(self.source):  # of a read-only cache nothing is linked
            return False
        linked = f"{fresh}.link"
        try:
            os.link(self.source, linked, follow_symlinks=False)
        except OSError as e:
            if e.errno not in copying.NO_LINK:
                raise
            return False
        os.rename(linked, fresh)
        return True

    def _copy(self, source: int, copy: int, cancel: Cancel) -> None:
        needed = os.fstat(source).st_size
        try:
            faults.check_room(self._folder, needed)
            copying.copy_bytes(source, copy, cancel)
        except OSError as e:
            full = e if isinstance(e, NoSpace) else faults.no_space(e, self._folder, needed)
            if full is None:
                raise
            raise NoSpace(
                path=self._folder, needed=needed, available=full.available, reason=full.reason, remedy=FULL_REMEDY
            ) from e

    def _keep_facts(self, source: int, copy: int) -> None:
        """Whether it can be run; a blob's seal, or a product's time, by which a later call knows it."""
        st = os.fstat(source)
        if st.st_mode & 0o100:
            mode = stat.S_IMODE(os.fstat(copy).st_mode)
            files.set_mode(copy, mode | (mode >> 2 & 0o111))
        if self.digest is not None:
            seal.put(copy, self.digest)
            return
        with suppress(OSError):
            os.utime(copy, ns=(st.st_atime_ns, st.st_mtime_ns))

    # --- what stands in the way ---------------------------------------------------------------------------------------

    def _make_way(self, cancel: Cancel) -> None:
        there = _lstat(self.target)
        if there is None or (stat.S_ISREG(there.st_mode) and self._is_known(there, cancel)):
            return
        aside = f"{self.target}.before-{files.random_name()}"
        os.rename(self.target, aside)
        logger.warning("%s held something else, which is now %s", self.target, aside)

    def _is_known(self, there: os.stat_result, cancel: Cancel) -> bool:
        """Whether nothing is lost with the target: its bytes are in the cache, or came from it and are unchanged."""
        if there.st_mtime_ns % seal.STEP_NS and there.st_size != os.lstat(self.source).st_size:
            return False  # neither a seal nor the same bytes: not worth reading
        digest = _hash(self.target, cancel)
        if seal.holds(there, digest) or self.store.names(digest):
            return True
        return self.digest is None and digest == _hash(self.source, cancel)

    def _put_symlink(self) -> None:
        """One of a product's, as it is: a hook made it."""
        text = os.readlink(self.source)
        if os.path.islink(self.target) and os.readlink(self.target) == text:
            return
        with _on_the_way(self._folder) as fresh:
            os.symlink(text, fresh)
            self._make_way(Cancel())
            os.rename(fresh, self.target)


# --- calls on the caller's folder -------------------------------------------------------------------------------------


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _hash(path: str, cancel: Cancel) -> str:
    with open(path, "rb") as file:
        return hashing.hash_file(file.fileno(), cancel)


def _make_folder(path: str) -> list[str]:
    """Make `path` with the umask. The folders that have a new one in them now."""
    grown = []
    above = path
    while not os.path.isdir(above):
        above = os.path.dirname(above)
        grown.append(above)
    os.makedirs(path, exist_ok=True)
    return grown


@contextmanager
def _created(path: str) -> Iterator[int]:
    """A new file with the umask's mode, since it is the caller's."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _on_the_way(folder: str) -> Iterator[str]:
    """A path for a file that is to be renamed into `folder`."""
    waiting = os.path.join(folder, ON_THE_WAY)
    with suppress(FileExistsError):  # not makedirs: another process may remove it at any moment
        os.mkdir(waiting)
    ours = os.access(waiting, os.W_OK | os.X_OK)  # else another user was killed in it
    if ours:
        _clear(waiting)
    fresh = os.path.join(waiting, files.random_name()) if ours else f"{waiting}-{files.random_name()}"
    try:
        yield fresh
    finally:
        for left in (fresh, f"{fresh}.link"):
            with suppress(OSError):
                os.unlink(left)
        files.remove_empty(waiting)


def _clear(waiting: str) -> None:
    """Delete what killed processes left. By ctime, because a link's mtime is the blob's."""
    for name in os.listdir(waiting):
        path = os.path.join(waiting, name)
        with suppress(OSError):
            if time.time() - os.lstat(path).st_ctime > LEFT_BEHIND:
                os.unlink(path)
