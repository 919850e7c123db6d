"""Products: what a hook built from a blob, or a function from nothing (`building`), visible only when whole and synced.

    products-v1/<digest>/<hook key>/<name>

`contents` keeps beside it how much it holds, so that a product from which files were purged is built again.

Invariants: one build under contention; a failed hook publishes nothing and runs again next time; a product is built in
a private folder and renamed; if another process published it meanwhile, ours goes to trash. Not
sealed: a write into one changes it for all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..artifact import hooks
from ..artifact.hooks import Hook
from ..artifact.request import Request
from ..callers import let_pass
from ..cancel import Cancel
from ..config import Settings
from ..coordination.flights import share
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import durable, files
from ..errors import UnsafeCache
from ..room import Room, within_room
from ..store.blobs import Store
from ..store.layout import product_lock_key
from ..store.private import private_folder
from . import contents
from .room import room_for

__all__ = ["Making", "build", "find", "find_at", "inode_of", "lock_key_of", "publish"]


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

    def make(dst: Path, cancel: Cancel) -> bool:
        blob = _marked(store, request, source, digest)
        if blob is not None:
            hooks.run(hook, blob, dst, cancel)
        return blob is not None

    return Making(
        store=store,
        path=store.product(digest, hook.key, hook.product_name(request.name)),
        # The settings, since a hook may fetch: offline it gets NotCached.
        identity=(hook.key, digest, *request.settings),
        settings=request.settings,
        make=make,
        source=digest,
        anew=request.rehash,
    ).run(cancel)


def _marked(store: Store, request: Request, source: Path, digest: str) -> Path | None:
    """The blob, marked as used; None if it is gone. One of a read-only cache is its owner's to keep."""
    if not store.holds(source):
        return source
    blob = store.hit(digest, request.name)
    return blob if blob is not None and store.recency.mark(os.path.dirname(blob)) else None


def lock_key_of(store: Store, path: str) -> str:
    """What the lock of the product at `path` is filed under."""
    return product_lock_key(os.path.relpath(path, store.base))


def inode_of(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError as e:
        let_pass(e)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """One product that is missing, lacks files, or is to be built again; and the steps to it."""

    store: Store
    path: str
    identity: tuple[object, ...]  # what callers that may share an error have in common
    settings: Settings
    make: Callable[[Path, Cancel], bool]  # False: what it is made of is gone
    source: str | None = None  # the digest of what it is made of
    anew: bool = False  # also if it is there
    stale: int | None = None  # the inode of the product that is to be replaced

    @property
    def key(self) -> str:
        return lock_key_of(self.store, self.path)

    def run(self, cancel: Cancel) -> Path | None:
        """The product's path; None if what it is made of is gone. Raises what `make` raises, LockTimeout, OSError."""
        leader = replace(self, stale=inode_of(self.path))
        return share(("product", self.store.base, self.key, self.anew), self.identity, leader._lead, cancel)

    def _lead(self, cancel: Cancel) -> Path | None:
        again = partial(self.store.look_again, self.path)
        timeout = self.settings.lock_timeout
        options = WaitOptions(self._published, self.identity, cancel, timeout, lambda *_: None, again)
        with hold_lock(self.store.lock_place(self.key), options) as writer:
            self.store.look_again(self.path)
            there = find_at(self.store, self.path)
            if there is not None and not (self.anew and inode_of(self.path) == self.stale):
                return there
            return None if writer is None else self._make(cancel)

    def _published(self) -> bool:
        return inode_of(self.path) not in (None, self.stale)

    def _make(self, cancel: Cancel) -> Path | None:
        room = room_for(self.store, self.settings, cancel)
        with private_folder(self.store, self.key, room, source=self.source) as folder:
            built = os.path.join(folder, os.path.basename(self.path))
            if not within_room(room, partial(self.make, Path(built), cancel)):
                return None
            publish(self.store, built, self.path, self.stale, room)
        return Path(self.path)


def publish(store: Store, built: str, path: str, stale: int | None, room: Room) -> None:
    """Rename what was built to `path`, durable. The inode `stale` gives way; what was published meanwhile stays."""
    room.publishing(built)
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
