"""The address of one URL's artifact, as its source gives it now: asked for once, shared by all connections.

Invariants: an address is replaced before it expires, and once where sixteen connections find it refused; what it is
replaced by is of the same version, or the transfer fails and says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial

from ..artifact.headers import Pairs, refusal
from ..cancel import Cancel, within
from ..http.failure import Failure
from . import registry
from .failing import as_failures
from .protocol import Chooser, Explainer, HeaderSource, Pinner, Reader, Resolved

__all__ = ["Resolver"]

EARLY = 30.0  # seconds before its end that an address is replaced, or a quarter of its life


class Resolver:
    """Shared by all connections of a transfer."""

    def __init__(self, url: str, headers: Pairs) -> None:
        self._url = url
        self._headers = headers
        self._source = registry.find(url)
        self.reader = self._reader()
        self._lock = threading.Lock()
        self._now: Resolved | None = None
        self._until = 0.0  # monotonic seconds

    def _reader(self) -> Reader | None:
        """The source, if it gives the bytes itself."""
        # A protocol takes 15 us to say that None is not of it.
        return self._source if self._source is not None and isinstance(self._source, Reader) else None

    @property
    def is_literal(self) -> bool:
        """Whether the URL is the address itself."""
        return self._source is None

    def current(self, cancel: Cancel) -> Resolved:
        """The address to ask. Raises Failure, and what else the source raises."""
        with self._lock:
            if self._now is None or time.monotonic() > self._until:
                self._now = self._same(self._now, self._resolve(cancel))
                self._until = _end(self._now)
            return self._now

    def renew(self, refused: Resolved, cancel: Cancel) -> Resolved:
        """The address after `refused` was refused: a new one, unless another connection has had it made already."""
        with self._lock:
            if self._now is refused:
                self._until = 0.0
        return self.current(cancel)

    def instead(self, refused: Resolved, failure: Failure, cancel: Cancel) -> Resolved:
        """The address to ask instead of one that was refused from the first. Raises what the refusal means."""
        source: object = self._source
        if failure.status is None or not failure.lasting or not isinstance(source, Explainer):
            raise failure
        meant = within(cancel, partial(source.explain, self._url, refused, failure))
        if meant is not None:
            raise meant
        return self.renew(refused, cancel)

    def pin(self, headers: Mapping[str, str]) -> str | None:
        """The URL that means for ever what was answered with `headers`, where its server says so."""
        source: object = self._source
        return source.pin(self._url, headers) if source is not None and isinstance(source, Pinner) else None

    def distrust(self) -> bool:
        """Whether the source knows another place than the one that just failed."""
        source: object = self._source
        with self._lock:
            failed = self._now
        return failed is not None and isinstance(source, Chooser) and source.distrust(failed)

    def forget(self) -> None:
        """Ask for the address anew the next time, of whatever version it is."""
        with self._lock:
            self._now = None

    def _resolve(self, cancel: Cancel) -> Resolved:
        if self._source is None:
            return Resolved(self._url, tuple(pair for pair in self._headers if refusal(pair[0].lower()) is None))
        with as_failures():
            return within(cancel, partial(self._ask, self._source))

    def _ask(self, source: registry.AnySource) -> Resolved:
        # The version that was found first, so that a branch that moves meanwhile gives no other one.
        url = self._url if self._now is None else self._now.pinned or self._url
        if isinstance(source, HeaderSource):
            return source.resolve_with(url, self._headers)
        if self._headers:
            raise Failure("its source takes no headers", lasting=True, remedy="leave headers= off")
        if isinstance(source, Reader):
            described = source.describe(url)
            return Resolved(url, size=described.size, validator=described.version, pinned=described.pinned)
        return source.resolve(url)

    def _same(self, before: Resolved | None, now: Resolved) -> Resolved:
        if before is None:
            return now
        for fact in ("sha256", "git_sha1", "validator", "size"):
            if None not in (told := {getattr(before, fact), getattr(now, fact)}) and len(told) > 1:
                raise Failure("it changed while it was downloaded", lasting=True, remedy="fetch it again")
        return now


def _end(resolved: Resolved) -> float:
    """When to replace it, in monotonic seconds: this machine's clock may be set meanwhile."""
    if resolved.expires is None:
        return float("inf")
    life = max(0.0, resolved.expires - time.time())
    return time.monotonic() + life - min(EARLY, life / 4)
