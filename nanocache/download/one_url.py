"""One URL, from where its artifact is now to a verified file in the partial, or to why it does not give it.

Not the order of the URLs (`download`). Invariant: on a full disk the bytes are given up at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from ..artifact.urls import redact
from ..callers import let_pass
from ..cancel import Cancel
from ..disk import faults
from ..errors import ChecksumMismatch, NoSpace
from ..http.failure import Failure, StartOver
from ..sources.protocol import Resolved
from ..store.partials import Partial
from .attempts import Attempts
from .endpoint import Endpoint
from .request import Downloaded, DownloadRequest, NotModified, Report, Target
from .retry import Tries
from .transfer import Transfer

__all__ = ["OneUrl"]

logger = logging.getLogger("nanocache")


class OneUrl:
    """The artifact from one of its URLs: where it is now, whether it is needed at all, and its bytes."""

    def __init__(
        self,
        target: Target,
        request: DownloadRequest,
        partial: Partial,
        cancel: Cancel,
        report: Report,
        *,
        elsewhere: Callable[[str], Downloaded | None] = lambda _: None,
    ) -> None:
        self._target = target
        self._request = request
        self._partial = partial
        self._cancel = cancel
        self._report = report
        self._elsewhere = elsewhere  # asked for a digest that the URL's source says
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
        if self._request.digest is None and request.digest is not None and (came := self._elsewhere(request.digest)):
            return replace(came, url=self._target.url, version=resolved.validator, pinned=resolved.pinned)
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


def _log_end(request: DownloadRequest, outcome: Downloaded | NotModified, transfer: Transfer, seconds: float) -> None:
    if isinstance(outcome, NotModified):
        logger.info("%s: not modified", request.name)
        return
    found = f", {transfer.found:,} of them were here" if transfer.found else ""
    rate = (outcome.size - transfer.found) / max(seconds, 1e-3) / 1e6
    logger.info("%s: %s bytes in %.2f s (%.1f MB/s)%s", request.name, f"{outcome.size:,}", seconds, rate, found)
