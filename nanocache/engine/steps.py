"""One fetch, as the list of its steps: hit, single flight, lock, hit again, download, publish, remember, postprocess.

What each step does stands in other rooms; here is their order. Synchronous: everything that a fetch opens lives and
dies inside one call on one thread. Invariants: a hit comes before the network and before any lock; the lock of an
artifact and the lock of its product are never held together; what is returned is visible, complete and synced.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..artifact import urls
from ..artifact.request import Request
from ..cancel import Cancel
from ..coordination.flights import share
from ..coordination.holder import HolderWriter
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import faults
from ..disk.absence import look_again
from ..download.download import Downloaded, DownloadRequest, NotModified, Source, download
from ..download.retry import retried
from ..errors import DownloadFailed, NotCached, UnsafeCache
from ..progress import Display
from ..store import healing, orphans, refs, sweep
from ..store.blobs import Store
from ..store.layout import lock_key
from ..store.partials import Abandoned
from ..store.refs import Ref
from . import products

__all__ = ["Fetch", "Found"]

logger = logging.getLogger("nanocache")

CLOCKS_DIFFER = 5.0  # seconds by which another host's clock may be ahead and what it just fetched is fresh all the same


class Found(NamedTuple):
    """What a fetch ends with: the path of the artifact or its product, and the artifact's digest."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class _Report:
    """Tells waiting processes and the caller's display how far a download is."""

    writer: HolderWriter
    display: Display

    def __call__(self, done: int, total: int | None) -> None:
        self.writer.report(done, total)
        self.display.report(done, total)


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request on one store. Its methods stand in the order in which a miss calls them."""

    store: Store
    request: Request
    cancel: Cancel = field(default_factory=Cancel)

    def run(self) -> Found:
        """The path of the artifact or its product, verified, however it has to be had.

        Raises the errors of `errors`, Cancelled, and OSError where the disk itself fails.
        """
        with faults.named(self.store.base):
            if not self.request.rehash and (found := self.find()) is not None:
                return found
        return faults.persistently(self.store.base, self._miss)

    # --- a hit --------------------------------------------------------------------------------------------------------

    def find(self) -> Found | None:
        """What is here already: no network, no lock, nothing hashed. Raises UnsafeCache."""
        digest = self.known()
        if digest is None:
            return None
        if self.request.hook is not None:
            path = products.find(self.store, digest, self.request.hook, self.request.name)
        else:
            path = self.store.hit(digest, self.request.name)
        return None if path is None else Found(path, digest)

    def lookup(self) -> Path | None:
        """`find`, and a blob with a broken seal is read and compared. Never downloads, never waits."""
        if (found := self.find()) is not None:
            return found.path
        digest = self.known()
        if digest is None or self.request.hook is not None:
            return None
        return healing.verify(self.store, digest, self.request.name, self.cancel)

    def known(self) -> str | None:
        """The digest that the request means, as far as this machine knows: the caller's, or a fresh ref's."""
        if self.request.artifact.sha256 is not None:
            return self.request.artifact.sha256
        ref = refs.read(self.store, self.request.url_key)
        return ref.digest if ref is not None and self._fresh(ref) else None

    def _fresh(self, ref: Ref) -> bool:
        if self._is_file:  # asking costs one stat
            return ref.source == self._file_stamp()
        if self.request.max_age is None:
            return True
        age = time.time() - ref.fetched_at
        if age < -CLOCKS_DIFFER:  # a clock was wrong, and this would be fresh until that time comes
            return False
        return age < self.request.max_age or ref.fetched_at >= self.request.began

    # --- a miss -------------------------------------------------------------------------------------------------------

    def _miss(self) -> Found | None:
        """The blob, then its product. None if a person deleted one of them meanwhile."""
        blob = self._blob()
        hook = self.request.hook
        path = self._named(blob)
        if path is not None and hook is not None:
            if not self.store.prepare():
                raise self._not_cached(f"{hook.label} can build nothing in a base it may not write")
            path = products.build(self.store, self.request, hook, blob.digest, self.cancel)
        return None if path is None else Found(path, blob.digest)

    def _named(self, blob: Found) -> Path | None:
        """The blob under the request's name. Another caller, with another name, may have led the flight."""
        name = self.request.name
        if blob.path.name == name:
            return blob.path
        path = self.store.hit(blob.digest, name)
        if path is not None or not self.store.names(blob.digest):
            return path
        # Only a copy will do (fs.protected_hardlinks, say): it is made once, however many ask.
        key = ("name", self.store.base, blob.digest, name)
        return share(key, self.request.identity, partial(self._copy_name, blob.digest), self.cancel)

    def _copy_name(self, digest: str, cancel: Cancel) -> Path | None:
        with Fetch(self.store, self.request, cancel)._digest_lock(digest):
            return self.store.copy_name(digest, self.request.name, cancel)

    def _blob(self) -> Found:
        """The request's blob, which was intact on disk a moment ago."""
        if not self.store.prepare():
            return self._read_only()
        request = self.request
        key = ("blob", self.store.base, self._key, request.rehash, request.max_age, request.settings.offline)
        found = share(key, request.identity, self._lead, self.cancel)
        sweep.daily(self.store)
        return found

    def _read_only(self) -> Found:
        digest = self.known()
        path = None if digest is None else self._verified(digest)
        if digest is None or path is None:
            raise self._not_cached(f"{self.store.base} is not writable for this user")
        return Found(path, digest)

    def _verified(self, digest: str) -> Path | None:
        """The blob, read once for all callers of this moment."""
        key = ("verify", self.store.base, digest, self.request.name, self.request.rehash)
        return share(key, self.request.identity, partial(self._verify, digest), self.cancel)

    def _verify(self, digest: str, cancel: Cancel) -> Path | None:
        name = self.request.name
        found = None if self.request.rehash else self.store.hit(digest, name)  # another flight may have just landed
        return found or healing.verify(self.store, digest, name, cancel)

    def _lead(self, cancel: Cancel) -> Found:
        """Run the flight that this process's callers share. `cancel` is the flight's: set once all of them left."""
        leader = Fetch(self.store, self.request, cancel)
        with closing(Display(self.request.progress, self.request.name)) as display:
            return leader._locked(display)

    def _locked(self, display: Display) -> Found:
        place = self.store.lock_place(self._key)
        timeout = self.request.settings.lock_timeout
        options = WaitOptions(self._published, self.request.identity, self.cancel, timeout, display.waiting)
        while True:
            with hold_lock(place, options) as writer:
                if writer is not None:
                    return self._bring(_Report(writer, display))
            if (found := self._hit()) is not None:
                return found

    def _published(self) -> bool:
        """Whether another process published meanwhile what this one waits for."""
        digest = self.known()
        return digest is not None and self._intact(digest)

    def _intact(self, digest: str) -> bool:
        return not self.request.rehash and self.store.intact(digest, self.store.blob(digest, self.request.name))

    def _hit(self) -> Found | None:
        """The intact blob that the request means, if it is here, under whatever name."""
        digest = self.known()
        path = None if digest is None else self.store.any_intact(digest, self.request.name)
        return None if digest is None or path is None else Found(Path(path), digest)

    # --- under the lock, or without one where none is to be had -------------------------------------------------------

    def _bring(self, report: _Report) -> Found:
        """What is here after all, healed; what the server says is unchanged; or a download."""
        self._look_again()
        digest = self.known()
        if digest is not None and self._heal(digest) and (found := self._hit()) is not None:
            return found
        if (stale := self._stale()) is None:
            return self._download(None, report)
        try:
            return self._download(stale, report)
        except (DownloadFailed, NotCached) as e:
            if isinstance(e, DownloadFailed) and e.status is not None and not retried(e.status):
                raise  # the server answered, and what it says of the URL now is news
            logger.warning("cannot ask whether %s changed (%s); using what is cached", self.request.shown_url, e)
            return self._kept(stale)

    def _look_again(self) -> None:
        """Have the mount forget that it saw nothing here: another host may have published meanwhile."""
        if self.request.artifact.sha256 is None:
            look_again(self.store.ref(self.request.url_key), below=self.store.base)
        digest = self.known()
        if digest is not None:
            look_again(self.store.blob(digest, self.request.name), below=self.store.base)

    def _heal(self, digest: str) -> bool:
        """Whether the digest's blob is intact, healed if need be.

        Under the digest's lock: a request with a digest holds it already, and one without takes it as well.
        """
        if not self.request.rehash and not healing.needs_healing(self.store, digest):
            return self.store.any_intact(digest, self.request.name) is not None
        if self._key == digest:
            return self._read_again(digest)
        with self._digest_lock(digest) as writer:
            return writer is None or self._read_again(digest)

    def _read_again(self, digest: str) -> bool:
        online = not self.request.settings.offline
        return healing.heal(self.store, digest, everything=self.request.rehash, replaceable=online, cancel=self.cancel)

    @contextmanager
    def _digest_lock(self, digest: str) -> Iterator[HolderWriter | None]:
        """Hold the digest's lock for the block; None if the blob is intact under the request's name by then."""
        timeout = self.request.settings.lock_timeout
        published = partial(self._intact, digest)
        options = WaitOptions(published, self.request.identity, self.cancel, timeout, lambda *_: None)
        with hold_lock(self.store.lock_place(digest), options) as writer:
            yield writer

    def _stale(self) -> Ref | None:
        """The ref to revalidate: not fresh, and its blob intact."""
        if self.request.artifact.sha256 is not None or self._is_file:
            return None
        ref = refs.read(self.store, self.request.url_key)
        return ref if ref is not None and self._heal(ref.digest) else None

    def _kept(self, ref: Ref) -> Found:
        name = self.request.name
        return Found(Path(self.store.any_intact(ref.digest, name) or self.store.blob(ref.digest, name)), ref.digest)

    def _download(self, stale: Ref | None, report: _Report) -> Found:
        """Download, publish, remember. `stale` is asked about first, and kept if the server still has it."""
        if self.request.settings.offline:
            raise self._not_cached("offline")
        while True:
            stamp = self._file_stamp()
            try:
                result, path = self._receive(self._asked(stale), report)
            except Abandoned:
                continue
            if isinstance(result, Downloaded):
                self._remember(result, stamp)
                return Found(path, result.digest)
            if stale is not None:
                self._write_ref(replace(stale, fetched_at=time.time()))
                return self._kept(stale)

    def _asked(self, stale: Ref | None) -> DownloadRequest:
        artifact = self.request.artifact
        return DownloadRequest(
            sources=[Source(url, headers) for url, headers in self.request.sources()],
            name=self.request.name,
            settings=self.request.settings,
            digest=artifact.sha256,
            size=artifact.size,
            condition=None if stale is None else (stale.etag, stale.last_modified),
        )

    def _receive(self, asked: DownloadRequest, report: _Report) -> tuple[Downloaded | NotModified, Path]:
        """What a download brought, and where it was published."""
        name = self.request.name
        with orphans.claim(self.store, self._key, judged=asked.digest is not None) as private:
            result = download(asked, private, self.cancel, report)
            if isinstance(result, NotModified):
                return result, Path()
            path = self.store.hit(result.digest, name) or self.store.publish(private, result.digest, name, self.cancel)
            private.state = None  # the same bytes were here already: not worth keeping twice
        return result, path

    # --- what the URL gave --------------------------------------------------------------------------------------------

    def _remember(self, downloaded: Downloaded, stamp: list[int] | None) -> None:
        if not downloaded.remember:
            logger.warning(
                "%s ended without saying how long it is: returned, but not remembered; give its sha256",
                self.request.shown_url,
            )
            return
        own = downloaded.url == self.request.artifact.url  # a mirror's validators say nothing about the URL
        ref = Ref(
            url=self.request.shown_url,
            digest=downloaded.digest,
            size=downloaded.size,
            etag=downloaded.etag if own else None,
            last_modified=downloaded.last_modified if own else None,
            fetched_at=time.time(),
            source=stamp,
        )
        self._write_ref(ref)

    def _write_ref(self, ref: Ref) -> None:
        try:
            refs.write(self.store, self.request.url_key, ref)
        except UnsafeCache:
            raise
        except OSError as e:  # a full disk, say: what was asked for is there all the same
            logger.warning("cannot remember what %s gave (%s): the next call asks again", self.request.shown_url, e)

    # --- small answers ------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        """What the lock and the partials are filed under."""
        return lock_key(self.request.artifact.sha256, self.request.url_key)

    @property
    def _is_file(self) -> bool:
        return urls.is_file(self.request.artifact.url)

    def _file_stamp(self) -> list[int] | None:
        """Size and mtime of a `file:` URL's file; None for other URLs, and if it can't be seen."""
        if not self._is_file:
            return None
        try:
            st = os.stat(urls.file_path(self.request.artifact.url))
        except OSError:
            return None
        return [st.st_size, st.st_mtime_ns]

    def _not_cached(self, reason: str) -> NotCached:
        request = self.request
        return NotCached(url=request.shown_url, base_dir=self.store.base, sha256=request.artifact.sha256, reason=reason)
