"""The seed's call, now safe: a file under a name of the caller's choice in the base directory, and a hook of one path.

Kept for code that grew up on nanochat's `download_file_with_lock`; new code calls `fetch`. Invariants: the name appears
only after the hook succeeded, and then all at once; the hook runs once however many race, and again if it failed; a
file that is not ours is never lost.
"""

from __future__ import annotations

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

from .artifact import arguments, hooks
from .artifact.artifact import Artifact
from .artifact.request import Request
from .cache import Cache
from .cancel import Cancel
from .coordination.flights import share
from .coordination.waiting import WaitOptions, hold_lock
from .disk import durable, faults, files, hashing
from .engine.steps import Fetch
from .progress import Display
from .store import seal
from .store.blobs import Store
from .store.layout import FOLDERS, product_lock_key
from .store.partials import private_folder

__all__ = ["download_file_with_lock"]

logger = logging.getLogger("nanocache")


def download_file_with_lock(url: str, filename: str, postprocess_fn: Callable[[str], Any] | None = None) -> str:
    """`<base>/<filename>`, complete: downloaded once however many ranks ask, after `postprocess_fn` succeeded on it.

    A hard link to the cached blob: read-only, no second copy. `filename` is relative and stays in the base directory.
    The hook gets one path, a str that ends in `filename`, before the name appears in the base directory; what it builds
    elsewhere is its own business. Raises ValueError, PostprocessFailed and what else `fetch` raises.
    """
    relative = _check(filename)
    if postprocess_fn is not None:
        arguments.hook(postprocess_fn, "postprocess_fn", "(path)")
    placement = _Placement(Cache().store, Request.of(Artifact(url)), relative, postprocess_fn)
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
    if parts[0].lower() in FOLDERS:
        raise ValueError(f"filename must stay out of the cache's own folder {parts[0]}, got {filename!r}")
    return str(path)


def _outside(filename: str) -> ValueError:
    return ValueError(f"filename must be relative and stay in the base directory, got {filename!r}")


@dataclass(frozen=True, slots=True)
class _Placement:
    """One call: an artifact, and the name that it gets in the base directory. The methods stand in calling order."""

    store: Store
    request: Request
    relative: str
    hook: Callable[[str], Any] | None
    cancel: Cancel = field(default_factory=Cancel)

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
        digest = Fetch(self.store, self.request).known()
        if digest is None or not self._placed(digest):
            share(("file", self.store.base, self._key), self._identity, self._lead, self.cancel)
        return self.target

    def _placed(self, digest: str) -> bool:
        """Whether the target holds those bytes: its seal tells, in a link as in a copy; else that it is the blob."""
        try:
            st = os.lstat(self.target)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if seal.holds(st, digest):
            return True
        blob = self.store.blob(digest, self.request.name)
        return self.store.intact(digest, blob) and os.path.samestat(st, os.lstat(blob))

    def _lead(self, cancel: Cancel) -> None:
        # The blob comes under a lock of its own, which is free again before this one is taken.
        found = Fetch(self.store, self.request, cancel).run()
        placed = partial(self._placed, found.digest)
        place = self.store.lock_place(self._key)
        with closing(Display(None, self.relative)) as display:
            timeout = self.request.settings.lock_timeout
            options = WaitOptions(placed, self._identity, cancel, timeout, display.waiting)
            with hold_lock(place, options) as writer:
                if writer is not None and not placed():
                    with writer.alive():
                        self._place(str(found.path))

    def _place(self, source: str) -> None:
        """Run the hook on a private link, then make the name appear."""
        with private_folder(self.store, self._key) as private:
            if self.hook is not None:
                self._run_hook(self.hook, source, os.path.join(private, "hook", self.relative))
            fresh = os.path.join(private, "file")
            _link(source, fresh)
            folder = os.path.dirname(self.target)
            parents = _missing(folder)
            os.makedirs(folder, exist_ok=True)
            _keep_foreign(self.store, self.target)
            os.rename(fresh, self.target)
            for parent in (folder, *parents):
                durable.sync_folder(parent)

    def _run_hook(self, hook: Callable[[str], Any], source: str, path: str) -> None:
        os.makedirs(os.path.dirname(path))
        _link(source, path)
        with hooks.failing_as(self._label, self.relative):
            hook(path)


def _missing(folder: str) -> list[str]:
    """The parents of what has to be made for `folder` to exist."""
    parents = []
    while not os.path.isdir(folder):
        parents.append(folder := os.path.dirname(folder))
    return parents


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
    if stat.S_ISREG(st.st_mode):
        with open(target, "rb") as file:
            digest = hashing.hash_file(file.fileno())
        if store.names(digest):
            return  # an older content of ours, or the same bytes
    aside = f"{target}.before-{files.random_name()}"
    os.rename(target, aside)
    logger.warning("%s was not downloaded by nanocache: moved to %s", target, aside)
