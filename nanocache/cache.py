"""Cache: one base directory and the calls on it.

Nothing is decided here but which base directory is meant and whether it was answered before; the steps of a fetch are
in `engine`. Invariant: `fetch` and `afetch` are one implementation with one signature.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

from . import config
from .artifact import arguments
from .artifact.artifact import Artifact
from .artifact.headers import Headers
from .artifact.hooks import Postprocess
from .artifact.request import Request
from .callers import callers_errors
from .calls.answers import fetched, found_here
from .calls.asked import artifact_of, is_usual, key_of
from .calls.several import PathLike, Several
from .cancel import Cancel, ambient
from .config import Settings
from .coordination import flights
from .download.filling import fill_all
from .download.turn import Turn
from .engine.finding import Found
from .engine.steps import Fetch
from .events import Listener, Stats
from .lockfile.frozen import request_of
from .progress import ProgressOption
from .store.blobs import Store

__all__ = ["Cache", "PathLike"]


class Cache(Several):
    """A cache in one base directory; without one, in the environment's, read at each call.

    Cheap to make and to keep; safe to share between threads, tasks and forked children. `on_event` is called with each
    event of `nanocache.events`, by the thread that works for a call; what it raises comes out of that call.
    """

    def __init__(self, base_dir: PathLike | None = None, *, on_event: Listener | None = None) -> None:
        self._listener = on_event if on_event is None else arguments.callback("on_event", on_event)
        # One that is open already is spelled as it would be expanded: `base_dir=` on a hit must not cost as much again.
        self._fixed = _bases.get(base_dir) if type(base_dir) is str else None
        if self._fixed is None and base_dir is not None:
            self._fixed = _opened(config.expand(base_dir, "base_dir"))

    def stats(self) -> Stats:
        """What this process did in the base directory since it began, in whatever Cache: counters that only grow."""
        return self.store.counts.stats()

    def __repr__(self) -> str:
        return "Cache()" if self._fixed is None else f"Cache({self._fixed.base!r})"

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
        into: PathLike | None = None,
    ) -> Path:
        """The path of the artifact at `url`, complete and verified; downloaded once, however many ask at this moment.

        A hit with `sha256` is one stat: no network, no lock, no read. Without it the first download is remembered and
        trusted (`max_age` seconds, then the server is asked again; None: for ever). The path is a function of base
        directory, digest and filename, and ends in a name with the right extension. It is read-only; do not write to
        it. It stays valid until it is deleted.

        `url`: http, https or file; or an Artifact, without its own keywords. `mirrors`: tried in order.
        `headers`: sent to the URL's own origin only. `postprocess(src, dst)` builds a file or folder at `dst`, and its
        path is returned; a function is known by its source, plain defaults and `version`, not by the globals it reads.
        `rehash`: read the bytes even if nothing seems to have touched them. `offline`: True raises NotCached instead of
        using the network. `progress`: True, False, a callable that is given a Progress, or None for a bar on a
        terminal. `into`: a folder of yours, in which it appears as well, under its name; that path is returned. It
        shares the cached file's blocks, else is a read-only hard link to it, else a copy. Another file of that name is
        moved aside, unless it came from the cache.

        Raises ValueError (bad arguments, before any I/O), ChecksumMismatch, DownloadFailed, NotCached, NotLocked,
        LockTimeout, NoSpace, UnsafeArchive, UnsafeCache, PostprocessFailed, and OSError where the disk itself fails.
        """
        if into is not None:
            artifact = artifact_of(url, sha256, filename, mirrors, headers, postprocess)
            return self._fetch_into(into, artifact, rehash, max_age, offline, progress)
        store = self.store
        asked = key_of(url, sha256, filename, mirrors, headers, postprocess)
        usual = rehash is False and (max_age is offline is progress is None or is_usual(max_age, offline, progress))
        if asked is not None and usual and (path := store.hits.recall(asked)) is not None:
            store.counts.hits += 1
            return path if self._listener is None else self._told(store, asked, url, path)
        artifact = artifact_of(url, sha256, filename, mirrors, headers, postprocess)
        request = request_of(artifact, rehash=rehash, max_age=max_age, offline=offline, progress=progress)
        with callers_errors():
            return fetched(store, request, asked, ambient(), listener=self._listener)

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
        into: PathLike | None = None,
    ) -> Path:
        """`fetch` for asyncio: the same arguments, result and errors, without ever holding the event loop.

        A hit is answered inline; everything else is one hop to a thread, and tasks that want the same share one.
        Cancelling it stops the work within a second, unless others still wait for it.
        """
        if into is not None:
            artifact = artifact_of(url, sha256, filename, mirrors, headers, postprocess)
            return await self._afetch_into(into, artifact, rehash, max_age, offline, progress)
        store = self.store
        asked = key_of(url, sha256, filename, mirrors, headers, postprocess)
        usual = rehash is False and (max_age is offline is progress is None or is_usual(max_age, offline, progress))
        if asked is not None and usual and (path := store.hits.recall(asked)) is not None:
            store.counts.hits += 1
            return path if self._listener is None else self._told(store, asked, url, path)
        from .coordination import tasks  # asyncio is half of what using nanocache would load

        artifact = artifact_of(url, sha256, filename, mirrors, headers, postprocess)

        @cache
        def check() -> Request:
            return request_of(artifact, rehash=rehash, max_age=max_age, offline=offline, progress=progress)

        downloaded: list[Found] = []

        def job(cancel: Cancel) -> Path:
            return fetched(store, check(), asked, cancel, listener=self._listener, put_off=downloaded)

        key = ("afetch", store.base, artifact, rehash, max_age, offline)
        # Of a product the files are counted first, which may be thousands, and a lock file is read: not on the loop.
        inline = not rehash and artifact.postprocess is None and not config.frozen() and not flights.running(key)
        with callers_errors():
            if inline and (path := found_here(store, check(), asked, listener=self._listener)) is not None:
                return path
            path = await tasks.share_async(key, job)
            if downloaded:  # by this task: those that shared it have it, and do not wait for what follows
                send = partial(fill_all, check().settings, downloaded)
                await tasks.share_async(("fill", id(downloaded)), send)
            return path

    def _fetch_into(
        self,
        into: PathLike,
        artifact: Artifact,
        rehash: bool,
        max_age: float | None,
        offline: bool | None,
        progress: ProgressOption,
    ) -> Path:
        folder = self._folder(into)
        fetch = partial(self.fetch, artifact, offline=offline, progress=progress)
        path = fetch(rehash=rehash, max_age=max_age)
        with callers_errors():
            return folder.bring(path, artifact, fetch, ambient(), rehash=rehash)

    async def _afetch_into(
        self,
        into: PathLike,
        artifact: Artifact,
        rehash: bool,
        max_age: float | None,
        offline: bool | None,
        progress: ProgressOption,
    ) -> Path:
        from .coordination import tasks

        folder = self._folder(into)
        path = await self.afetch(artifact, rehash=rehash, max_age=max_age, offline=offline, progress=progress)
        if not rehash and (there := folder.find(path, artifact)) is not None:
            return there
        fetch = partial(self.fetch, artifact, offline=offline, progress=progress)

        def job(cancel: Cancel) -> Path:
            return folder.bring(path, artifact, fetch, cancel, rehash=rehash)

        with callers_errors():
            return await tasks.share_async(("into", folder, path, artifact, rehash), job)

    def build(self, key: str, fn: Callable[[Path], object], *, name: str) -> Path:
        """The file or folder that `fn(dst)` builds: once for all processes, and kept for every later call with `key`.

        `dst` does not exist when `fn` is called, and ends in `name`, as the path that is returned does. What is built
        is visible only when complete and synced. A failed build publishes nothing: callers that waited for it get its
        error, and the next call builds. Something from which files were purged is built again. `key` says everything
        that the result depends on, versions included; what `fn` reads is not looked at. What is built is not sealed: a
        write to it changes it for all.

        Raises ValueError, PostprocessFailed (caused by what `fn` raised), LockTimeout, UnsafeCache, OSError.
        """
        from .engine import building  # here: most callers build nothing

        building.check(key, fn, name)
        request = building.Build(building.BuiltPlace(self.store, key, name), fn, Settings.read())
        with callers_errors():
            return request.run()

    def fetch_shard(self, offline: bool | None, artifact: Artifact, cancel: Cancel, turn: Turn) -> Path:
        """`fetch` for one of several downloads that a caller has under way, of which one is wanted first."""
        request = request_of(artifact, offline=offline, progress=False)
        downloaded: list[Found] = []
        turn.afterwards = partial(fill_all, request.settings, downloaded, cancel)
        return fetched(self.store, request, None, cancel, turn, listener=self._listener, put_off=downloaded)

    def lookup(
        self,
        url: object,
        *,
        sha256: str | None = None,
        filename: str | None = None,
        headers: Headers = None,
        postprocess: Postprocess | None = None,
    ) -> Path | None:
        """The path if the artifact is here and right, else None. Never touches the network, downloads or waits.

        `headers` as for `fetch`: but for credentials they choose the content that is meant, `Accept` above all. A blob
        whose seal is broken is read and compared. Raises ValueError, UnsafeCache.
        """
        store = self.store
        asked = key_of(url, sha256, filename, (), headers, postprocess)
        if asked is not None and (path := store.hits.recall(asked)) is not None:
            return path
        artifact = artifact_of(url, sha256, filename, (), headers, postprocess)
        with callers_errors():
            return Fetch(store, request_of(artifact, offline=True, progress=False)).lookup()


_bases: dict[str, Store] = {}
_spelled: dict[tuple[bytes | None, ...], Store] = {}


def _opened(base: str) -> Store:
    return _bases.get(base) or _bases.setdefault(base, Store(base))


def _environment() -> Store:
    """The environment's base directory: by its spelling where that alone says it, else worked out anew."""
    spelled = config.raw(b"NANOCACHE_DIR") or config.raw(b"NANOCHAT_BASE_DIR")
    key = (spelled,) if spelled else (None, config.raw(b"XDG_CACHE_HOME"), config.raw(b"HOME"))
    store = _spelled.get(key)
    if store is None:
        if os.name == "nt":
            raise OSError("nanocache does not run on Windows yet; it runs on Linux (WSL too) and macOS")
        store = _opened(config.base_dir())
        if spelled is None or (spelled.startswith(b"/") and b"$" not in spelled):
            _spelled[key] = store
    return store
