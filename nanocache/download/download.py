"""From URLs to a verified file in a partial: the door, and which error all of it ends in.

    the remote, if there is one and the digest is known
    for each URL, in order: where it is now; attempts, until it gave the artifact or is given up
    none gave it: one cause for each

Not publishing and not locking. Invariants: nothing is returned that was not read back from the disk and hashed; secrets
are in no message; on a full disk the bytes are given up at once, because the space is needed more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ..artifact.urls import redact
from ..cancel import Cancel
from ..errors import ChecksumMismatch, DownloadFailed, NotCached
from ..http.failure import Failure, Offline
from ..store.partials import Partial
from . import remote
from .one_url import OneUrl
from .request import Condition, Downloaded, DownloadRequest, NotModified, Report, Target

__all__ = ["Condition", "DownloadRequest", "Downloaded", "NotModified", "Target", "download"]

logger = logging.getLogger("nanocache")


def download(request: DownloadRequest, partial: Partial, cancel: Cancel, report: Report) -> Downloaded | NotModified:
    """Fill `partial` from the first URL that gives the artifact, verified; NotModified if the condition holds.

    `report` is called from the calling thread only, up to a few hundred times a second. A source that knows its
    artifact's digest may spare the bytes: see `Downloaded.came`.

    On failure the partial holds what can be resumed, and its state says what that is. Raises DownloadFailed (one cause
    per URL), ChecksumMismatch if every URL gave wrong bytes, NoSpace (the partial is deleted at once), NotCached while
    offline, Cancelled within a second, `partials.Abandoned`, and OSError where the disk fails.
    """

    def from_remote(digest: str) -> Downloaded | None:
        return remote.bring(request, digest, partial, cancel, report)

    known = request.digest or request.remembered
    came = None if known is None else from_remote(known)
    return came or _from_urls(request, partial, cancel, report, from_remote)


def _from_urls(
    request: DownloadRequest,
    partial: Partial,
    cancel: Cancel,
    report: Report,
    elsewhere: Callable[[str], Downloaded | None],
) -> Downloaded | NotModified:
    failures: list[Failure] = []  # one for each URL
    mismatches: list[ChecksumMismatch] = []
    for target in request.urls:
        _log_start(request, target, failures)
        try:
            return OneUrl(target, request, partial, cancel, report, elsewhere=elsewhere).run()
        except ChecksumMismatch as e:
            mismatches.append(e)
            failures.append(Failure(str(e)))
        except Failure as e:
            failures.append(e)
        except Offline:
            raise NotCached(url=redact(request.urls[0].url), base_dir=partial.base, sha256=request.digest) from None
    if len(mismatches) == len(failures):
        raise mismatches[0]
    raise _failed(request, failures)


def _log_start(request: DownloadRequest, target: Target, failures: Sequence[Failure]) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    if not failures:
        logger.info("downloading %s from %s", request.name, redact(target.url))
        return
    before = redact(request.urls[len(failures) - 1].url)
    logger.info("%s: %s; the next source is %s", before, failures[-1].reason, redact(target.url))


def _failed(request: DownloadRequest, failures: Sequence[Failure]) -> DownloadFailed:
    """One cause for each URL; the last status and the last remedy tell most."""
    status, remedy = None, ""
    for failure in failures:
        status = failure.status or status
        remedy = failure.remedy or remedy
    causes = zip(request.urls, failures, strict=True)
    return DownloadFailed(
        url=redact(request.urls[0].url),
        causes=tuple((redact(target.url), failure.reason) for target, failure in causes),
        status=status,
        remedy=remedy,
    )
