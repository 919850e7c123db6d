"""What a URL gave the last time, as far as one request may rely on it: the policy of refs.

Not their form on disk (`store.refs`). Invariants: a ref is a hint and no pin; a mirror's validators say nothing about
the URL; what cannot be remembered fails no fetch.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace

from ..artifact import schemes, urls
from ..artifact.request import Request
from ..download.download import Downloaded
from ..store import refs
from ..store.blobs import Store
from ..store.refs import Ref

__all__ = ["Remembered"]

logger = logging.getLogger("nanocache")

CLOCKS_DIFFER = 5.0  # seconds by which another host's clock may be ahead and what it just fetched is fresh all the same


@dataclass(frozen=True, slots=True)
class Remembered:
    """The memory of one request's URL."""

    store: Store
    request: Request

    @property
    def is_file(self) -> bool:
        return urls.is_file(self.request.artifact.url)

    def known(self) -> str | None:
        """The digest that the request means, as far as this machine knows: the caller's, or a fresh ref's."""
        if self.request.artifact.sha256 is not None:
            return self.request.artifact.sha256
        ref = refs.read(self.store, self.request.url_key)
        return ref.digest if ref is not None and self._fresh(ref) else None

    def _fresh(self, ref: Ref) -> bool:
        if self.is_file:  # asking costs one stat
            return ref.source == self.file_stamp()
        if self.request.max_age is None:
            return True
        age = time.time() - ref.fetched_at
        if age < -CLOCKS_DIFFER:  # a clock was wrong, and this would be fresh until that time comes
            return False
        return age < self.request.max_age or ref.fetched_at >= self.request.began

    def file_stamp(self) -> list[int] | None:
        """Size and mtime of a `file:` URL's file; None for other URLs, and if it can't be seen."""
        if not self.is_file:
            return None
        try:
            st = os.stat(urls.file_path(self.request.artifact.url))
        except OSError:
            return None
        return [st.st_size, st.st_mtime_ns]

    def stale(self) -> Ref | None:
        """What to ask the server about: a ref that is not fresh any more. A `file:` URL's tells by itself."""
        if self.request.artifact.sha256 is not None or self.is_file:
            return None
        return refs.read(self.store, self.request.url_key)

    def pinned(self) -> str | None:
        """The URL of the version that this URL gave, where its source has such. Of its own scheme and host only."""
        artifact = self.request.artifact
        if artifact.sha256 is not None or schemes.is_address(artifact.url):
            return None
        ref = refs.read(self.store, self.request.url_key)
        if ref is None or ref.pinned is None:
            return None
        try:
            own = urls.origin(urls.check(ref.pinned)) == urls.origin(self.request.artifact.url)
        except ValueError:
            return None
        return ref.pinned if own else None

    def renew(self, ref: Ref) -> None:
        """The server said that `ref` is still right."""
        refs.remember(self.store, self.request.url_key, replace(ref, fetched_at=time.time()))

    def keep(self, downloaded: Downloaded, stamp: list[int] | None) -> None:
        """Remember a download. `stamp`: of a `file:` URL's file, from before it was read."""
        if not downloaded.remember:
            logger.warning(
                "%s ended without saying how long it is: returned, but not remembered; give its sha256",
                self.request.shown_url,
            )
            return
        # A mirror's validators say nothing about the URL.
        own = downloaded.url in (self.request.artifact.url, downloaded.pinned)
        ref = Ref(
            url=self.request.shown_url,
            digest=downloaded.digest,
            size=downloaded.size,
            etag=downloaded.etag if own else None,
            last_modified=downloaded.last_modified if own else None,
            fetched_at=time.time(),
            source=stamp,
            version=downloaded.version if own else None,
            pinned=downloaded.pinned if own else None,
        )
        refs.remember(self.store, self.request.url_key, ref)
