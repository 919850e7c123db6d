"""What becomes of a blob whose seal is broken: its bytes are read, and it is sealed again, or set aside.

Not a hit, which reads nothing. Invariants: `heal` runs under the key's lock, for who heals without it might set aside
what another one is sealing; `verify` changes nothing on disk; a file that changes while it is read is wrong.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

from ..cancel import Cancel
from ..disk import files, hashing
from . import seal
from .blobs import Store, witness

__all__ = ["heal", "verify"]

logger = logging.getLogger("nanocache")


def heal(store: Store, digest: str, *, everything: bool = False, cancel: Cancel | None = None) -> bool:
    """Hash what is published for `digest` and not sealed (`everything`: sealed or not). Under the key's lock.

    Right bytes are sealed again; wrong ones are set aside with a warning. False if nothing was there at all.
    Raises Cancelled, UnsafeCache.
    """
    names = store.names(digest)
    for name in names:
        path = store.blob(digest, name)
        if (everything or not store.intact(digest, path)) and not _right(store, path, digest, cancel):
            store.set_aside(path)
            logger.warning("%s was changed after it was published; it is set aside and fetched again", path)
    return bool(names)


def _right(store: Store, path: str, digest: str, cancel: Cancel | None) -> bool:
    try:
        fd = files.open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return True  # gone is not wrong
    try:
        before = os.fstat(fd)
        if _hashed(fd, cancel) != digest or witness(os.fstat(fd)) != witness(before):
            return False
        if not seal.holds(before, digest) and not _seal_again(store, fd, digest):
            store.do_without_seal(path, digest)
        return True
    finally:
        os.close(fd)


def _seal_again(store: Store, fd: int, digest: str) -> bool:
    if not store.writable():
        return False
    with suppress(PermissionError):  # another user's file
        os.fchmod(fd, store.modes.blob)  # a power cut that took the seal took the mode along
    return seal.put(fd, digest)


def verify(store: Store, digest: str, name: str) -> Path | None:
    """The blob under any of its names if its bytes, read now, are right; nothing is changed on disk."""
    for other in sorted(store.names(digest), key=lambda other: other != name):
        path = store.blob(digest, other)
        with suppress(FileNotFoundError), open(files.open_private(path, os.O_RDONLY), "rb") as file:
            if _hashed(file.fileno()) == digest:
                store.vouch(path, os.fstat(file.fileno()))
                return Path(path)
    return None


def _hashed(fd: int, cancel: Cancel | None = None) -> str | None:
    """The digest of the file behind `fd`; None if a part of it can't be read any more, which makes it wrong."""
    try:
        return hashing.hash_file(fd, cancel)
    except OSError as e:
        if e.errno != errno.EIO:
            raise
        return None
