"""What a download is asked for, on behalf of one request on one store: the URLs in their order, and what is known.

Not the download (`download.download`).
"""

from __future__ import annotations

from dataclasses import replace

from ..artifact.request import Request
from ..cancel import Cancel
from ..download.download import Condition, DownloadRequest, Target
from ..download.turn import Turn
from ..store.blobs import Store
from ..store.refs import Ref
from . import finding, hub_caches
from .remembered import Remembered

__all__ = ["question"]


def question(store: Store, request: Request, stale: Ref | None, cancel: Cancel, turn: Turn | None) -> DownloadRequest:
    """`stale`: what the URL is asked about first."""

    def is_here(digest: str) -> bool:
        if request.rehash:
            return False
        here = finding.find_blob(store, request, digest)
        return (here or hub_caches.bring(store, request, digest, cancel)) is not None

    return DownloadRequest(
        urls=_urls(store, request, stale),
        name=request.name,
        settings=request.settings,
        digest=request.artifact.sha256,
        size=request.artifact.size,
        condition=None if stale is None else Condition(stale.etag, stale.last_modified, stale.version),
        turn=turn,
        remembered=Remembered(store, request).known() if stale is None else None,
        is_here=is_here,
    )


def _urls(store: Store, request: Request, stale: Ref | None) -> list[Target]:
    """Where to ask. A URL whose blob was lost is asked for the version that it gave, while there is one."""
    targets = [Target(url, headers) for url, headers in request.sources()]
    pinned = Remembered(store, request).pinned() if stale is None else None
    return targets if pinned is None else [replace(targets[0], url=pinned), *targets]
