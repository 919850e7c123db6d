"""From URLs to a verified file in a partial: the door, and which error all of it ends in.

    for each source, in order: attempts, until it gave the artifact or is given up
    none gave it: one cause for each

Not publishing and not locking. Invariants: nothing is returned that was not read back from the disk and hashed; secrets
are in no message; on a full disk the bytes are given up at once, because the space is needed more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ..artifact.urls import redact
from ..cancel import Cancel
from ..disk import faults
from ..errors import ChecksumMismatch, DownloadFailed, NoSpace, NotCached
from ..http.failure import Failure, Offline
from ..store.partials import Partial
from .attempts import Attempts
from .request import Downloaded, DownloadRequest, NotModified, Source
from .transfer import Transfer

__all__ = ["DownloadRequest", "Downloaded", "NotModified", "Source", "download"]

logger = logging.getLogger("nanocache")

Report = Callable[[int, int | None], None]  # bytes so far, bytes in all or None


def download(request: DownloadRequest, partial: Partial, cancel: Cancel, report: Report) -> Downloaded | NotModified:
    """Fill `partial` from the first source that gives the artifact, verified; NotModified if the condition holds.

    `report` is called from the calling thread only, up to a few hundred times a second.

    On failure the partial holds what can be resumed, and its state says what that is. Raises DownloadFailed (one cause
    per URL), ChecksumMismatch if every URL gave wrong bytes, NoSpace (the partial is deleted at once), NotCached while
    offline, Cancelled within a second, `partials.Abandoned`, and OSError where the disk fails.
    """
    failures: list[Failure] = []  # one for each source
    mismatches: list[ChecksumMismatch] = []
    began = time.monotonic()
    for source in request.sources:
        transfer = Transfer(source, request, partial)
        _log_start(request, transfer, failures)
        try:
            outcome = Attempts(transfer, request, cancel, report).run()
            _log_end(request, outcome, transfer, time.monotonic() - began)
            return outcome
        except ChecksumMismatch as e:
            mismatches.append(e)
            failures.append(Failure(str(e)))
        except Failure as e:
            failures.append(e)
        except Offline:
            raise NotCached(url=redact(request.sources[0].url), base_dir=partial.base, sha256=request.digest) from None
        except NoSpace:
            partial.discard()
            raise
        except OSError as e:
            if (full := faults.no_space(e, partial.base, transfer.lacking)) is None:
                raise
            partial.discard()
            raise full from e
    if len(mismatches) == len(failures):
        raise mismatches[0]
    raise _failed(request, failures)


def _log_start(request: DownloadRequest, transfer: Transfer, failures: Sequence[Failure]) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    if not failures:
        logger.info("downloading %s from %s", request.name, transfer.shown_url)
        return
    before = redact(request.sources[len(failures) - 1].url)
    logger.info("%s: %s; the next source is %s", before, failures[-1].reason, transfer.shown_url)


def _log_end(request: DownloadRequest, outcome: Downloaded | NotModified, transfer: Transfer, seconds: float) -> None:
    if isinstance(outcome, NotModified):
        logger.info("%s: not modified", request.name)
        return
    found = f", {transfer.found:,} of them were here" if transfer.found else ""
    rate = (outcome.size - transfer.found) / max(seconds, 1e-3) / 1e6
    logger.info("%s: %s bytes in %.2f s (%.1f MB/s)%s", request.name, f"{outcome.size:,}", seconds, rate, found)


def _failed(request: DownloadRequest, failures: Sequence[Failure]) -> DownloadFailed:
    """One cause for each source; the last status and the last remedy tell most."""
    status, remedy = None, ""
    for failure in failures:
        status = failure.status or status
        remedy = failure.remedy or remedy
    sources = zip(request.sources, failures, strict=True)
    return DownloadFailed(
        url=redact(request.sources[0].url),
        causes=tuple((redact(source.url), failure.reason) for source, failure in sources),
        status=status,
        remedy=remedy,
    )
