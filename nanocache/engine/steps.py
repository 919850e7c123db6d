"""One fetch, as the list of its steps: hit, single flight, lock, hit again, transfer, publish, remember, postprocess.

The steps themselves live elsewhere. Synchronous, and everything it opens lives and dies inside one call on one thread.
Invariants: a hit comes before the network and before any lock; the lock of an artifact and the lock of its product are
never held together; what is returned is visible, complete and synced.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..artifact import urls
from ..artifact.request import Request
from ..cancel import Cancel
from ..coordination.flights import share
from ..coordination.holder import HolderWriter
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import faults
from ..download import download
from ..download.download import Downloaded, DownloadRequest, NotModified, Source
from ..download.retry import retried
from ..errors import DownloadFailed, NotCached, UnsafeCache
from ..progress import Display
from ..store import healing, orphans, refs, sweep
from ..store.blobs import Store
from ..store.layout import lock_key
from ..store.partials import Abandoned
from ..store.refs import Ref
from . import products

__all__ = ["Found", "fetch", "find", "known", "lookup"]

logger = logging.getLogger("nanocache")


def known(store: Store, request: Request) -> str | None:
    """The digest that the request means, as far as this machine knows: the caller's, or a fresh ref's."""
    if request.artifact.sha256 is not None:
        return request.artifact.sha256
    ref = refs.read(store, request.url_key)
    return ref.digest if ref is not None and _fresh(ref, request) else None


def _key(request: Request) -> str:
    return lock_key(request.artifact.sha256, request.url_key)


def _fresh(ref: Ref, request: Request) -> bool:
    if urls.is_file(request.artifact.url):  # asking costs one stat
        return ref.source == _file_stamp(request.artifact.url)
    if request.max_age is None or ref.fetched_at >= request.began:
        return True
    return 0 <= time.time() - ref.fetched_at < request.max_age


def _file_stamp(url: str) -> list[int] | None:
    if not urls.is_file(url):
        return None
    try:
        st = os.stat(urls.file_path(url))
    except OSError:
        return None
    return [st.st_size, st.st_mtime_ns]


class Found(NamedTuple):
    """What a fetch ends with: the path of the artifact or its product, and the artifact's digest."""

    path: Path
    digest: str


def find(store: Store, request: Request) -> Found | None:
    """What is here already: no network, no lock, nothing hashed. Raises UnsafeCache."""
    digest = known(store, request)
    if digest is None:
        return None
    if request.hook is not None:
        path = products.find(store, digest, request.hook, request.name)
    else:
        path = store.hit(digest, request.name)
    return None if path is None else Found(path, digest)


def lookup(store: Store, request: Request) -> Path | None:
    """`find`, and a blob with a broken seal is read and compared. Never downloads, never waits."""
    if (found := find(store, request)) is not None:
        return found.path
    digest = known(store, request)
    return None if digest is None or request.hook is not None else healing.verify(store, digest, request.name)


def fetch(store: Store, request: Request, cancel: Cancel) -> Found:
    """The path of the artifact or its product, verified, however it has to be had.

    Raises the errors of `errors`, Cancelled, and OSError where the disk itself fails.
    """
    with faults.named(store.base):
        if not request.rehash and (found := find(store, request)) is not None:
            return found
    return faults.persistently(store.base, lambda: _fetch(store, request, cancel))


def _fetch(store: Store, request: Request, cancel: Cancel) -> Found | None:
    digest = _bring(store, request, cancel)
    if request.hook is None:
        path = store.hit(digest, request.name)
    elif store.prepare():
        path = products.build(store, request, request.hook, digest, cancel)
    else:
        raise _not_cached(store, request, f"{request.hook.label} can build nothing in a base it may not write")
    return None if path is None else Found(path, digest)


def _bring(store: Store, request: Request, cancel: Cancel) -> str:
    """The digest of the request's blob, which was intact on disk a moment ago."""
    if not store.prepare():
        return _read_only(store, request)
    key = ("blob", store.base, _key(request), request.rehash, request.max_age, request.settings.offline)
    digest = share(key, request.identity, lambda own: _locked(store, request, own), cancel)
    sweep.daily(store)
    return digest


def _read_only(store: Store, request: Request) -> str:
    digest = known(store, request)
    if digest is not None and healing.verify(store, digest, request.name) is not None:
        return digest
    raise _not_cached(store, request, f"{store.base} is not writable for this user")


def _not_cached(store: Store, request: Request, reason: str) -> NotCached:
    return NotCached(url=request.shown_url, base_dir=store.base, sha256=request.artifact.sha256, reason=reason)


def _locked(store: Store, request: Request, cancel: Cancel) -> str:
    display = Display(request.progress, request.name)

    def reached() -> bool:
        digest = None if request.rehash else known(store, request)
        return digest is not None and store.intact(digest, store.blob(digest, request.name))

    wait = WaitOptions(reached, request.identity, cancel, request.settings.lock_timeout, display.waiting)
    try:
        while True:
            with hold_lock(store.lock_place(_key(request)), wait) as holding:
                if holding is not None:
                    return _held(store, request, cancel, holding, display)
            if (digest := known(store, request)) is not None:
                return digest
    finally:
        display.close()


def _held(store: Store, request: Request, cancel: Cancel, holding: HolderWriter, display: Display) -> str:
    """The rest, under the lock, or without one where none is to be had."""
    digest = known(store, request)
    if digest is not None:
        there = healing.heal(store, digest, everything=request.rehash, cancel=cancel)
        if there and store.hit(digest, request.name) is not None:
            return digest

    def report(done: int, total: int | None) -> None:
        holding.report(done, total)
        display.report(done, total)

    stale = _stale(store, request, cancel)
    if stale is None:
        return _transfer(store, request, cancel, None, report)
    try:
        return _transfer(store, request, cancel, stale, report)
    except (DownloadFailed, NotCached) as e:
        if isinstance(e, DownloadFailed) and e.status is not None and not retried(e.status):
            raise  # the server answered, and what it says of the URL now is news
        logger.warning("cannot ask whether %s changed (%s); using what is cached", request.shown_url, e)
        return stale.digest


def _stale(store: Store, request: Request, cancel: Cancel) -> Ref | None:
    """The ref to revalidate: not fresh, and its blob intact."""
    if request.artifact.sha256 is not None or urls.is_file(request.artifact.url):
        return None
    ref = refs.read(store, request.url_key)
    if ref is None or not healing.heal(store, ref.digest, everything=request.rehash, cancel=cancel):
        return None
    return ref if store.hit(ref.digest, request.name) is not None else None


def _transfer(
    store: Store, request: Request, cancel: Cancel, stale: Ref | None, report: Callable[[int, int | None], None]
) -> str:
    """Download, publish, remember. `stale` is asked about first, and kept if the server still has it."""
    if request.settings.offline:
        raise _not_cached(store, request, "offline")
    artifact = request.artifact
    wanted = DownloadRequest(
        sources=[Source(url, headers) for url, headers in request.sources()],
        name=request.name,
        settings=request.settings,
        digest=artifact.sha256,
        size=artifact.size,
        condition=None if stale is None else (stale.etag, stale.last_modified),
    )
    while True:
        source = _file_stamp(artifact.url)
        with orphans.claim(store, _key(request), judged=artifact.sha256 is not None) as partial:
            try:
                received = download.download(wanted, partial, cancel, report)
            except Abandoned:
                continue
            if isinstance(received, NotModified):
                if stale is not None:
                    _write_ref(store, request, replace(stale, fetched_at=time.time()))
                    return stale.digest
                continue
            if store.hit(received.digest, request.name) is None:
                store.publish(partial, received.digest, request.name)
            partial.state = None  # the same bytes were here already: not worth keeping twice
        _remember(store, request, received, source)
        return received.digest


def _remember(store: Store, request: Request, received: Downloaded, source: list[int] | None) -> None:
    if not received.remember:
        logger.warning(
            "%s ended without saying how long it is: returned, but not remembered; give its sha256", request.shown_url
        )
        return
    own = received.url == request.artifact.url  # a mirror's validators say nothing about the URL
    ref = Ref(
        url=request.shown_url,
        digest=received.digest,
        size=received.size,
        etag=received.etag if own else None,
        last_modified=received.last_modified if own else None,
        fetched_at=time.time(),
        source=source,
    )
    _write_ref(store, request, ref)


def _write_ref(store: Store, request: Request, ref: Ref) -> None:
    try:
        refs.write(store, request.url_key, ref)
    except UnsafeCache:
        raise
    except OSError as e:  # a full disk, say: what was asked for is there all the same
        logger.warning("cannot remember what %s gave (%s): the next call asks again", request.shown_url, e)
