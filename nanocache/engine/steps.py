"""One fetch, as the list of its steps: hit, single flight, lock, hit again, download, publish, remember, postprocess.

What each step does stands in other rooms; here is their order. Synchronous: everything that a fetch opens lives and
dies inside one call on one thread. Invariants: a hit comes before the network and before any lock; the lock of an
artifact and the lock of its product are never held together; what is returned is visible, complete and synced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..artifact import urls
from ..artifact.request import Request
from ..cancel import Cancel
from ..coordination.flights import share
from ..coordination.holder import HolderWriter
from ..coordination.process import me
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import faults
from ..download import filling
from ..download.download import Downloaded, DownloadRequest, NotModified, download
from ..download.retry import retried
from ..download.turn import Turn
from ..errors import DownloadFailed, NotCached
from ..events import Heal, Hit, Miss, Publish, Start, Wait, tell
from ..progress import Display
from ..room import Room
from ..store import healing, orphans, sweep
from ..store.blobs import Store
from ..store.layout import lock_key
from ..store.partials import Abandoned
from ..store.refs import Ref
from . import finding, hub_caches, products
from .asking import question
from .finding import Found
from .remembered import Remembered
from .reports import Report, WaitReport
from .room import clear_disk, room_for
from .ticking import ticking

__all__ = ["Fetch"]

logger = logging.getLogger("nanocache")


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request on one store. Its methods stand in the order in which a miss calls them."""

    store: Store
    request: Request
    cancel: Cancel = field(default_factory=Cancel)
    turn: Turn | None = None  # of a caller that has several downloads under way
    downloaded: list[Found] = field(default_factory=list)  # what the one that led had from an origin
    fills: bool = True  # sends it to the remote; else its caller does, once others need not wait for that

    @property
    def memory(self) -> Remembered:
        """What the request's URL gave the last time."""
        return Remembered(self.store, self.request)

    def run(self) -> Found:
        """The path of the artifact or its product, verified, however it has to be had.

        Raises the errors of `errors`, Cancelled, and OSError where the disk itself fails.
        """
        with faults.named(self.store.base):
            if not self.request.rehash and (found := self.find()) is not None:
                return found
        tell(Miss(self.request.shown_url, self.request.artifact.sha256))
        return faults.persistently(self.store.base, self._miss)

    # --- a hit --------------------------------------------------------------------------------------------------------

    def find(self) -> Found | None:
        """What is here already: no network, no lock, nothing hashed. Raises UnsafeCache."""
        found = finding.find(self.store, self.request)
        if found is not None:
            tell(Hit(self.request.shown_url, found.digest, str(found.path)))
        return found

    def lookup(self) -> Path | None:
        """`find`, and a blob with a broken seal is read and compared. Never downloads, never waits."""
        return finding.lookup(self.store, self.request, self.cancel)

    # --- a miss -------------------------------------------------------------------------------------------------------

    def _miss(self) -> Found | None:
        """The blob, then its product. None if a person deleted one of them meanwhile."""
        blob = finding.blob_in_tiers(self.store, self.request, self.cancel) or self._blob()
        hook = self.request.hook
        path = self._named(blob)
        if path is not None and hook is not None:
            if not self.store.prepare():
                raise self._not_cached(f"{hook.label} can build nothing in a base it may not write")
            path = products.build(self.store, self.request, hook, *blob, self.cancel)
        return None if path is None else Found(path, blob.digest)

    def _named(self, blob: Found) -> Path | None:
        """The blob under the request's name. Another caller, with another name, may have led the flight."""
        name = self.request.name
        if blob.path.name == name or not self.store.holds(blob.path):
            return blob.path
        path = self.store.hit(blob.digest, name)
        if path is not None or not self.store.names(blob.digest):
            return path
        # Only a copy will do (fs.protected_hardlinks, say): it is made once, however many ask.
        key = ("name", self.store.base, blob.digest, name)
        return share(key, self.request.identity, partial(self._copy_name, blob.digest), self.cancel)

    def _copy_name(self, digest: str, cancel: Cancel) -> Path | None:
        with Fetch(self.store, self.request, cancel)._digest_lock(digest):
            return self.store.copy_name(digest, self.request.name, cancel, self._room(cancel))

    def _blob(self) -> Found:
        """The request's blob, which was intact on disk a moment ago."""
        if not self.store.prepare():
            return self._read_only()
        request = self.request
        key = ("blob", self.store.base, self._key, request.rehash, request.max_age, request.settings.offline)
        began = time.monotonic()
        led: list[Cancel] = []  # by this call: one flight, unless it took over from another
        found = share(key, request.identity, partial(self._lead, led), self.cancel)
        if not led:
            tell(Wait(request.shown_url, str(me()), time.monotonic() - began))
        sweep.daily(self.store)
        if self.fills:  # no lock is held any more, and the other threads and processes have it
            filling.fill_all(request.settings, self.downloaded, self.cancel)
            self.downloaded.clear()
        return found

    def _read_only(self) -> Found:
        reason = f"{self.store.base} is not writable for this user"
        stale = None if self.memory.known() else self.memory.stale()  # what a server says could not be kept
        digest = self.memory.known() if stale is None else stale.digest
        path = None if digest is None else finding.read_own(self.store, self.request, digest, self.cancel)
        if digest is None or path is None:
            raise self._not_cached(reason)
        if stale is not None:
            self._warn_unasked(reason)
        return Found(path, digest)

    def _warn_unasked(self, reason: object) -> None:
        logger.warning("cannot ask whether %s changed (%s); using what is cached", self.request.shown_url, reason)

    def _lead(self, led: list[Cancel], cancel: Cancel) -> Found:
        """Run the flight that this process's callers share. `cancel` is the flight's: set once all of them left."""
        led.append(cancel)
        leader = Fetch(self.store, self.request, cancel, self.turn, self.downloaded)
        with closing(Display(self.request.progress, self.request.name)) as display, ticking(display):
            return leader._locked(display)

    def _locked(self, display: Display) -> Found:
        place = self.store.lock_place(self._key)
        timeout = self.request.settings.lock_timeout
        identity = self.request.identity
        waiting = WaitReport(self.request.shown_url, display)
        options = WaitOptions(self._published, identity, self.cancel, timeout, waiting, self._look_again)
        while True:
            with hold_lock(place, options) as writer:
                waiting.end()
                if writer is not None:
                    return self._bring(Report(writer, display))
            if (found := self._hit()) is not None:
                return found

    def _published(self) -> bool:
        """Whether another process published meanwhile what this one waits for."""
        digest = self.memory.known()
        return digest is not None and self._intact(digest)

    def _intact(self, digest: str) -> bool:
        return not self.request.rehash and self.store.intact(digest, self.store.blob(digest, self.request.name))

    def _hit(self) -> Found | None:
        """The intact blob that the request means, if it is here, under whatever name."""
        digest = self.memory.known()
        path = None if digest is None else self.store.any_intact(digest, self.request.name)
        return None if digest is None or path is None else Found(Path(path), digest)

    # --- under the lock, or without one where none is to be had -------------------------------------------------------

    def _bring(self, report: Report) -> Found:
        """What is here after all, healed; what the server says is unchanged; or a download."""
        self._look_again()
        digest = self.memory.known()
        if digest is not None and self._heal(digest) and (found := self._hit()) is not None:
            return found
        if digest is not None and (path := hub_caches.bring(self.store, self.request, digest, self.cancel)) is not None:
            return Found(path, digest)
        if (stale := self._stale()) is None:
            return self._download(None, report)
        try:
            return self._download(stale, report)
        except (DownloadFailed, NotCached) as e:
            if isinstance(e, DownloadFailed) and e.status is not None and not retried(e.status):
                raise  # the server answered, and what it says of the URL now is news
            self._warn_unasked(e)
            return self._kept(stale)

    def _look_again(self) -> None:
        """Have the mount forget that it saw nothing here: another host may have published meanwhile."""
        if self.request.artifact.sha256 is None:
            self.store.look_again(self.store.ref(self.request.url_key))
        digest = self.memory.known()
        if digest is not None:
            self.store.look_again(self.store.blob(digest, self.request.name))

    def _heal(self, digest: str) -> bool:
        """Whether the digest's blob is intact, healed if need be.

        Under the digest's lock: a request with a digest holds it already, and one without takes it as well.
        """
        if not self.store.names(digest):
            return False
        if not self.request.rehash and not healing.needs_healing(self.store, digest):
            return self.store.any_intact(digest, self.request.name) is not None
        if self._key == digest:
            return self._read_again(digest)
        with self._digest_lock(digest) as writer:
            return writer is None or self._read_again(digest)

    def _read_again(self, digest: str) -> bool:
        broken = healing.needs_healing(self.store, digest)
        online = not self.request.settings.offline
        everything = self.request.rehash
        right = healing.heal(self.store, digest, everything=everything, replaceable=online, cancel=self.cancel)
        if broken or not right:
            tell(Heal(self.request.shown_url, digest, right))
        return right

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
        ref = self.memory.stale()
        return ref if ref is not None and self._heal(ref.digest) else None

    def _kept(self, ref: Ref) -> Found:
        name = self.request.name
        return Found(Path(self.store.any_intact(ref.digest, name) or self.store.blob(ref.digest, name)), ref.digest)

    def _download(self, stale: Ref | None, report: Report) -> Found:
        """Download, publish, remember. `stale` is asked about first, and kept if the server still has it."""
        if self.request.settings.offline:
            raise self._not_cached("offline")
        cleared = False
        tell(Start(self.request.shown_url, self.request.artifact.size))
        began = time.monotonic()
        while True:
            stamp = self.memory.file_stamp()
            try:
                result, path = self._receive(question(self.store, self.request, stale, self.cancel, self.turn), report)
            except Abandoned:
                continue
            except OSError as e:
                if cleared or not clear_disk(self.store, self.request.settings, e, self.cancel):
                    raise
                cleared = True
                continue
            if isinstance(result, Downloaded):
                seconds = time.monotonic() - began
                return self._keep(result, path, stamp, seconds)
            if stale is not None:
                self.memory.renew(stale)
                return self._kept(stale)

    def _keep(self, result: Downloaded, path: Path, stamp: list[int] | None, seconds: float) -> Found:
        """Remember a download. Of what the remote has the URL itself said nothing, unless it named the digest."""
        found = Found(path, result.digest)
        by_memory = result.from_remote and self.request.artifact.sha256 is None and result.version is None
        if not by_memory:
            self.memory.keep(result, stamp)
        if result.came:
            tell(Publish(urls.redact(result.url), result.digest, str(path), result.size, seconds))
        if result.came and not result.from_remote:
            self.downloaded.append(found)
        return found

    def _receive(self, asked: DownloadRequest, report: Report) -> tuple[Downloaded | NotModified, Path]:
        """What a download brought, and where it was published."""
        name = self.request.name
        with orphans.claim(
            self.store, self._key, judged=asked.digest is not None, room=self._room(self.cancel)
        ) as private:
            result = download(asked, private, self.cancel, report)
            if isinstance(result, NotModified):
                return result, Path()
            if not result.came:
                return result, self._present(result.digest)
            # With a digest this was looked up before the download.
            here = None if asked.digest else self.store.hit(result.digest, name)
            path = here or self.store.publish(private, result.digest, name, self.cancel)
            private.state = None  # the same bytes were here already: not worth keeping twice
            if self.turn is not None:
                self.turn.came = True
        return result, path

    def _present(self, digest: str) -> Path:
        """A blob that was here a moment ago."""
        path = finding.find_blob(self.store, self.request, digest)
        if path is None:
            raise Abandoned
        return path

    def _room(self, cancel: Cancel) -> Room:
        return room_for(self.store, self.request.settings, cancel)

    # --- small answers ------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        """What the lock and the partials are filed under."""
        return lock_key(self.request.artifact.sha256, self.request.url_key)

    def _not_cached(self, reason: str) -> NotCached:
        request = self.request
        return NotCached(url=request.shown_url, base_dir=self.store.base, sha256=request.artifact.sha256, reason=reason)
