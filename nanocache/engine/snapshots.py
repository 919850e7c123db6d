"""A whole repository at one version: its listing, the files that were asked for, and the folder that shows them.

    listing     an artifact like any other, so that one rank asks for it, and it is remembered, revalidated, pinned
    files       many artifacts, by one call
    tree        hard links to them; a ref says which tree answers a listing and the caller's patterns

Not a source's listing (`sources.listings`), and not the tree (`store.trees`). Invariants: all files are of one version,
because they are of one listing; each is verified by what the listing says of it; the folder is complete or not there;
what two versions have in common is downloaded once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import config
from ..artifact import arguments, urls
from ..artifact.artifact import Artifact
from ..artifact.request import Request
from ..cancel import ambient
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import faults
from ..errors import NotCached
from ..room import Room
from ..sources import listings
from ..sources.protocol import Listed, Listing
from ..store import refs, tiers, trees
from ..store.blobs import Store
from ..store.manifest import Manifest, TreeFile
from ..store.refs import Ref
from . import known_files, locked_listing
from .choice import choose
from .remembered import Remembered
from .room import room_for

__all__ = ["FetchFiles", "FetchListing", "Snapshot"]

logger = logging.getLogger("nanocache")

FetchListing = Callable[[Artifact], Path]
FetchFiles = Callable[[Sequence[Artifact]], list[Path]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One question for a repository's files, on one store. `fetch_listing` and `fetch_files` bring artifacts here."""

    store: Store
    url: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    request: Request  # for the listing
    fetch_listing: FetchListing
    fetch_files: FetchFiles

    @classmethod
    def of(
        cls,
        store: Store,
        url: str,
        *,
        include: str | Iterable[str],
        exclude: str | Iterable[str],
        max_age: float | None,
        offline: bool | None,
        fetch_listing: FetchListing,
        fetch_files: FetchFiles,
    ) -> Snapshot:
        """Check what was asked. Raises ValueError."""
        listing = listings.artifact(url)
        frozen = locked_listing.of(url) if config.frozen() else None
        if frozen is not None:
            listing = replace(listing, sha256=hashlib.sha256(frozen).hexdigest())
        return cls(
            store=store,
            url=url,
            include=arguments.patterns("include", include),
            exclude=arguments.patterns("exclude", exclude),
            request=Request.of(listing, max_age=None if frozen else max_age, offline=offline, progress=False),
            fetch_listing=fetch_listing if frozen is None else partial(locked_listing.keep, store, frozen),
            fetch_files=fetch_files,
        )

    def run(self) -> Path:
        """The folder. Raises what fetching raises, and UnsafeArchive for a path that leads elsewhere."""
        with faults.named(self.store.base):
            if (found := self._first(lambda holder: holder._standing())) is not None:
                return found
        return faults.persistently(self.store.base, self._miss)

    # --- a hit --------------------------------------------------------------------------------------------------------

    def _first(self, look: Callable[[Snapshot], Path | None]) -> Path | None:
        """What `look` finds in this store, else in the first tier that has it."""
        folders = self.request.settings.readonly_dirs
        return look(self) or tiers.first(folders, lambda tier: look(replace(self, store=tier)), beside=self.store.base)

    def _standing(self) -> Path | None:
        """The tree, marked as used, if the listing is remembered."""
        digest = Remembered(self.store, self.request).known()
        found = None if digest is None else self._find(digest)
        return found if found is not None and self.store.recency.mark(str(found.parent)) else None

    def _find(self, listing: str) -> Path | None:
        """The tree that answers the listing of this digest, if it is here and seems whole."""
        manifest = self._manifest(listing)
        return None if manifest is None else trees.find(self.store, manifest, self._name)

    def _manifest(self, listing: str) -> Manifest | None:
        ref = refs.read(self.store, self._answer_key(listing))
        return None if ref is None else trees.read_manifest(self.store, ref.digest)

    # --- a miss -------------------------------------------------------------------------------------------------------

    def _miss(self) -> Path | None:
        try:
            path = self.fetch_listing(self.request.artifact)
        except NotCached as e:
            raise self._not_cached(e.reason) from None
        if (found := self._first(lambda holder: holder._find(path.parent.name))) is not None:
            return found
        if not self.store.prepare():
            raise self._not_cached(f"{self.store.base} is not writable for this user")
        return self._make(path.parent.name, listings.parse(path.read_bytes()))

    def _make(self, digest: str, listing: Listing) -> Path:
        listings.learn(self.url, listing)
        manifest = self._manifest(digest)
        if manifest is None:
            manifest = self._fetch(listing)
            trees.keep_manifest(self.store, manifest, self._room)
        path = self._show(manifest, listing)
        self._remember(digest, manifest)
        return path

    def _fetch(self, listing: Listing) -> Manifest:
        """Have each wanted file here, and say which they are."""
        wanted = choose(listing, self.include, self.exclude)
        paths = self.fetch_files([self._artifact(listing, file) for file in wanted])
        found = list(zip(wanted, paths, strict=True))
        for file, path in found:
            known_files.remember(self.store, listing, file, path.parent.name)
        return Manifest.of(TreeFile(file.path, path.parent.name, file.size) for file, path in found)

    def _artifact(self, listing: Listing, file: Listed) -> Artifact:
        digest = file.sha256 or known_files.digest_of(self.store, listing, file)
        return Artifact(listings.url_of(listing, file.path), sha256=digest, size=file.size)

    def _show(self, manifest: Manifest, listing: Listing) -> Path:
        """The whole tree: made, or what it lacks put back."""
        place = self.store.lock_place(trees.lock_key_of(manifest, self._name))
        timeout = self.request.settings.lock_timeout
        options = WaitOptions(lambda: False, self.request.identity, ambient(), timeout, lambda *_: None)
        with hold_lock(place, options):
            if (found := trees.find(self.store, manifest, self._name)) is not None:
                return found
            fresh = not Path(self.store.tree(manifest.digest, self._name)).is_dir()
            lost = list(manifest.files) if fresh else trees.lacking(self.store, manifest, self._name)
            artifacts = [Artifact(listings.url_of(listing, f.path), sha256=f.sha256, size=f.size) for f in lost]
            blobs = {file.sha256: path for file, path in zip(lost, self._blobs(artifacts), strict=True)}
            if fresh:
                return trees.publish(self.store, manifest, self._name, blobs, self._room)
            room = self._room
            try:
                return trees.repair(self.store, manifest, self._name, blobs, lost, room)
            finally:
                room.settle()

    def _blobs(self, artifacts: Sequence[Artifact]) -> list[Path]:
        here = [self.store.any_intact(artifact.sha256 or "", artifact.name) for artifact in artifacts]
        if None in here:
            return self.fetch_files(artifacts)
        return [Path(path) for path in here if path is not None]

    # --- small answers ------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return listings.name_of(self.url)

    @property
    def _room(self) -> Room:
        """For one of the steps."""
        return room_for(self.store, self.request.settings, ambient())

    def _answer_key(self, listing: str) -> str:
        """What the tree for a listing of this digest is remembered under."""
        question: list[Any] = ["tree", listing, sorted(self.include), sorted(self.exclude)]
        return hashlib.sha256(json.dumps(question).encode()).hexdigest()

    def _remember(self, listing: str, manifest: Manifest) -> None:
        shown = urls.redact(self.url)
        ref = Ref(shown, manifest.digest, len(manifest.data), None, None, fetched_at=time.time())
        refs.remember(self.store, self._answer_key(listing), ref)

    def _not_cached(self, reason: str) -> NotCached:
        return NotCached(url=urls.redact(self.url), base_dir=self.store.base, reason=reason, command="snapshot")
