"""What becomes of a blob whose seal is broken: its bytes are read, and it is sealed again, or known to be wrong.

Not a hit, which reads nothing. Invariants: `heal` runs under the digest's lock, so that one process reads while the
others wait; it is right without it, too. Nothing is deleted here: a wrong blob stays until `Store.publish` replaces it.
`verify` changes nothing on disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..cancel import Cancel
from . import reading
from .blobs import Store

__all__ = ["heal", "needs_healing", "verify"]


def needs_healing(store: Store, digest: str) -> bool:
    """Whether something is published for `digest` that only reading can judge."""
    return any(not store.intact(digest, path) for path in store.paths(digest))


def heal(store: Store, digest: str, *, everything: bool, replaceable: bool, cancel: Cancel) -> bool:
    """Read what is published for `digest` and not sealed (`everything`: sealed or not); whether a name is intact then.

    Right bytes are sealed again. `replaceable`: a fresh copy may be had, so what can't be read is no error. Raises
    Cancelled, UnsafeCache, OSError.
    """
    for path in store.paths(digest):
        if not everything and store.intact(digest, path):
            continue
        try:
            store.judge(digest, path, cancel)
        except OSError as e:
            if not (replaceable and e.errno in reading.PASSING):
                raise
    return store.any_intact(digest, "") is not None


def verify(store: Store, digest: str, name: str, cancel: Cancel) -> Path | None:
    """The blob under any of its names if its bytes, read now, are right. Nothing is changed on disk.

    Raises Cancelled, UnsafeCache, and OSError if no name is right and one of them can't be read.
    """
    unreadable: OSError | None = None
    for path in store.paths(digest, name):
        try:
            with reading.read(path, digest, cancel) as read:
                if read.right:
                    store.vouch(path, os.fstat(read.fd))
                    return Path(path)
        except FileNotFoundError:
            continue
        except OSError as e:
            if e.errno not in reading.PASSING:
                raise
            unreadable = e
    if unreadable is not None:
        raise unreadable
    return None
