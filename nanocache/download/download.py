"""From URLs to a verified file in a partial: the door, and which error all of it ends in.

    for each URL, in order: where it is now; attempts, until it gave the artifact or is given up
    none gave it: one cause for each

Not publishing and not locking. Invariants: nothing is returned that was not read back from the disk and hashed; secrets
are in no message; on a full disk the bytes are given up at once, because the space is needed more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ..artifact.urls import redact
from ..callers import let_pass
from ..cancel import Cancel
from ..disk import faults
from ..errors import ChecksumMismatch, DownloadFailed, NoSpace, NotCached
from ..http.failure import Failure, Offline, StartOver
from ..sources.protocol import Resolved
from ..store.partials import Partial
from .attempts import Attempts
from .endpoint import Endpoint
from .request import Condition, Downloaded, DownloadRequest, NotModified, Target
from .retry import Tries
from .transfer import Transfer

__all__ = ["Condition", "DownloadRequest", "Downloaded", "NotModified", "Target", "download"]

logger = logging.getLogger("nanocache")

Report = Callable[[int, int | None], None]  # bytes so far, bytes in all or None


def download(request: DownloadRequest, partial: Partial, cancel: Cancel, report: Report) -> Downloaded | NotModified:
    """Fill `partial` from the first URL that gives the artifact, verified; NotModified if the condition holds.

    `report` is called from the calling thread only, up to a few hundred times a second. A source that knows its
    artifact's digest may spare the bytes: see `Downloaded.came`.

    On failure the partial holds what can be resumed, and its state says what that is. Raises DownloadFailed (one cause
    per URL), ChecksumMismatch if every URL gave wrong bytes, NoSpace (the partial is deleted at once), NotCached while
    offline, Cancelled within a second, `partials.Abandoned`, and OSError where the disk fails.
    """
    failures: list[Failure] = []  # one for each URL
    mismatches: list[ChecksumMismatch] = []
    for target in request.urls:
        _log_start(request, target, failures)
        try:
            return _OneUrl(target, request, partial, cancel, report).run()
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


class _OneUrl:
    """The artifact from one of its URLs: where it is now, whether it is needed at all, and its bytes."""

    def __init__(
        self, target: Target, request: DownloadRequest, partial: Partial, cancel: Cancel, report: Report
    ) -> None:
        self._target = target
        self._request = request
        self._partial = partial
        self._cancel = cancel
        self._report = report
        self._endpoint = Endpoint(target, request.settings)

    def run(self) -> Downloaded | NotModified:
        try:
            return self._fetch(started_over=False)
        except StartOver:
            pass
        except (Failure, ChecksumMismatch) as e:
            if not self._endpoint.distrust():
                raise
            logger.info("%s: %s; it is asked for elsewhere", redact(self._target.url), e)
        self._endpoint.forget()
        return self._fetch(started_over=True)

    def _fetch(self, *, started_over: bool) -> Downloaded | NotModified:
        began = time.monotonic()
        resolved = self._resolve()
        if (known := self._without_bytes(resolved)) is not None:
            return known
        request = self._request.with_facts(resolved)
        transfer = Transfer(self._endpoint, self._target, resolved, request, self._partial)
        try:
            outcome = Attempts(transfer, request, self._cancel, self._report, started_over=started_over).run()
        except NoSpace:
            self._partial.discard()
            raise
        except OSError as e:
            let_pass(e)
            if (full := faults.no_space(e, self._partial.base, transfer.lacking)) is None:
                raise
            self._partial.discard()
            raise full from e
        _log_end(request, outcome, transfer, time.monotonic() - began)
        return outcome

    def _resolve(self) -> Resolved:
        tries = Tries(self._request.settings.retries)
        while True:
            try:
                return self._endpoint.resolved(self._cancel)
            except Failure as e:
                seconds = tries.wait(e, progress=False)
                logger.info("%s: %s; asking again in %.1f s", redact(self._target.url), e.reason, seconds)
                self._cancel.sleep(seconds)

    def _without_bytes(self, resolved: Resolved) -> Downloaded | NotModified | None:
        """The outcome if what the source says spares the download. Raises ChecksumMismatch if it has another file."""
        asked, said = self._request.digest, resolved.sha256
        if None not in (asked, said) and asked != said:
            note = "its source says so itself; nothing was downloaded"
            url = redact(self._target.url)
            raise ChecksumMismatch(url=url, expected=asked or "", got=said or "", size=resolved.size or 0, note=note)
        condition = self._request.condition
        if condition is not None and resolved.validator is not None and condition.version == resolved.validator:
            return NotModified()
        if asked is None and said is not None and self._request.is_here(said):
            version, pinned = resolved.validator, resolved.pinned
            return Downloaded(said, resolved.size or 0, self._target.url, version=version, pinned=pinned, came=False)
        return None


def _log_start(request: DownloadRequest, target: Target, failures: Sequence[Failure]) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    if not failures:
        logger.info("downloading %s from %s", request.name, redact(target.url))
        return
    before = redact(request.urls[len(failures) - 1].url)
    logger.info("%s: %s; the next source is %s", before, failures[-1].reason, redact(target.url))


def _log_end(request: DownloadRequest, outcome: Downloaded | NotModified, transfer: Transfer, seconds: float) -> None:
    if isinstance(outcome, NotModified):
        logger.info("%s: not modified", request.name)
        return
    found = f", {transfer.found:,} of them were here" if transfer.found else ""
    rate = (outcome.size - transfer.found) / max(seconds, 1e-3) / 1e6
    logger.info("%s: %s bytes in %.2f s (%.1f MB/s)%s", request.name, f"{outcome.size:,}", seconds, rate, found)


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
