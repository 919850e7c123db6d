"""The store of digests that NANOCACHE_REMOTE names, asked before any URL: a mirror of everything, and never trusted.

What it gives comes through the same transfer as all else, and the digest judges it. Not how it is filled (`filling`).
Invariants: an object that it lacks costs one answer; one that is down or slow costs a second, and is left alone for a
minute; of all that is wrong with it a process says one thing, once; none of its failures is the fetch's.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from dataclasses import replace
from typing import Any

from ..artifact import remotes
from ..artifact.urls import file_path, is_file, redact
from ..cancel import Cancel
from ..config import Settings
from ..errors import ChecksumMismatch
from ..http.failure import Failure, retried
from ..store.partials import Partial
from .one_url import OneUrl
from .request import Downloaded, DownloadRequest, Report, Target

__all__ = ["Remote", "bring", "opened", "usable"]

logger = logging.getLogger("nanocache")

HURRIED = 1.0  # seconds to connect, and without a byte: the origin is waiting
REST = 60.0  # seconds for which one that failed is left alone
NOT_THERE = (404, 410)


class Remote:
    """What this process knows of one remote."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.is_read_only = False
        self.wrong: set[str] = set()  # digests of which it gave other bytes
        self._rests_until = 0.0  # monotonic seconds
        self._full_until = 0.0
        self._warned = False

    def target(self, digest: str) -> Target:
        return Target(remotes.object_url(self.base, digest))

    @property
    def rests(self) -> bool:
        return time.monotonic() < self._rests_until

    @property
    def takes(self) -> bool:
        """Whether it is to be filled."""
        return not self.is_read_only and time.monotonic() >= self._full_until

    def is_unreachable(self, reason: str) -> None:
        """Leave it alone for a while."""
        self._rests_until = time.monotonic() + REST
        self.failed(reason)

    def is_full(self, reason: str) -> None:
        """Send it nothing for a while: what it has is as good as before."""
        self._full_until = time.monotonic() + REST
        self.failed(reason)

    def failed(self, reason: str) -> None:
        """Go on without it; the first time say so."""
        log = logger.debug if self._warned else logger.warning
        self._warned = True
        log("the remote %s is done without where it fails: %s", redact(self.base), reason)


@functools.cache
def opened(base: str) -> Remote:
    """The remote at `base`, and what this process knows of it."""
    return Remote(base)


def usable(settings: Settings) -> Remote | None:
    """The remote to ask or to fill now."""
    remote = None if settings.remote is None or settings.offline else opened(settings.remote)
    return None if remote is None or remote.rests else remote


def bring(request: DownloadRequest, digest: str, partial: Partial, cancel: Cancel, report: Report) -> Downloaded | None:
    """The artifact of `digest` from the remote, in `partial`; None if it is to be had elsewhere.

    Raises Cancelled, NoSpace, Abandoned, OSError.
    """
    remote = usable(request.settings)
    if remote is None:
        return None
    target = remote.target(digest)
    before = partial.state
    hurried = request.settings._replace(timeout=min(HURRIED, request.settings.timeout), retries=0)
    asked = replace(request, urls=[target], digest=digest, settings=hurried, condition=None)
    if is_file(target.url) and not os.path.exists(file_path(target.url)):
        return None
    try:
        outcome = OneUrl(target, asked, partial, cancel, report).run()
    except ChecksumMismatch as e:
        remote.wrong.add(digest)
        remote.failed(str(e))
    except Failure as e:
        _restore(partial, before)
        if e.status is None or retried(e.status):
            remote.is_unreachable(e.reason)
        elif e.status not in NOT_THERE:
            remote.failed(e.reason)
    else:
        if isinstance(outcome, Downloaded):  # its validators say nothing about the URL
            return replace(outcome, etag=None, last_modified=None, version=None, pinned=None, from_remote=True)
    return None


def _restore(partial: Partial, before: dict[str, Any] | None) -> None:
    """Let the partial's state say again by what server's version its bytes are known, if the remote added none."""
    now = partial.state
    if before is not None and now is not None and list(map(list, now["done"])) == before["done"]:
        partial.save(before)
