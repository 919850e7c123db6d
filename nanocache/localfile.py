"""`file:` URLs: a file of this machine, copied into a partial and hashed on the way.

Copied and not linked: the original belongs to somebody who may write to it. The hash is of what was read and written;
the file must keep its size and mtime meanwhile, or two versions of it would be mixed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from . import urls
from .cancel import Cancel
from .partials import Partial

__all__ = ["copy"]

CHUNK = 1 << 20  # bytes


def copy(url: str, partial: Partial, *, cancel: Cancel, report: Callable[[int, int | None], None]) -> tuple[str, int]:
    """(SHA-256, size) of the file behind `url`, whose bytes are then the partial's.

    Raises OSError with a reason (no such file, not a regular file, it changed meanwhile), Cancelled, Abandoned.
    """
    path = urls.file_path(url)
    partial.reset()
    hasher, done = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        while chunk := file.read(CHUNK):
            cancel.check()
            partial.write(chunk, done)
            hasher.update(chunk)
            done += len(chunk)
            report(done, before.st_size)
        after = os.fstat(file.fileno())
    if done != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise OSError(f"the file changed while it was read ({before.st_size:,} bytes before, {done:,} read)")
    return hasher.hexdigest(), done
