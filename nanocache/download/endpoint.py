"""One URL, asked where its last answer came from: it is resolved and redirected once, not for each range.

Invariant: an address that gave bytes, was not the caller's own, and is refused now is taken to have expired: it is
had anew from where it came, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from ..artifact import urls
from ..cancel import Cancel
from ..config import Settings
from ..http import redirects
from ..http.exchange import Response
from ..http.failure import Failure, StartOver
from ..http.redirects import Address, Target
from ..sources import file, reading
from ..sources.protocol import Resolved
from ..sources.resolver import Resolver

__all__ = ["Endpoint"]

Asked = Sequence[tuple[str, str]]

EXPIRED = (401, 403, 404, 410)  # what a signed address answers when its time is over
EXPIRED_SIGNATURE = (400, *EXPIRED)  # 400: Cloudflare R2 until 2026, and rclone
CHANGED = 412  # what an If-Match is answered once the version has gone
MOST_ADDRESSES = 4  # asked for one answer: the one that expired, a new one, and that of the right region


class Endpoint:
    """Shared by all connections of a transfer."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self.url = target.url
        self._settings = settings
        self._resolver = Resolver(target.url, target.headers)
        self._answered: tuple[Resolved, Address] | None = None  # what gave the last answer
        self._expired: set[str] = set()
        self.pinned: str | None = None  # the URL of the version that was answered, where the server says so

    def resolved(self, cancel: Cancel) -> Resolved:
        """Where the artifact is now. Raises Failure."""
        return self._resolver.current(cancel)

    @contextmanager
    def ask(self, headers: Asked, cancel: Cancel, *, patient: bool = True) -> Iterator[Response]:
        """The answer to a request with `headers`, while the block runs. Raises Failure; Busy unless `patient`."""
        with ExitStack() as stack:
            yield self._answer(stack, headers, cancel, patient)

    def _answer(self, stack: ExitStack, headers: Asked, cancel: Cancel, patient: bool) -> Response:
        """The answer, open as long as `stack` is."""
        resolved = self.resolved(cancel)
        for _ in range(MOST_ADDRESSES - 1):
            try:
                return stack.enter_context(self._get(resolved, headers, cancel, patient))
            except Failure as e:
                if e.status == CHANGED and resolved.condition == "if-match":
                    raise StartOver("it changed meanwhile") from None
                resolved = self._another(resolved, e, cancel)
        return stack.enter_context(self._get(resolved, headers, cancel, patient))

    def _get(
        self, resolved: Resolved, headers: Asked, cancel: Cancel, patient: bool
    ) -> AbstractContextManager[Response]:
        if self._resolver.reader is not None:
            return reading.read(self._resolver.reader, resolved, headers, cancel)
        if urls.is_file(resolved.url):
            return file.read(resolved.url)
        return self._ask_server(resolved, headers, cancel, patient)

    @contextmanager
    def _ask_server(self, resolved: Resolved, headers: Asked, cancel: Cancel, patient: bool) -> Iterator[Response]:
        target = Target(resolved.url, resolved.headers)
        with redirects.get(
            target, headers, at=self._address(resolved), settings=self._settings, cancel=cancel, patient=patient
        ) as answer:
            if answer.response.status in (200, 206):
                self._answered = (resolved, answer.address)
                self.pinned = self._resolver.pin(answer.response.headers)
            if resolved.as_stored:
                answer.response.headers.pop("content-encoding", None)
            yield answer.response

    def _address(self, resolved: Resolved) -> Address | None:
        """Where the redirects from `resolved` led the last time."""
        answered = self._answered
        return answered[1] if answered is not None and answered[0] is resolved else None

    def _another(self, resolved: Resolved, refusal: Failure, cancel: Cancel) -> Resolved:
        """What to ask instead of an address that has expired, or was refused. Raises Failure where there is nothing."""
        address = self._address(resolved)
        if address is None:
            return self._resolver.instead(resolved, refusal, cancel)
        if address.hops and refusal.status in EXPIRED and address.url not in self._expired:
            self._expired.add(address.url)
            self._answered = None
            return resolved
        if not self._resolver.is_literal and refusal.status in EXPIRED_SIGNATURE:
            return self._resolver.renew(resolved, cancel)
        raise refusal

    def distrust(self) -> bool:
        """Whether the URL's source knows another place than the one that just failed."""
        return self._resolver.distrust()

    def forget(self) -> None:
        """Ask the URL itself the next time."""
        self._answered = None
        self._resolver.forget()
