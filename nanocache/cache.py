"""Cache: one base directory and the calls on it.

Nothing is decided here but which base directory is meant and whether it was answered before; the steps of a fetch are
in `engine`. Invariant: `fetch` and `afetch` are one implementation with one signature.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path

from . import config
from .artifact import hooks, urls
from .artifact.artifact import Artifact
from .artifact.hooks import Postprocess
from .artifact.request import Request
from .cancel import Cancel, ambient
from .disk import files
from .engine.steps import Fetch
from .progress import ProgressOption
from .store.blobs import Store

__all__ = ["Cache", "PathLike"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | None
PathLike = str | os.PathLike[str]


class Cache:
    """A cache in one base directory; without one, in the environment's, read at each call.

    Cheap to make and to keep; safe to share between threads, tasks and forked children.
    """

    def __init__(self, base_dir: PathLike | None = None) -> None:
        self._base = None if base_dir is None else config.expand(os.fspath(base_dir))
        self._fixed = None if self._base is None else _opened(self._base)

    def __repr__(self) -> str:
        return f"Cache({self._base!r})" if self._base is not None else "Cache()"

    @property
    def base_dir(self) -> Path:
        """The base directory in use now; nothing is created."""
        return Path(self.store.base)

    @property
    def store(self) -> Store:
        return self._fixed or _environment()

    def fetch(
        self,
        url: object,
        *,
        sha256: str | None = None,
        filename: str | None = None,
        mirrors: Iterable[object] = (),
        headers: Headers = None,
        postprocess: Postprocess | None = None,
        rehash: bool = False,
        max_age: float | None = None,
        offline: bool | None = None,
        progress: ProgressOption = None,
    ) -> Path:
        """The path of the artifact at `url`, complete and verified; downloaded once, however many ask at this moment.

        A hit with `sha256` is one stat: no network, no lock, no read. Without it the first download is remembered and
        trusted (`max_age` seconds, then the server is asked again; None: for ever). The path is a function of base
        directory, digest and filename, and ends in a name with the right extension. It is read-only; do not write to
        it. It stays valid until somebody deletes it.

        `url`: http, https or file; or an Artifact, without its own keywords. `mirrors`: tried in order.
        `headers`: sent to the URL's own origin only. `postprocess(src, dst)` builds a file or folder at `dst`, and its
        path is returned. `rehash`: read the bytes even if nothing seems to have touched them. `offline`: True raises
        NotCached instead of using the network. `progress`: True, False, a callable that is given a Progress, or None
        for a bar on a terminal.

        Raises ValueError (bad arguments, before any I/O), ChecksumMismatch, DownloadFailed, NotCached, LockTimeout,
        NoSpace, UnsafeArchive, UnsafeCache, PostprocessFailed, and OSError where the disk itself fails.
        """
        store = self.store
        asked = _asked(url, sha256, filename, mirrors, headers, postprocess)
        if asked is not None and not rehash and max_age is None and (path := store.hits.recall(asked)) is not None:
            return path
        artifact = _artifact(url, sha256, filename, mirrors, headers, postprocess)
        request = Request.of(artifact, rehash=rehash, max_age=max_age, offline=offline, progress=progress)
        return _fetch(store, request, asked, ambient())

    async def afetch(
        self,
        url: object,
        *,
        sha256: str | None = None,
        filename: str | None = None,
        mirrors: Iterable[object] = (),
        headers: Headers = None,
        postprocess: Postprocess | None = None,
        rehash: bool = False,
        max_age: float | None = None,
        offline: bool | None = None,
        progress: ProgressOption = None,
    ) -> Path:
        """`fetch` for asyncio: the same arguments, result and errors, without ever holding the event loop.

        A hit is answered inline; everything else is one hop to a thread, and tasks that want the same share one.
        Cancelling it stops the work within a second, unless others still wait for it.
        """
        store = self.store
        asked = _asked(url, sha256, filename, mirrors, headers, postprocess)
        if asked is not None and not rehash and max_age is None and (path := store.hits.recall(asked)) is not None:
            return path
        from .coordination import tasks  # asyncio is half of what using nanocache would load

        artifact = _artifact(url, sha256, filename, mirrors, headers, postprocess)

        def work(cancel: Cancel) -> Path:
            request = Request.of(artifact, rehash=rehash, max_age=max_age, offline=offline, progress=progress)
            return _fetch(store, request, asked, cancel)

        return await tasks.share_async(("afetch", store.base, artifact, rehash, max_age, offline), work)

    def fetch_many(
        self,
        artifacts: Iterable[object],
        *,
        workers: int | None = None,
        return_exceptions: bool = False,
        progress: ProgressOption = None,
        offline: bool | None = None,
    ) -> list[Path]:
        """The paths of all `artifacts` (URLs or Artifacts), in their order, fetched by up to `workers` threads.

        The first error stops the rest and is raised; with `return_exceptions` errors come back in place. One bar for
        the set. `workers` defaults to the connections that one host may get. Raises what `fetch` raises.
        """
        from .engine import many  # here, with concurrent.futures: most callers fetch one at a time

        wanted = [item if isinstance(item, Artifact) else Artifact(item) for item in artifacts]
        fetch = partial(self._fetch_one, self.store, offline)
        return many.fetch(wanted, fetch, workers=workers, return_exceptions=return_exceptions, progress=progress)

    def _fetch_one(
        self, store: Store, offline: bool | None, artifact: Artifact, cancel: Cancel, progress: ProgressOption
    ) -> Path:
        asked = _asked(artifact, None, None, (), None, None)
        if asked is not None and (path := store.hits.recall(asked)) is not None:
            return path
        return _fetch(store, Request.of(artifact, offline=offline, progress=progress), asked, cancel)

    def lookup(
        self,
        url: object,
        *,
        sha256: str | None = None,
        filename: str | None = None,
        postprocess: Postprocess | None = None,
    ) -> Path | None:
        """The path if the artifact is here and right, else None. Never touches the network, downloads or waits.

        A blob whose seal is broken is read and compared. Raises ValueError, UnsafeCache.
        """
        store = self.store
        asked = _asked(url, sha256, filename, (), None, postprocess)
        if asked is not None and (path := store.hits.recall(asked)) is not None:
            return path
        artifact = _artifact(url, sha256, filename, (), None, postprocess)
        return Fetch(store, Request.of(artifact, offline=True, progress=False)).lookup()


def _fetch(store: Store, request: Request, asked: Hashable | None, cancel: Cancel) -> Path:
    path = store.ref(request.url_key)
    ref = None if request.artifact.sha256 is not None else (path, files.stamp(path))
    found = Fetch(store, request, cancel).run()
    store.recency.mark(found.digest)
    # A file URL is asked for its size and mtime on every call, and `max_age` for the time.
    if asked is not None and request.max_age is None and not urls.is_file(request.artifact.url):
        store.hits.remember(asked, found.path, found.digest, product=request.hook is not None, ref=ref)
    return found.path


_bases: dict[str, Store] = {}
_spelled: dict[tuple[str | None, ...], Store] = {}


def _opened(base: str) -> Store:
    return _bases.get(base) or _bases.setdefault(base, Store(base))


def _environment() -> Store:
    """The environment's base directory: by its spelling where that alone says it, else worked out anew."""
    get = os.environ.get
    spelled = get("NANOCACHE_DIR") or get("NANOCHAT_BASE_DIR")
    key = (spelled,) if spelled else (None, get("XDG_CACHE_HOME"), get("HOME"))
    store = _spelled.get(key)
    if store is None:
        if os.name == "nt":
            raise OSError("nanocache does not run on Windows yet; it runs on Linux (WSL too) and macOS")
        store = _opened(config.base_dir())
        if spelled is None or (spelled.startswith("/") and "$" not in spelled):
            _spelled[key] = store
    return store


def _asked(
    url: object,
    sha256: str | None,
    filename: str | None,
    mirrors: Iterable[object],
    headers: Headers,
    postprocess: Postprocess | None,
) -> Hashable | None:
    """What a hit is remembered by; None where that would not say all (an Accept header is part of a URL's key).

    Of a hook its identity, not the object: an attribute that makes it another one can be set at any time.
    """
    if isinstance(url, Artifact):
        if (sha256, filename, mirrors, headers, postprocess) != (None, None, (), None, None):
            return None
        return url if url.postprocess is None else (url, hooks.identify(url.postprocess).id)
    if type(url) is not str or (headers is not None and sha256 is None):
        return None
    return url, sha256, filename, None if postprocess is None else hooks.identify(postprocess).id


def _artifact(
    url: object,
    sha256: str | None,
    filename: str | None,
    mirrors: Iterable[object],
    headers: Headers,
    postprocess: Postprocess | None,
) -> Artifact:
    if type(url) is str and headers is None and mirrors == () and isinstance(postprocess, Hashable):
        return _plain_artifact(url, sha256, filename, postprocess)
    return Artifact.of(url, sha256=sha256, filename=filename, mirrors=mirrors, headers=headers, postprocess=postprocess)


@lru_cache(maxsize=1024)
def _plain_artifact(url: str, sha256: str | None, filename: str | None, postprocess: Postprocess | None) -> Artifact:
    # A thousand tasks that ask for one artifact in one turn of the loop would hold it for 10 ms with this alone.
    return Artifact(url, sha256=sha256, filename=filename, postprocess=postprocess)
