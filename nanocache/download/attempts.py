"""One source after the other until one has given the artifact: what is asked, and what each kind of failure leads to.

    ask: a plain GET, or a range if there are bytes to build on
    small: take the body here.  Large: hand it to a crew, hash behind it (one connection, or many in ranges)
    failed: what came is kept, wait, ask again; odd parts or a wrong digest: once more, from zero
    compare the digest of what lies on disk

Invariants: bytes are built on only with a strong validator or a digest to judge them; each source ends after a bounded
number of tries without progress; state, progress and the hash are the calling thread's alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from ..artifact.urls import redact
from ..cancel import Cancel
from ..disk.hashing import Vanished
from ..errors import ChecksumMismatch
from ..http.exchange import Response
from ..http.failure import Failure, Slow, StartOver
from ..http.redirects import Source
from ..http.slots import Busy
from ..http.validation import part_headers
from ..store.partials import Abandoned, Partial
from . import resume
from .connections import Connection, Connections
from .first_answer import accept
from .ledger import SMALLEST_PIECE
from .request import DownloadRequest
from .retry import Tries, least_progress
from .transfer import Transfer

__all__ = ["Attempts", "NotModified", "Downloaded"]

SMALL = 1 << 20  # bytes up to which a body is taken, then hashed, by the calling thread alone
LONGEST_SLEEP = 1.0  # seconds; between them those who wait get a sign of life, and the partial stays ours


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download brought. `etag` and `last_modified` as the server of `url` sent them."""

    digest: str  # of what lies on disk
    size: int  # bytes
    url: str  # the source's that gave it
    etag: str | None
    last_modified: str | None
    remember: bool  # False: nothing said where the body ends, so nobody can tell whether it is whole
    content_encoding: str | None


class NotModified:
    """The server still has what the condition names."""


class Attempts:
    """One call of `download`."""

    def __init__(
        self, request: DownloadRequest, partial: Partial, cancel: Cancel, report: Callable[[int, int | None], None]
    ) -> None:
        self._request = request
        self._partial = partial
        self._cancel = cancel
        self._report = report

    @property
    def lacking(self) -> int | None:
        """Bytes that are still to come, as far as that is known."""
        total = self._transfer.ledger.total
        return None if total is None else total - self._transfer.ledger.received

    def run(self, source: Source) -> Downloaded | NotModified:
        """Raises Failure or ChecksumMismatch if this source does not give the artifact."""
        self._transfer = Transfer(source, self._partial, self._request.settings, self._request.size)
        self._again, self._saver = False, resume.Saver(self._transfer, self._request.judged)
        resume.load(self._transfer, judged=self._request.judged)
        tries, received = Tries(self._request.settings.retries), None
        most = self._transfer.ledger.received  # more than ever before is progress; as much again, from zero, is none
        try:
            while True:
                try:
                    received = self._attempt()
                    return received
                except Vanished as e:
                    self._start_over(StartOver(str(e.strerror)))
                except StartOver as e:
                    self._start_over(e)
                except Busy:
                    pass
                except Failure as e:
                    self._pause(tries, e, self._transfer.ledger.received - most)
                    most = max(most, self._transfer.ledger.received)
        except ChecksumMismatch:
            self._transfer.restart()
            raise
        finally:
            if received is None or self._partial.state is not None:  # a small one that is there needs no state any more
                with suppress(Abandoned, OSError):  # something else is being raised, or the bytes are all there
                    self._saver.save()

    # --- between attempts ---------------------------------------------------------------------------------------------

    def _start_over(self, reason: StartOver) -> None:
        if self._again:
            raise Failure(reason.reason, lasting=True)
        self._again = True
        self._transfer.restart()

    def _pause(self, tries: Tries, failure: Failure, gained: int) -> None:
        progress = gained >= least_progress(self._transfer.ledger.total) and not isinstance(failure, Slow)
        seconds = tries.wait(failure, progress=progress)
        if not progress:
            self._transfer.address = None  # what a redirect led to may be what is broken
        while seconds > 0:
            self._saver.save()
            self._tell()
            self._cancel.sleep(min(seconds, LONGEST_SLEEP))
            seconds -= LONGEST_SLEEP

    # --- one attempt --------------------------------------------------------------------------------------------------

    def _attempt(self) -> Downloaded | NotModified:
        if self._transfer.ledger.done and not self._saver.resumable:
            self._transfer.restart()
        while not self._transfer.ledger.complete:
            before = self._transfer.ledger.received
            if self._ask() is not None:
                return NotModified()
            gained = self._transfer.ledger.received - before
            if gained < least_progress(self._transfer.ledger.total) and not self._transfer.ledger.complete:
                raise Failure(f"it sent {gained:,} bytes of what was asked for")
        return self._finish()

    def _ask(self) -> NotModified | None:
        """One request, and what follows from its answer until no connection is left."""
        first = Connection()
        headers = self._condition_headers()
        if self._transfer.ledger.done:
            first.claim = self._transfer.ledger.claim_rest()
            assert first.claim is not None
            headers += part_headers(first.claim.pos, first.claim.end, self._transfer.offer.validator)
        with ExitStack() as stack:
            stack.enter_context(self._cancel.watch(first.cancel.set))
            try:
                response = stack.enter_context(self._transfer.ask(headers, first.cancel)).response
                if response.status == 304:
                    return self._not_modified()
                first.claim, ends = accept(self._transfer, self._request, response, first.claim)
                self._take(first, stack, response, ends)
            finally:
                self._transfer.ledger.claims.clear()
        return None

    def _condition_headers(self) -> list[tuple[str, str]]:
        etag, modified = self._request.condition or (None, None)
        headers = [] if etag is None else [("If-None-Match", etag)]
        return headers if modified is None else [*headers, ("If-Modified-Since", modified)]

    def _not_modified(self) -> NotModified:
        if self._request.condition is None:
            raise Failure("it answered 304 to a request without a condition", lasting=True)
        return NotModified()

    def _take(self, first: Connection, stack: ExitStack, response: Response, ends: int | None) -> None:
        claim, total = first.claim, self._transfer.ledger.total
        assert claim is not None
        small = total is None or total <= SMALL
        if small and self._transfer.take(claim, response, first.cancel, ends=ends, upto=SMALL, tell=self._tell):
            if claim.end is None:
                self._transfer.ledger.total = claim.end = claim.pos
            return
        most = self._request.settings.connections if self._parallel() else 1
        crew = Connections(self._transfer, self._cancel, most=most, tick=self._tick)
        crew.run(first, stack, response, ends=ends)

    def _parallel(self) -> bool:
        offer, ledger = self._transfer.offer, self._transfer.ledger
        if self._again or not (offer.ranges and offer.validator) or ledger.total is None:
            return False
        return ledger.total - ledger.received >= 4 * SMALLEST_PIECE

    def _tick(self) -> bool:
        """What the calling thread does while bytes come; False if it had nothing to do."""
        self._saver.save_if_due()
        with self._transfer.changed:
            frontier = self._transfer.ledger.frontier
        self._tell()
        return self._transfer.frontier.follow(frontier)

    def _tell(self) -> None:
        # Small bodies, too: on a slow line a MiB takes minutes, and those who wait would think that nothing moves.
        with self._transfer.changed:
            received, total = self._transfer.ledger.received, self._transfer.ledger.total
        self._report(received, total)
        self._partial.check_owner()  # the report may have forked, and in the child no connection's thread is there

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> Downloaded:
        total, offer = self._transfer.ledger.total, self._transfer.offer
        assert total is not None
        self._check_size(total)
        while self._transfer.frontier.follow(total):
            self._cancel.check()
        if os.fstat(self._partial.fd).st_size != total:
            raise StartOver("somebody else wrote to the partial")
        self._report(total, total)
        got = self._transfer.frontier.digest()
        if self._request.digest is not None and got != self._request.digest:
            self._mismatch(got, total)
        return Downloaded(
            digest=got,
            size=total,
            url=self._transfer.source.url,
            etag=offer.etag,
            last_modified=offer.last_modified,
            remember=offer.framed or self._request.known,
            content_encoding=offer.encoding,
        )

    def _check_size(self, total: int) -> None:
        if self._request.size is None or total == self._request.size:
            return
        self._transfer.ledger.total = None
        raise Failure(f"it ended after {total:,} of {self._request.size:,} bytes", lasting=total > self._request.size)

    def _mismatch(self, got: str, total: int) -> None:
        offer = self._transfer.offer
        if (self._transfer.pieced or not offer.framed) and not self._again:
            raise StartOver("its parts do not make the file")
        assert self._request.digest is not None
        raise ChecksumMismatch(
            url=redact(self._transfer.source.url),
            expected=self._request.digest,
            got=got,
            size=total,
            note=f"it was sent with Content-Encoding: {offer.encoding}" if offer.encoding else "",
        )
