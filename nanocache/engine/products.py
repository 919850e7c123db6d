"""Products: what a hook built from a blob, visible only when complete and synced.

    products-v1/<digest>/<hook key>/<name>

`contents` keeps beside it how much it holds, so that a product from which files were purged is built again.

Invariants: one build under contention; a failed hook publishes nothing and runs again next time; a product is built in
a private folder and renamed; if another process published it meanwhile, ours goes to trash. Not
sealed: a write into one changes it for all.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..artifact import hooks
from ..artifact.hooks import Hook
from ..artifact.request import Request
from ..callers import let_pass
from ..cancel import Cancel
from ..coordination.flights import share
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import durable, files
from ..errors import UnsafeCache
from ..store.blobs import Store
from ..store.layout import product_lock_key
from ..store.private import private_folder
from ..store.room import Room
from . import contents
from .room import room_for

__all__ = ["build", "find", "find_at", "inode_of", "publish"]


def find(store: Store, digest: str, hook: Hook, artifact_name: str) -> Path | None:
    """The product if it is there, with all its files. UnsafeCache for a symlink or a stranger's."""
    return find_at(store, store.product(digest, hook.key, hook.product_name(artifact_name)))


def find_at(store: Store, path: str) -> Path | None:
    """`find`, by the product's path."""
    try:
        st = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
        raise UnsafeCache(path=path, reason=f"a product should be there, not {files.kind(st.st_mode)}")
    store.check_trusted(path, st)
    return None if contents.was_purged(store, path) else Path(path)


def build(store: Store, request: Request, hook: Hook, source: Path, digest: str, cancel: Cancel) -> Path | None:
    """The product of `hook` for the blob of `digest`, which is at `source`; None if the blob is gone meanwhile.

    Raises PostprocessFailed and what else the hook raises of ours, LockTimeout, Cancelled, OSError.
    """
    product = _Build(store, request, hook, source, digest)
    product = replace(product, stale=inode_of(product.path))
    return share(("product", store.base, product.key, request.rehash), product.identity, product.lead, cancel)


def inode_of(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError as e:
        let_pass(e)
        return None


@dataclass(frozen=True, slots=True)
class _Build:
    """One product that is missing, lacks files, or is to be built again; and the steps to it."""

    store: Store
    request: Request
    hook: Hook
    source: Path  # where the blob was a moment ago
    digest: str
    stale: int | None = None  # the inode of the product that is to be replaced

    @property
    def path(self) -> str:
        return self.store.product(self.digest, self.hook.key, self.hook.product_name(self.request.name))

    @property
    def key(self) -> str:
        return product_lock_key(os.path.relpath(self.path, self.store.base))

    @property
    def identity(self) -> tuple[object, ...]:
        # The settings, since a hook may fetch: offline it gets NotCached.
        return self.hook.key, self.digest, *self.request.settings

    def lead(self, cancel: Cancel) -> Path | None:
        timeout = self.request.settings.lock_timeout
        again = partial(self.store.look_again, self.path)
        options = WaitOptions(self._published, self.identity, cancel, timeout, lambda *_: None, again)
        with hold_lock(self.store.lock_place(self.key), options) as writer:
            self.store.look_again(self.path)
            there = find(self.store, self.digest, self.hook, self.request.name)
            if there is not None and not (self.request.rehash and inode_of(self.path) == self.stale):
                return there
            source = None if writer is None else self._marked_source()
            return None if source is None else self._run(source, cancel)

    def _marked_source(self) -> Path | None:
        """The blob, marked as used; None if it is gone. One of a read-only cache is its owner's to keep."""
        if not self.store.holds(self.source):
            return self.source
        source = self.store.hit(self.digest, self.request.name)
        return source if source is not None and self.store.recency.mark(os.path.dirname(source)) else None

    def _published(self) -> bool:
        return inode_of(self.path) not in (None, self.stale)

    def _run(self, source: Path, cancel: Cancel) -> Path:
        path = Path(self.path)
        room = room_for(self.store, self.request.settings, cancel)
        with private_folder(self.store, self.key, room) as folder:
            built = os.path.join(folder, path.name)
            hooks.run(self.hook, source, Path(built), cancel)
            publish(self.store, built, self.path, self.stale, room)
        return path


def publish(store: Store, built: str, path: str, stale: int | None, room: Room) -> None:
    """Rename what was built to `path`, durable. The inode `stale` gives way; what was published meanwhile stays."""
    room.add_all(built)
    _share(built, store.modes)
    durable.sync_tree(built)
    parent = os.path.dirname(path)
    grown = store.folder(parent)
    if inode_of(path) not in (None, stale):
        store.set_aside(built)
        return
    if stale is not None:
        store.set_aside(path)
    try:
        files.move(built, path, base=store.base)
    except OSError as e:
        if isinstance(e, UnsafeCache) or not os.path.lexists(path):
            raise
        store.set_aside(built)
    room.keep()
    contents.remember(store, path)
    for folder in (parent, *grown):
        durable.sync_folder(folder)


def _share(built: str, modes: files.Modes) -> None:
    """Give a product the base directory's modes: a hook made it with this user's umask."""
    if not os.path.isdir(built):
        files.set_mode(built, _file_mode(built, modes))
        return
    for folder, _, names in os.walk(built):
        files.set_mode(folder, modes.folder)
        for name in names:
            file = os.path.join(folder, name)
            if not os.path.islink(file):
                files.set_mode(file, _file_mode(file, modes))


def _file_mode(path: str, modes: files.Modes) -> int:
    own = stat.S_IMODE(os.stat(path).st_mode) & 0o700
    readers = modes.blob
    return own | readers | (readers >> 2 if own & 0o100 else 0)
