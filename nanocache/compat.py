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
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from .artifact import hooks
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

__all__ = ["download_file_with_lock"]

logger = logging.getLogger("nanocache")


def download_file_with_lock(url: str, filename: str, postprocess_fn: Callable[[str], Any] | None = None) -> str:
    """`<base>/<filename>`, complete: downloaded once however many ranks ask, after `postprocess_fn` succeeded on it.

    A hard link to the cached blob: read-only, no second copy. `filename` is relative and stays in the base directory.
    The hook gets one path, a str that ends in `filename`, before the name appears in the base directory; what it builds
    elsewhere is its own business. Raises ValueError, PostprocessFailed and what else `fetch` raises.
    """
    relative = _check(os.fspath(filename))
    store = Cache().store
    request = Request.of(Artifact(url))
    target = os.path.join(store.base, relative)
    key = product_lock_key(f"file\n{relative}")
    label = getattr(postprocess_fn, "__qualname__", type(postprocess_fn).__qualname__)
    asker = (*request.identity, label)

    def work(own: Cancel) -> None:
        source, digest = Fetch(store, request, own).run()  # under its own lock, which is free again before the next
        display = Display(None, relative)
        try:
            there = partial(_placed, store, request, digest, target)
            goal = WaitOptions(there, asker, own, request.settings.lock_timeout, display.waiting)
            with hold_lock(store.lock_place(key), goal) as holding:
                if holding is not None and not there():
                    with holding.alive():
                        _place(store, key, str(source), relative, postprocess_fn, label)
        finally:
            display.close()

    def place() -> str:
        digest = Fetch(store, request).known()
        if digest is None or not _placed(store, request, digest, target):
            share(("seed", store.base, key), asker, work, Cancel())
        return target

    return faults.persistently(store.base, place)


def _check(filename: str) -> str:
    path = PurePosixPath(filename)
    parts = path.parts
    if path.is_absolute() or not parts or ".." in parts or "\0" in filename or "\\" in filename:
        raise ValueError(f"filename must be relative and stay in the base directory, got {filename!r}")
    if parts[0].lower() in FOLDERS:
        raise ValueError(f"filename must stay out of the cache's own folder {parts[0]}, got {filename!r}")
    return str(path)


def _placed(store: Store, request: Request, digest: str, target: str) -> bool:
    """Whether `target` holds those bytes: the seal tells, in a link as in a copy; else that it is the intact blob."""
    try:
        st = os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    blob = store.blob(digest, request.name)
    return seal.holds(st, digest) or (store.intact(digest, blob) and os.path.samestat(st, os.lstat(blob)))


def _place(store: Store, key: str, source: str, relative: str, hook: Callable[[str], Any] | None, label: str) -> None:
    """Run the hook on a private link, then make the name appear."""
    target = os.path.join(store.base, relative)
    with store.private(key) as private:
        if hook is not None:
            own = os.path.join(private, "hook", relative)
            os.makedirs(os.path.dirname(own))
            _link(source, own)
            with hooks.failing_as(label, relative):
                hook(own)
        _link(source, fresh := os.path.join(private, "file"))
        parents = _missing(folder := os.path.dirname(target))
        os.makedirs(folder, exist_ok=True)
        _keep_foreign(store, target)
        os.rename(fresh, target)
        for parent in (folder, *parents):
            durable.sync_folder(parent)


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
