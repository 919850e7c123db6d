"""One source, asked where its last answer came from: a redirect is followed once, not for each range.

Invariant: an address that a redirect led to and that is refused is resolved again from the source's own URL, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ..artifact import urls
from ..cancel import Cancel
from ..config import Settings
from ..http import redirects
from ..http.exchange import Response
from ..http.failure import Failure
from ..http.redirects import Address
from ..sources import file
from .request import Source

__all__ = ["Endpoint"]

EXPIRED = (401, 403, 404, 410)  # what a signed address answers when its time is over


class Endpoint:
    """Shared by all connections of a transfer."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self._source = source
        self._settings = settings
        self._address: Address | None = None  # where the last answer came from
        self._expired: set[str] = set()

    @contextmanager
    def ask(self, headers: Sequence[tuple[str, str]], cancel: Cancel, *, patient: bool = True) -> Iterator[Response]:
        """The answer to a request with `headers`, while the block runs. Raises Failure; Busy unless `patient`."""
        with ExitStack() as stack:
            try:
                response = stack.enter_context(self._get(headers, self._address, cancel, patient))
            except Failure as e:
                if not self._has_expired(e):
                    raise
                response = stack.enter_context(self._get(headers, None, cancel, patient))
            yield response

    @contextmanager
    def _get(
        self, headers: Sequence[tuple[str, str]], address: Address | None, cancel: Cancel, patient: bool
    ) -> Iterator[Response]:
        if urls.is_file(self._source.url):
            with file.read(self._source.url) as response:
                yield response
            return
        with redirects.get(
            self._source, headers, at=address, settings=self._settings, cancel=cancel, patient=patient
        ) as answer:
            if answer.response.status in (200, 206):
                self._address = answer.address
            yield answer.response

    def _has_expired(self, refusal: Failure) -> bool:
        address = self._address
        if address is None or not address.hops or refusal.status not in EXPIRED or address.url in self._expired:
            return False
        self._expired.add(address.url)
        return True

    def forget(self) -> None:
        """Ask the source's own URL the next time."""
        self._address = None
