"""A `file:` URL, answered as a server would: so that copying and hashing a local file is the same transfer.

No ranges and no validators: a second request starts over. Invariant: a file that changed while it was read is a
failure, not an artifact made of two versions.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ..artifact.urls import file_path
from ..http.exchange import Response
from ..http.failure import Failure

__all__ = ["read"]

BLOCK = 1 << 20  # bytes


@contextmanager
def read(url: str) -> Iterator[Response]:
    """The file as a Response, open while the block runs. Raises Failure."""
    try:
        fd = os.open(file_path(url), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # waits for no fifo
    except OSError as e:
        raise Failure(e.strerror or str(e), lasting=True) from None
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise Failure("it is not a regular file", lasting=True)
        yield _response(url, fd, st)
    finally:
        os.close(fd)


def _response(url: str, fd: int, st: os.stat_result) -> Response:
    first = os.read(fd, BLOCK) if st.st_size == 0 else b""
    if first:  # in /proc and /sys: 0 bytes by their size, and readable to an end of their own
        return Response(200, url, {"transfer-encoding": "chunked"}, _to_the_end(fd, first))
    return Response(200, url, {"content-length": str(st.st_size)}, _blocks(fd, st))


def _to_the_end(fd: int, first: bytes) -> Iterator[bytes]:
    block = first
    while block:
        yield block
        block = os.read(fd, BLOCK)


def _blocks(fd: int, before: os.stat_result) -> Iterator[bytes]:
    left = before.st_size
    while left and (block := os.read(fd, min(left, BLOCK))):
        left -= len(block)
        if not left:  # with the last block the transfer has all, and asks for nothing any more
            _check_unchanged(fd, before)
        yield block
    if left:
        raise Failure("it changed while it was read")


def _check_unchanged(fd: int, before: os.stat_result) -> None:
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Failure("it changed while it was read")
