"""From URLs to a verified file in a partial: the order of attempts, and what each kind of failure leads to.

    for each source, in order:
        ask: a plain GET, or a range if there are bytes to build on
        small: take the body here.  Large: hand it to a crew, hash behind it (one connection, or many in ranges)
        failed: what came is kept, wait, ask again; odd parts or a wrong digest: once more, from zero
    compare the digest of what lies on disk

Not publishing and not locking. Invariants: nothing is returned that was not read back from the disk and hashed; bytes
are built on only with a strong validator or a digest to judge them; each source ends after a bounded number of tries
without progress; secrets are in no message.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from . import resume
from .answers import StartOver, check_part, part_headers, read_offer
from .budget import Busy
from .cancel import Cancel
from .config import Settings
from .crew import Connection, Crew
from .errors import ChecksumMismatch, DownloadFailed, NoSpace, NotCached
from .follow import Source
from .frontier import Frontier
from .http import Response
from .partials import Abandoned, Partial
from .ranges import SMALLEST_PIECE, Ledger
from .retry import Failure, Offline, Slow, Tries, least_progress
from .urls import redact
from .work import Work

__all__ = ["NotModified", "Received", "Source", "download"]

SMALL = 1 << 20  # bytes up to which a body is taken, then hashed, by the calling thread alone
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_SLEEP = 60.0  # seconds; between them the partial is touched, since five still minutes make it somebody else's

Condition = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Received:
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


def download(
    sources: Sequence[Source],
    partial: Partial,
    *,
    digest: str | None,
    size: int | None,
    condition: Condition | None = None,
    name: str,
    settings: Settings,
    cancel: Cancel,
    report: Callable[[int, int | None], None],
) -> Received | NotModified:
    """Fill `partial` from the first source that gives the artifact, verified.

    `condition`: (ETag, Last-Modified) of what is there already; NotModified if the server still has it. `name` decides
    whether an HTML page can be meant. `report(bytes so far, total or None)` is called from the calling thread only, at
    most 50 times a second for a large body.

    On failure the partial holds what can be resumed, and its state says what that is. Raises DownloadFailed (one cause
    per URL), ChecksumMismatch if every URL gave wrong bytes, NoSpace (the partial is deleted at once), NotCached while
    offline, Cancelled within a second, `partials.Abandoned`, and OSError where the disk fails.
    """
    failures: list[tuple[Source, Failure | ChecksumMismatch]] = []
    transfer = _Transfer(partial, digest, size, condition, name, settings, cancel, report)
    try:
        for source in sources:
            try:
                return transfer.run(source)
            except (Failure, ChecksumMismatch) as e:
                failures.append((source, e))
    except Offline:
        base = str(partial.path.parents[2])
        raise NotCached(url=redact(sources[0].url), base_dir=base, sha256=digest) from None
    except NoSpace:
        partial.discard()
        raise
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise _no_space(partial, transfer.lacking) from e
    raise _failed(sources, failures)


def _no_space(partial: Partial, needed: int | None) -> NoSpace:
    available = _available(partial)
    partial.discard()
    return NoSpace(path=str(partial.path.parents[2]), needed=needed, available=available)


def _available(partial: Partial) -> int | None:
    try:
        st = os.statvfs(partial.path)
    except OSError:
        return None
    return st.f_bavail * st.f_frsize if st.f_blocks else None  # a mount of no blocks knows nothing


def _failed(
    sources: Sequence[Source], failures: Sequence[tuple[Source, Failure | ChecksumMismatch]]
) -> DownloadFailed | ChecksumMismatch:
    mismatches = [e for _, e in failures if isinstance(e, ChecksumMismatch)]
    if mismatches and len(mismatches) == len(failures):
        return mismatches[0]
    others = [e for _, e in failures if isinstance(e, Failure)]
    return DownloadFailed(
        url=redact(sources[0].url) if sources else "",
        causes=tuple((redact(source.url), e.reason if isinstance(e, Failure) else str(e)) for source, e in failures),
        status=next((e.status for e in reversed(others) if e.status is not None), None),
        remedy=next((e.remedy for e in reversed(others) if e.remedy), ""),
    )


class _Transfer:
    """One call of `download`."""

    def __init__(
        self,
        partial: Partial,
        digest: str | None,
        size: int | None,
        condition: Condition | None,
        name: str,
        settings: Settings,
        cancel: Cancel,
        report: Callable[[int, int | None], None],
    ) -> None:
        self._partial, self._digest, self._size, self._name = partial, digest, size, name
        self._condition, self._settings, self._cancel, self._report = condition, settings, cancel, report
        self._ledger = Ledger()

    @property
    def lacking(self) -> int | None:
        """Bytes that are still to come, as far as that is known."""
        total = self._work.ledger.total
        return None if total is None else total - self._work.ledger.received

    def run(self, source: Source) -> Received | NotModified:
        """Raises Failure or ChecksumMismatch if this source does not give the artifact."""
        self._work = Work(source, self._partial, self._settings, self._size)
        self._again, self._pieces = False, True
        self._frontier, self._saver = Frontier(self._partial.fd), resume.Saver(self._work, self._digest is not None)
        resume.load(self._work, judged=self._digest is not None)
        tries, received = Tries(self._settings.retries), None
        most = self._work.ledger.received  # more than ever before is progress; as much again, from zero, is none
        try:
            while True:
                try:
                    received = self._attempt()
                    return received
                except StartOver as e:
                    self._start_over(e)
                except Busy:
                    pass
                except Failure as e:
                    self._pause(tries, e, self._work.ledger.received - most)
                    most = max(most, self._work.ledger.received)
        except ChecksumMismatch:
            self._reset()
            raise
        finally:
            if received is None or self._partial.state is not None:  # a small one that is there needs no state any more
                with suppress(Abandoned, OSError):  # something else is being raised, or the bytes are all there
                    self._saver.save()

    # --- between attempts ---------------------------------------------------------------------------------------------

    def _start_over(self, reason: StartOver) -> None:
        if self._again:
            raise Failure(reason.reason, lasting=True)
        self._again, self._pieces = True, False
        self._reset()

    def _reset(self) -> None:
        self._partial.reset()
        self._work.ledger, self._work.pieced = Ledger(), False
        self._frontier = Frontier(self._partial.fd)

    def _pause(self, tries: Tries, failure: Failure, gained: int) -> None:
        progress = gained >= least_progress(self._work.ledger.total) and not isinstance(failure, Slow)
        seconds = tries.wait(failure, progress=progress)
        if not progress:
            self._work.address = None  # what a redirect led to may be what is broken
        while seconds > 0:
            self._saver.save()
            self._cancel.sleep(min(seconds, LONGEST_SLEEP))
            seconds -= LONGEST_SLEEP

    # --- one attempt --------------------------------------------------------------------------------------------------

    def _attempt(self) -> Received | NotModified:
        if self._work.ledger.done and not self._saver.resumable:
            self._reset()
        while not self._work.ledger.complete:
            before = self._work.ledger.received
            if self._ask() is not None:
                return NotModified()
            gained = self._work.ledger.received - before
            if gained < least_progress(self._work.ledger.total) and not self._work.ledger.complete:
                raise Failure(f"it sent {gained:,} bytes of what was asked for")
        return self._finish()

    def _ask(self) -> NotModified | None:
        """One request, and what follows from its answer until no connection is left."""
        first = Connection()
        headers = self._condition_headers()
        if self._work.ledger.done:
            first.claim = self._work.ledger.claim_rest()
            assert first.claim is not None
            headers += part_headers(first.claim.pos, first.claim.end, self._work.offer.validator)
        with ExitStack() as stack:
            stack.enter_context(self._cancel.watch(first.cancel.set))
            try:
                response = stack.enter_context(self._work.ask(headers, first.cancel)).response
                if response.status == 304:
                    return self._not_modified()
                ends = self._accept(response, first)
                self._take(first, stack, response, ends)
            finally:
                self._work.ledger.claims.clear()
        return None

    def _condition_headers(self) -> list[tuple[str, str]]:
        etag, modified = self._condition or (None, None)
        headers = [] if etag is None else [("If-None-Match", etag)]
        return headers if modified is None else [*headers, ("If-Modified-Since", modified)]

    def _not_modified(self) -> NotModified:
        if self._condition is None:
            raise Failure("it answered 304 to a request without a condition", lasting=True)
        return NotModified()

    def _accept(self, response: Response, first: Connection) -> int | None:
        """Take the head for what it is; where its body ends, as far as that is known."""
        if response.status == 206 and first.claim is not None:
            ends, total = check_part(response.headers, self._work.offer, first.claim.pos, first.claim.end)
            if total is None:
                raise StartOver("it sent a part without saying of how much")
            self._work.pieced = True
            self._set_total(first, total)
            return ends
        if response.status != 200:
            raise StartOver(f"it answered {response.status} to a {'range' if first.claim else 'plain GET'}")
        if first.claim is not None:
            self._reset()  # no range, or another version: this answer is the new beginning
        self._work.offer = read_offer(response.headers)
        self._check_page()
        first.claim = self._work.ledger.claim_rest()
        if self._work.offer.total is not None:
            self._set_total(first, self._work.offer.total)
        return self._work.offer.total

    def _check_page(self) -> None:
        if not self._work.offer.page or self._digest is not None or self._size is not None:
            return
        wanted = "text/html" in (self._work.source.header("accept") or "")
        if not wanted and not self._name.lower().endswith((".htm", ".html", ".xhtml")):
            raise Failure(
                "a web page came instead of the file (a login, or a notice?); Accept: text/html takes it", lasting=True
            )

    def _set_total(self, first: Connection, total: int) -> None:
        if self._size is not None and total != self._size:
            raise Failure(f"it has {total:,} bytes where {self._size:,} were expected", lasting=True)
        ledger = self._work.ledger
        with self._work.changed:
            ledger.total = total
            assert first.claim is not None
            if first.claim.end is None:
                first.claim.end = total
        self._work.check_limit(total)
        available, needed = _available(self._partial), total - os.fstat(self._partial.fd).st_blocks * 512
        if available is not None and needed > available:
            raise NoSpace(path=str(self._partial.path.parents[2]), needed=needed, available=available)

    def _take(self, first: Connection, stack: ExitStack, response: Response, ends: int | None) -> None:
        claim, total = first.claim, self._work.ledger.total
        assert claim is not None
        small = total is None or total <= SMALL
        if small and self._work.take(claim, response, first.cancel, ends=ends, upto=SMALL, tell=self._tell):
            if claim.end is None:
                self._work.ledger.total = claim.end = claim.pos
            return
        most = self._settings.connections if self._parallel() else 1
        crew = Crew(self._work, self._cancel, most=most, tick=self._tick)
        crew.run(first, stack.pop_all(), response, ends=ends)

    def _parallel(self) -> bool:
        offer, ledger = self._work.offer, self._work.ledger
        if not (self._pieces and offer.ranges and offer.validator) or ledger.total is None:
            return False
        return ledger.total - ledger.received >= 4 * SMALLEST_PIECE

    def _tick(self) -> bool:
        """What the calling thread does while bytes come; False if it had nothing to do."""
        self._saver.save_if_due()
        with self._work.changed:
            frontier = self._work.ledger.frontier
        self._tell()
        return self._frontier.follow(frontier)

    def _tell(self) -> None:
        # Small bodies, too: on a slow line a MiB takes minutes, and those who wait would think that nothing moves.
        with self._work.changed:
            received, total = self._work.ledger.received, self._work.ledger.total
        self._report(received, total)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> Received:
        total, offer = self._work.ledger.total, self._work.offer
        assert total is not None
        self._check_size(total)
        while self._frontier.follow(total):
            self._cancel.check()
        if os.fstat(self._partial.fd).st_size != total:
            raise StartOver("somebody else wrote to the partial")
        self._report(total, total)
        got = self._frontier.digest()
        if self._digest is not None and got != self._digest:
            self._mismatch(got, total)
        return Received(
            digest=got,
            size=total,
            url=self._work.source.url,
            etag=offer.etag,
            last_modified=offer.last_modified,
            remember=offer.framed or self._digest is not None or self._size is not None,
            content_encoding=offer.encoding,
        )

    def _check_size(self, total: int) -> None:
        if self._size is None or total == self._size:
            return
        reason = f"it ended after {total:,} of {self._size:,} bytes"
        self._work.ledger.total = None
        raise Failure(reason, lasting=total > self._size)

    def _mismatch(self, got: str, total: int) -> None:
        offer = self._work.offer
        if (self._work.pieced or not offer.framed) and not self._again:
            raise StartOver("its parts do not make the file")
        assert self._digest is not None
        raise ChecksumMismatch(
            url=redact(self._work.source.url),
            expected=self._digest,
            got=got,
            size=total,
            note=f"it was sent with Content-Encoding: {offer.encoding}" if offer.encoding else "",
        )
