"""One call's answer: found or fetched, marked as used, and remembered for the next call.

Not the steps of a fetch (`engine.steps`). Invariant: what is returned was there when it was marked as used, so that no
eviction takes it within its grace.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from pathlib import Path

from ..artifact import urls
from ..artifact.request import Request
from ..cancel import Cancel
from ..disk import faults, files
from ..download.turn import Turn
from ..engine.finding import Found
from ..engine.steps import Fetch
from ..events import Listener, telling
from ..store.blobs import Store
from ..store.hits import RefStamp

__all__ = ["fetched", "found_here"]


def fetched(
    store: Store,
    request: Request,
    asked: Hashable | None,
    cancel: Cancel,
    turn: Turn | None = None,
    *,
    listener: Listener | None = None,
    put_off: list[Found] | None = None,
) -> Path:
    """The path, however it has to be had. `put_off`: gets what is then to be sent to the remote."""
    fetch = Fetch(store, request, cancel, turn)
    if put_off is not None:
        fetch = Fetch(store, request, cancel, turn, put_off, fills=False)
    return telling(store.counts, listener, partial(_fetched, store, request, asked, fetch))


def _fetched(store: Store, request: Request, asked: Hashable | None, fetch: Fetch) -> Path:
    ref = _ref_stamp(store, request)
    path = _answer(store, request, asked, ref, fetch.run())
    if path is None:  # evicted after it was found and before it was marked
        found = fetch.run()
        path = _answer(store, request, asked, ref, found) or found.path
    return path


def found_here(
    store: Store, request: Request, asked: Hashable | None, *, listener: Listener | None = None
) -> Path | None:
    """The answer if it is a hit, though this process may not have answered it before: a stat, and a ref to read."""
    ref = _ref_stamp(store, request)
    with faults.named(store.base):
        found = telling(store.counts, listener, Fetch(store, request).find)
    return None if found is None else _answer(store, request, asked, ref, found)


def _ref_stamp(store: Store, request: Request) -> RefStamp | None:
    """Of the ref that the answer may rest on."""
    if request.artifact.sha256 is not None:
        return None
    path = store.ref(request.url_key)
    return path, files.stamp(path)


def _answer(store: Store, request: Request, asked: Hashable | None, ref: RefStamp | None, found: Found) -> Path | None:
    """The path that was found, remembered for the next call; None if it is gone. `ref`: its stamp from before."""
    product = request.hook is not None
    marked = store.product_folder(found.digest) if product else store.blob_folder(found.digest)
    own = store.holds(found.path)  # else it is in a read-only cache, where nothing is marked
    if own and not store.recency.mark(marked):
        return None
    # A file URL is asked for its size and mtime on every call, and `max_age` for the time.
    if asked is not None and request.max_age is None and not urls.is_file(request.artifact.url):
        store.hits.remember(asked, found.path, found.digest, marked if own else None, product=product, ref=ref)
    return found.path
