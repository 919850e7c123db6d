"""One source's bytes on their way into one partial: asked for, written, recorded and hashed.

Not the plan: when to ask and how many connections to open is decided in `attempts` and `connections`. Any connection's
thread may receive; all else is the calling thread's. Invariants: while connections run, the ledger is touched only
under `changed`; a byte is in the ledger only after it is in the file; no thread writes once its own `cancel` is set.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..artifact import urls
from ..cancel import Cancel
from ..disk.hashing import FileHasher
from ..http.exchange import Response
from ..http.failure import Failure, StartOver
from ..http.validation import ResponseInfo, check_part, is_part, part_headers, read_info
from ..sources.protocol import Resolved
from ..store.partials import Partial
from . import first_answer, instead, resume
from .endpoint import Endpoint
from .ledger import Claim, Ledger
from .request import Condition, Downloaded, DownloadRequest, Target

__all__ = ["Body", "Transfer"]


@dataclass(slots=True)
class Body:
    """A body that is coming, and the claim that it fills."""

    claim: Claim
    response: Response
    ends: int | None  # the byte of the artifact where it ends, None if it does not say
    waited: float = 0.0  # seconds in which its socket had nothing to read, as far as the transfer counted them


class Transfer:
    """One source's transfer. Made for one call; `resume` comes first."""

    def __init__(
        self, endpoint: Endpoint, target: Target, resolved: Resolved, request: DownloadRequest, partial: Partial
    ) -> None:
        self.partial = partial
        self.ledger = Ledger()
        self.changed = threading.Condition()
        self.found = 0  # bytes that were here when it began
        self.waited = 0.0  # seconds that all its connections together had nothing to read
        self._endpoint = endpoint
        self._target = target
        self._resolved = resolved  # as it was at first
        self._request = request
        self._info = ResponseInfo()
        self._several = False  # bytes of more than one answer are in it
        self._hasher = FileHasher(partial.fd)
        self._longest = math.inf  # bytes that the body may have

    # --- what was there before, and what is left ----------------------------------------------------------------------

    def resume(self) -> None:
        """Take over what an earlier owner of the partial, or an earlier source, left, as far as it may be built on."""
        size = os.fstat(self.partial.fd).st_size
        if self.partial.state is None and not size:
            return
        try:
            self.ledger, self._info = resume.parse(
                self.partial.state or {}, self._url_key, self._version, judged=self._request.judged, size=size
            )
            self.found = self.ledger.received
            self._several = True
        except (KeyError, TypeError, ValueError):
            self.partial.reset()

    def restart(self) -> None:
        """Forget the bytes, which are wrong or cannot be told from wrong ones. Only while no connection runs."""
        self.partial.reset()
        self.ledger = Ledger()
        self._hasher = FileHasher(self.partial.fd)
        self._several = False
        self.found = 0

    def save(self) -> None:
        """Record what is there, if it may be built on later. Raises Abandoned, OSError."""
        with self.changed:
            done, total = list(self.ledger.done), self.ledger.total
        if done and self.resumable:
            self.partial.save(resume.state(self._url_key, self._info, total, done, self._version))

    @property
    def shown_url(self) -> str:
        """The source's URL without what is secret in it."""
        return urls.redact(self._target.url)

    @property
    def _url_key(self) -> str:
        return urls.url_key(self._target.url, self._target.headers)

    @property
    def is_resolved(self) -> bool:
        """Whether the URL is no address, and a source said where the artifact is."""
        return not urls.is_address(self._target.url)

    @property
    def _version(self) -> str | None:
        """As the source calls the bytes, at whatever address they are."""
        return self._resolved.validator

    @property
    def _is_versioned(self) -> bool:
        """Whether two parts can be told to be of one version."""
        return self._info.validator is not None or self._version is not None

    @property
    def resumable(self) -> bool:
        """Whether another answer may go on where this one breaks off."""
        return self._info.encoding is None and (self._request.judged or self._is_versioned)

    @property
    def splittable(self) -> bool:
        """Whether several connections may bring it: the server serves ranges, and says of which version they are."""
        return self._info.ranges and self._is_versioned and self.ledger.total is not None

    @property
    def doubtful(self) -> bool:
        """Whether a wrong digest may come from how the bytes were put together, or from a cut that went unnoticed."""
        return self._several or not self._info.framed

    @property
    def vouched(self) -> str | None:
        """The digest that the server itself gave for the artifact."""
        return self._info.sha256

    @property
    def lacking(self) -> int | None:
        """Bytes that are still to come; None while that is unknown."""
        return None if self.ledger.total is None else self.ledger.total - self.ledger.received

    # --- asking -------------------------------------------------------------------------------------------------------

    @contextmanager
    def begin(self, cancel: Cancel) -> Iterator[Body | None]:
        """Ask for all that is lacking: the body while the block runs, None if the request's condition holds.

        Raises StartOver, Failure, NoSpace.
        """
        self.ledger.claims.clear()  # those of connections that have ended
        claim = self.ledger.claim_rest() if self.ledger.done else None
        headers = self._condition()
        if claim is not None:
            headers += self._part_headers(claim)
        with self._endpoint.ask(headers, cancel) as response:
            self.partial.renew()
            yield self._accept(response, claim)

    def _condition(self) -> list[tuple[str, str]]:
        here = self._request.condition or Condition()
        values = {"If-None-Match": here.etag, "If-Modified-Since": here.last_modified}
        return [(name, value) for name, value in values.items() if value is not None]

    def _part_headers(self, claim: Claim) -> list[tuple[str, str]]:
        condition = "If-Match" if self._resolved.condition == "if-match" else "If-Range"
        return part_headers(claim.pos, claim.end, self._info.validator, condition)

    def _accept(self, response: Response, claim: Claim | None) -> Body | None:
        """`claim`: the range that was asked for, None for a plain GET."""
        if response.status == 304:
            first_answer.check_condition(self._request)
            return None
        ends: int | None
        total: int | None
        if claim is not None and is_part(response.status, response.headers):
            ends, total = self._accept_part(response, claim)
        elif response.status == 200:
            claim = self._accept_whole(response, claim)
            ends = total = self._info.total
        else:
            raise StartOver(f"it answered {response.status} to a {'plain GET' if claim is None else 'range'}")
        self._longest = first_answer.check(total, self._info, self._target, self._request, self.partial)
        self.partial.expect(self._request.size if total is None else total)
        if total is not None:
            self.ledger.set_total(total, claim)
        claim.moved = time.monotonic()
        return Body(claim, response, ends)

    def _accept_part(self, response: Response, claim: Claim) -> tuple[int, int]:
        ends, total = check_part(response.headers, self._info, claim.pos, claim.end)
        if total is None:
            raise StartOver("it sent a part without saying of how much")
        self._several = True
        return ends, total

    def _accept_whole(self, response: Response, claim: Claim | None) -> Claim:
        if claim is not None:
            self.restart()  # it serves no ranges, or another version now: this answer is the new beginning
        self._info = read_info(response.headers)
        whole = self.ledger.claim_rest()
        assert whole is not None
        return whole

    def fetch_part(self, claim: Claim, cancel: Cancel) -> None:
        """Fetch what is left of the claim, or the part of it that the server gives. Raises StartOver, Failure, Busy."""
        with self._endpoint.ask(self._part_headers(claim), cancel, patient=False) as response:
            if not is_part(response.status, response.headers):
                raise StartOver(f"it answered {response.status} to a range")
            ends, _ = check_part(response.headers, self._info, claim.pos, claim.end)
            self._several = True
            self.receive_all(Body(claim, response, ends), cancel)

    def ask_anew(self) -> None:
        """Begin at the URL itself again: what a redirect led to may be what is broken."""
        self._endpoint.forget()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive_all(self, body: Body, cancel: Cancel) -> None:
        for _ in self.receive(body, cancel):
            pass

    def receive(self, body: Body, cancel: Cancel) -> Iterator[None]:
        """Write the body where its claim says, and yield after each chunk, so that the caller can look or stop.

        It ends with the body, or with the claim once other connections have the rest.
        """
        claim = body.claim
        claim.reach = body.ends
        for chunk in body.response.body:
            cancel.check()
            self.partial.renew()
            with self.changed:
                data = memoryview(chunk)[: claim.left]
                claim.writing = True
            if claim.pos + len(data) > self._longest:
                raise first_answer.too_long(self._request, self.partial)
            self.partial.write(data, claim.pos)
            with self.changed:
                self._count(body, len(data))
                met = claim.left == 0
            yield
            if len(data) < len(chunk) or (met and body.ends != claim.end):
                return
        with self.changed:
            self.ledger.finish(claim)

    def _count(self, body: Body, count: int) -> None:
        self.ledger.advance(body.claim, count)
        body.claim.moved = time.monotonic()
        body.claim.writing = False
        waited = body.response.waited()
        self.waited += waited - body.waited
        body.waited = waited

    # --- hashing ------------------------------------------------------------------------------------------------------

    def hash_more(self) -> bool:
        """Hash a block more of the contiguous bytes; False if there was nothing to do."""
        with self.changed:
            contiguous = self.ledger.contiguous
        return self._hasher.follow(contiguous)

    def head(self) -> bytes:
        """The first bytes, which tell what came."""
        return os.pread(self.partial.fd, instead.LOOKED_AT, 0)

    def finish(self, cancel: Cancel) -> Downloaded:
        """Hash the rest, and say what came. Raises Failure, StartOver, Vanished, Cancelled."""
        total = self._whole_size()
        while self._hasher.follow(total):
            cancel.check()
        if os.fstat(self.partial.fd).st_size != total:
            raise StartOver("another process wrote to the partial")
        return Downloaded(
            digest=self._hasher.digest(),
            size=total,
            url=self._target.url,
            etag=self._info.etag,
            last_modified=self._info.last_modified,
            remember=self._info.framed or self._request.known,
            content_encoding=self._info.encoding,
            version=self._version,
            pinned=self._resolved.pinned or self._endpoint.pinned,
        )

    def _whole_size(self) -> int:
        total, expected = self.ledger.total, self._request.size
        assert total is not None
        if expected is not None and total != expected:
            self.ledger.total = None
            raise Failure(f"it ended after {total:,} of {expected:,} bytes", lasting=total > expected)
        return total
