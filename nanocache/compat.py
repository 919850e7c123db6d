"""The seed's call, now safe: a file under a name of the caller's choice in the base directory, and a hook of one path.

Kept for code that grew up on nanochat's `download_file_with_lock`; new code calls `fetch`. Invariants: the name appears
only after the hook succeeded, and then all at once; the hook runs once however many race, and again if it failed; a
file that is not ours is never lost.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from . import config
from .artifact import arguments, hooks
from .artifact.artifact import Artifact
from .artifact.request import Request
from .cache import Cache
from .callers import callers_errors
from .cancel import Cancel, ambient
from .coordination.flights import share
from .coordination.waiting import WaitOptions, hold_lock
from .disk import copying, durable, faults, files, hashing
from .engine.remembered import Remembered
from .engine.room import room_for
from .engine.steps import Fetch
from .events import telling
from .lockfile.frozen import request_of
from .progress import Display
from .room import Room
from .store import refs, seal
from .store.blobs import Store, Witness, witness
from .store.layout import FOLDERS, LATER, USAGE_FILE, product_lock_key
from .store.private import private_folder

__all__ = ["download_file_with_lock"]

logger = logging.getLogger("nanocache")

LONGEST_SEGMENT = 255  # bytes of one name, as on ext4, xfs, APFS and NTFS

_adopted: dict[str, Witness] = {}  # files that the seed downloaded and this process returned, by path


def download_file_with_lock(url: str, filename: str, postprocess_fn: Callable[[str], Any] | None = None) -> str:
    """`<base>/<filename>`, complete: downloaded once however many ranks ask, after `postprocess_fn` succeeded on it.

    A hard link to the cached blob: read-only, no second copy. `filename` is relative and stays in the base directory.
    The hook gets one path, a str that ends in `filename`, before the name appears in the base directory; what it builds
    elsewhere is its own business, and what it changes in that file is not kept. A file that lies there already, of a
    URL that this cache never fetched, is what the seed downloaded: it is returned as it is, as the seed did, and its
    hook ran then. Raises ValueError, PostprocessFailed and what else `fetch` raises.
    """
    relative = _check(filename)
    if postprocess_fn is not None:
        arguments.hook(postprocess_fn, "postprocess_fn", "(path)")
    placement = _Placement(Cache().store, request_of(Artifact(url)).of_base_alone(), relative, postprocess_fn)
    with callers_errors():
        return faults.persistently(placement.store.base, placement.run)


def _check(given: object) -> str:
    filename = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(filename, str):
        raise ValueError(f"filename must be a str, got {type(filename).__name__}")
    path = PurePosixPath(filename)
    parts = path.parts
    if path.is_absolute() or not parts or ".." in parts:
        raise _outside(filename)
    if "\0" in filename or "\\" in filename:
        raise _outside(filename)
    _check_segments(filename, parts)
    if parts[0].lower() in (*FOLDERS, *LATER, USAGE_FILE):
        raise ValueError(f"filename must stay out of the cache's own {parts[0]}, got {filename!r}")
    return str(path)


def _check_segments(filename: str, parts: tuple[str, ...]) -> None:
    """What no disk takes would fail only after the download."""
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise ValueError(f"filename must be text that UTF-8 can write, got {filename!r}") from None
    config.writable_name(filename, "filename")
    if max(lengths) > LONGEST_SEGMENT:
        raise ValueError(f"filename must have at most {LONGEST_SEGMENT} bytes between two slashes, got {filename!r}")


def _outside(filename: str) -> ValueError:
    return ValueError(f"filename must be relative and stay in the base directory, got {filename!r}")


@dataclass(frozen=True, slots=True)
class _Placement:
    """One call: an artifact, and the name that it gets in the base directory. The methods stand in calling order."""

    store: Store
    request: Request
    relative: str
    hook: Callable[[str], Any] | None
    cancel: Cancel = field(default_factory=ambient)

    @property
    def target(self) -> str:
        return os.path.join(self.store.base, self.relative)

    @property
    def _key(self) -> str:
        return product_lock_key(f"file\n{self.relative}")

    @property
    def _label(self) -> str:
        return getattr(self.hook, "__qualname__", type(self.hook).__qualname__)

    @property
    def _identity(self) -> tuple[object, ...]:
        return *self.request.identity, self._label

    def run(self) -> str:
        standing = _lstat(self.target)  # before the ref is read, which is written before the target is placed
        digest = Remembered(self.store, self.request).known()
        if digest is None and standing is not None and self._adopt(standing):
            return self.target
        if digest is None or not self._placed(digest):
            share(("file", self.store.base, self._key), self._identity, self._lead, self.cancel)
        return self.target

    def _adopt(self, st: os.stat_result) -> bool:
        """Whether the seed's own code downloaded the target: this cache did not place it, and never had its URL."""
        if not stat.S_ISREG(st.st_mode) or st.st_size == 0:  # the seed writes in place: empty is what a kill leaves
            return False
        if not self.store.trusts(st) or refs.read(self.store, self.request.url_key) is not None:
            return False
        if _adopted.get(self.target) == witness(st):
            return True
        if self._may_be_ours(st) and self.store.names(_hash(self.target, self.cancel)):
            return False
        _adopted[self.target] = witness(st)
        logger.info("%s was not downloaded by nanocache: used as it is; delete it to have it downloaded", self.target)
        return True

    def _may_be_ours(self, st: os.stat_result) -> bool:
        """Whether the time may be a seal. If so the file is hashed; few are that the seed downloaded (rsync's, say)."""
        return st.st_mtime_ns % seal.STEP_NS == 0

    def _placed(self, digest: str) -> bool:
        """Whether the target holds those bytes: its seal tells, in a link as in a copy; else that it is the blob."""
        st = _lstat(self.target)
        if st is None:
            return False
        if seal.holds(st, digest):
            return True
        blob = self.store.blob(digest, self.request.name)
        return self.store.intact(digest, blob) and os.path.samestat(st, os.lstat(blob))

    def _lead(self, cancel: Cancel) -> None:
        # The blob comes under a lock of its own, which is free again before this one is taken.
        found = telling(self.store.counts, None, Fetch(self.store, self.request, cancel).run)
        placed = partial(self._placed, found.digest)
        place = self.store.lock_place(self._key)
        with closing(Display(None, self.relative)) as display:
            timeout = self.request.settings.lock_timeout
            options = WaitOptions(placed, self._identity, cancel, timeout, display.waiting)
            with hold_lock(place, options) as writer:
                if writer is not None and not placed():
                    self._place(str(found.path))

    def _place(self, source: str) -> None:
        """Run the hook on a private link, then make the name appear."""
        room = room_for(self.store, self.request.settings, self.cancel)
        with private_folder(self.store, self._key, room) as private:
            if self.hook is not None:
                self._run_hook(self.hook, source, os.path.join(private, "hook", self.relative), room)
            fresh = os.path.join(private, "file")
            _link(source, fresh)
            folder = os.path.dirname(self.target)
            parents = _missing(folder)
            os.makedirs(folder, exist_ok=True)
            _keep_foreign(self.store, self.target)
            os.rename(fresh, self.target)
            for parent in (folder, *parents):
                durable.sync_folder(parent)

    def _run_hook(self, hook: Callable[[str], Any], source: str, path: str, room: Room) -> None:
        os.makedirs(os.path.dirname(path))
        before = _give(source, path, room)
        with hooks.failing_as(self._label, self.relative):
            hook(path)
        after = _lstat(path)
        if after is not None and witness(after)[:3] != witness(before)[:3]:
            logger.warning(
                "%s changed the file that it was given for %s, which is not kept: use fetch(postprocess=...) for that",
                self._label,
                self.relative,
            )


def _missing(folder: str) -> list[str]:
    """The parents of what has to be made for `folder` to exist."""
    parents = []
    while not os.path.isdir(folder):
        parents.append(folder := os.path.dirname(folder))
    return parents


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None


def _hash(path: str, cancel: Cancel) -> str:
    with open(path, "rb") as file:
        return hashing.hash_file(file.fileno(), cancel)


def _give(source: str, target: str, room: Room) -> os.stat_result:
    """Make `target` for a hook: a link to the blob, or a copy where this user could write to the blob through it."""
    if os.access(source, os.W_OK):  # root: 0444 stops it nowhere
        room.publishing(source)
        _copy(source, target)
    else:
        _link(source, target)
    return os.lstat(target)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as blob, open(target, "xb") as copy:
        if not copying.share_blocks(blob.fileno(), copy.fileno()):
            copying.copy_bytes(blob.fileno(), copy.fileno(), ambient())


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # no hard links here, or another user's file under fs.protected_hardlinks
        shutil.copy2(source, target)  # keeps the mtime, which is the seal
        durable.sync_tree(target)  # a seal that a power cut leaves on a file without its bytes would be believed


def _keep_foreign(store: Store, target: str) -> None:
    """Move a file that no URL of ours gave out of the way, where its owner finds it."""
    try:
        st = os.lstat(target)
    except FileNotFoundError:
        return
    if stat.S_ISREG(st.st_mode) and store.names(_hash(target, Cancel())):
        return  # an older content of ours, or the same bytes
    aside = f"{target}.before-{files.random_name()}"
    os.rename(target, aside)
    logger.warning("%s was not downloaded by nanocache: moved to %s", target, aside)
