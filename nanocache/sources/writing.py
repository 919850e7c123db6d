"""Objects that are sent to a store: where an object may be put, and the one store that is a folder of this machine.

Not HTTP (`http.sending`). Invariant: in a folder an object appears complete, by one rename.
"""

from __future__ import annotations

import os
from functools import partial
from typing import BinaryIO, Literal

from ..artifact.schemes import WEB, scheme_of
from ..artifact.urls import file_path
from ..callers import let_pass, suppress
from ..cancel import Cancel, within
from ..http.redirects import Target
from . import registry
from .failing import as_failures
from .protocol import Writer

__all__ = ["copy_to", "size_of", "target_of"]

WRITTEN_BLOCK = 1 << 20  # bytes


def target_of(url: str, method: Literal["HEAD", "PUT"], cancel: Cancel) -> Target | None:
    """Where the object of `url` is asked about, or sent to; None if its source only reads.

    Raises Failure, Cancelled.
    """
    if scheme_of(url) in WEB:
        return Target(url)
    source: object = registry.find(url)
    if not isinstance(source, Writer):
        return None
    with as_failures():
        resolved = within(cancel, partial(source.resolve_as, url, method))
    return Target(resolved.url, tuple(resolved.headers))


def size_of(url: str) -> int | None:
    """Bytes of the file of a `file:` URL; None if there is none."""
    try:
        return os.stat(file_path(url)).st_size
    except OSError as e:
        let_pass(e)
        return None


def copy_to(url: str, data: BinaryIO, cancel: Cancel) -> None:
    """Have the file of a `file:` URL hold `data`. Raises OSError, Cancelled."""
    path = file_path(url)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = f"{path}.{os.urandom(8).hex()}.new"
    try:
        with open(fresh, "xb") as copy:
            while block := data.read(WRITTEN_BLOCK):
                cancel.check()
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())
        os.rename(fresh, path)
    finally:
        with suppress(OSError):
            os.unlink(fresh)
