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
        self.takes = True  # False: it was found to be read-only
        self.wrong: set[str] = set()  # digests of which it gave other bytes
        self._rests_until = 0.0  # monotonic seconds
        self._warned = False

    def target(self, digest: str) -> Target:
        return Target(remotes.object_url(self.base, digest))

    @property
    def rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def failed(self, reason: str, *, rest: bool = True) -> None:
        """Go on without it, for a while if it is to `rest`; the first time say so."""
        if rest:
            self._rests_until = time.monotonic() + REST
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
    hurried = request.settings._replace(timeout=min(HURRIED, request.settings.timeout), retries=0)
    asked = replace(request, urls=[target], digest=digest, settings=hurried, condition=None)
    try:
        outcome = OneUrl(target, asked, partial, cancel, report).run()
    except ChecksumMismatch as e:
        remote.wrong.add(digest)
        remote.failed(str(e), rest=False)
    except Failure as e:
        if not _is_absent(target.url, e):
            remote.failed(e.reason, rest=e.status is None or retried(e.status))
    else:
        if isinstance(outcome, Downloaded):  # its validators say nothing about the URL
            return replace(outcome, etag=None, last_modified=None, version=None, pinned=None, from_remote=True)
    return None


def _is_absent(url: str, failure: Failure) -> bool:
    return failure.status in NOT_THERE or (is_file(url) and not os.path.exists(file_path(url)))
