"""A request that changes a store or asks about one object of it: HEAD, PUT, MKCOL. What it answers is a status.

Not a download (`redirects.get`). Invariants: no redirect is followed; a target's headers and login go to its own
origin; what is sent is streamed from the disk, one block in memory at a time; a store that takes it too slowly is
given up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..artifact.urls import origin
from ..cancel import Cancel
from ..config import Settings
from . import slots
from .exchange import exchange
from .failure import Slow
from .redirects import Address, Target, headers_for

__all__ = ["FileBody", "Status", "ask", "put"]

SENT_BLOCK = 1 << 20  # bytes
SLOWEST = 1 << 20  # bytes per second on the whole; what is slower is no store to keep callers waiting for
CONNECTING = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Status:
    """What a store answered. `size`: of the object, as far as it says so."""

    code: int
    size: int | None = None


@dataclass(frozen=True, slots=True)
class FileBody:
    """The bytes of an open file, from its first one on, as often as they are asked for."""

    fd: int
    size: int  # bytes
    patience: float  # seconds that may pass before the speed counts
    cancel: Cancel

    def __iter__(self) -> Iterator[bytes]:
        began = time.monotonic()
        sent = 0
        while sent < self.size:
            self.cancel.check()
            block = os.pread(self.fd, min(SENT_BLOCK, self.size - sent), sent)
            if not block:
                raise OSError(f"the file ends after {sent:,} of {self.size:,} bytes")
            yield block
            sent += len(block)
            if sent < SLOWEST * (time.monotonic() - began - self.patience):
                raise Slow(f"it takes less than {SLOWEST >> 20} MiB/s")


def ask(method: str, target: Target, settings: Settings, cancel: Cancel) -> Status:
    """The answer to a request without a body. Raises Failure, Cancelled, Offline."""
    return _send(method, target, None, settings, cancel)


def put(target: Target, body: FileBody, settings: Settings, cancel: Cancel) -> Status:
    """The answer to a PUT. Raises Failure, Cancelled, Offline, OSError."""
    return _send("PUT", target, body, settings, cancel)


def _send(method: str, target: Target, body: FileBody | None, settings: Settings, cancel: Cancel) -> Status:
    asked = [] if body is None else [("Content-Length", str(body.size)), ("Content-Type", "application/octet-stream")]
    headers = headers_for(target, Address(target.url), asked)
    with (
        slots.slot(origin(target.url), limit=settings.connections, budget=settings.budget, cancel=cancel),
        exchange(
            target.url,
            headers,
            settings=settings,
            cancel=cancel,
            method=method,
            content=body or (),
            connecting=CONNECTING,
        ) as response,
    ):
        length = response.headers.get("content-length", "")
        return Status(response.status, int(length) if length.isdecimal() and method == "HEAD" else None)
