"""A whole repository at one version: listed once, fetched like many artifacts, and shown as one folder.

    hit: the ref of the question says which tree; a few lstats say that it is whole
    miss: single flight, lock; the listing; what is not here, behind one bar; the manifest; the tree; the ref

Not a source's listing (`sources`), and not the tree (`store.trees`). Invariants: all files are of one version, because
the branch is asked once; each is verified by what the source says of it; the folder is complete or not there; a file
that two versions have in common is downloaded once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from ..artifact import arguments, urls
from ..artifact.artifact import Artifact
from ..artifact.request import Request
from ..cancel import Cancel, ambient, within
from ..config import Settings
from ..coordination.flights import share
from ..coordination.waiting import WaitOptions, hold_lock
from ..disk import faults
from ..disk.absence import look_again
from ..download.listing import ask
from ..errors import DownloadFailed, NotCached
from ..progress import ProgressOption
from ..sources import listings
from ..sources.protocol import Listed, Listing
from ..store import refs, trees
from ..store.blobs import Store
from ..store.layout import product_lock_key
from ..store.manifest import Manifest, TreeFile
from ..store.refs import Ref
from . import many
from .listing import choose
from .steps import Fetch

__all__ = ["Snapshot"]

logger = logging.getLogger("nanocache")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One question for a repository's files, on one store."""

    store: Store
    url: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_age: float | None
    settings: Settings
    progress: ProgressOption
    began: float  # seconds since the epoch
    cancel: Cancel

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
        progress: ProgressOption,
    ) -> Snapshot:
        """Check what was asked. Raises ValueError."""
        arguments.progress(progress)
        if max_age is not None:
            arguments.number("max_age", max_age, "seconds")
        return cls(
            store=store,
            url=listings.check(url),
            include=arguments.patterns("include", include),
            exclude=arguments.patterns("exclude", exclude),
            max_age=max_age,
            settings=Settings.read(offline=arguments.option("offline", offline)),
            progress=progress,
            began=time.time(),
            cancel=ambient(),
        )

    def run(self) -> Path:
        """The folder. Raises what `fetch_many` raises, and UnsafeArchive for a path that leads elsewhere."""
        with faults.named(self.store.base):
            if (found := self._find()) is not None:
                return found
        return faults.persistently(self.store.base, self._miss)

    # --- a hit --------------------------------------------------------------------------------------------------------

    def _find(self) -> Path | None:
        ref = refs.read(self.store, self._key)
        return self._tree(ref) if ref is not None and self._is_fresh(ref) else None

    def _is_fresh(self, ref: Ref) -> bool:
        if self.max_age is None:
            return True
        return 0 <= time.time() - ref.fetched_at < self.max_age or ref.fetched_at >= self.began

    def _tree(self, ref: Ref) -> Path | None:
        manifest = trees.read_manifest(self.store, ref.digest)
        return None if manifest is None else trees.find(self.store, manifest, self._name)

    # --- a miss -------------------------------------------------------------------------------------------------------

    def _miss(self) -> Path | None:
        if not self.store.prepare():
            raise self._not_cached(f"{self.store.base} is not writable for this user")
        key = ("snapshot", self.store.base, self._key, self.max_age, self.settings.offline)
        return share(key, self._identity, self._lead, self.cancel)

    def _lead(self, cancel: Cancel) -> Path | None:
        leader = replace(self, cancel=cancel)
        with leader._locked(product_lock_key(f"snapshot {self._key}")) as holds:
            look_again(self.store.ref(self._key), below=self.store.base)
            if (found := leader._find()) is not None or not holds:
                return found
            ref = refs.read(self.store, self._key)
            return leader._bring() if ref is None or not self._is_fresh(ref) else leader._restore(ref)

    @contextmanager
    def _locked(self, key: str) -> Iterator[bool]:
        options = WaitOptions(
            lambda: self._find() is not None, self._identity, self.cancel, self.settings.lock_timeout, lambda *_: None
        )
        with hold_lock(self.store.lock_place(key), options) as writer:
            yield writer is not None

    def _bring(self) -> Path:
        """The version that the source has now; the one that is here, with a warning, where it cannot be asked."""
        ref = refs.read(self.store, self._key)
        try:
            listed = self._listing(self.url)
        except (DownloadFailed, NotCached) as e:
            if ref is None or (isinstance(e, DownloadFailed) and e.status is not None):
                raise
            logger.warning("cannot ask whether %s changed (%s); using what is cached", urls.redact(self.url), e)
            return self._restore(ref)
        if ref is not None and ref.version == listed.pinned:
            path = self._restore(ref)
            self._remember(replace(ref, fetched_at=time.time()))
            return path
        manifest = self._fetch(listed)
        trees.keep_manifest(self.store, manifest)
        path = self._show(manifest, listed.pinned)
        self._remember(self._ref(manifest.digest, len(manifest.data), listed.pinned))
        return path

    def _ref(self, digest: str, size: int, pinned: str) -> Ref:
        shown = urls.redact(self.url)
        return Ref(shown, digest, size, None, None, fetched_at=time.time(), version=pinned, pinned=pinned)

    def _restore(self, ref: Ref) -> Path:
        """The tree that `ref` means, with what it lacks put back."""
        manifest = trees.read_manifest(self.store, ref.digest)
        if manifest is None or ref.pinned is None:  # the manifest itself was deleted
            manifest = self._fetch(self._listing(ref.pinned or self.url))
            trees.keep_manifest(self.store, manifest)
        return self._show(manifest, ref.pinned or self.url)

    def _listing(self, url: str) -> Listing:
        if self.settings.offline:
            raise self._not_cached("offline")
        listed = ask(url, self.settings, self.cancel)
        if listed is None:  # by the source's own switch
            raise self._not_cached("offline")
        return listed

    # --- the files ----------------------------------------------------------------------------------------------------

    def _fetch(self, listed: Listing) -> Manifest:
        """Have each wanted file here, and say which they are."""
        wanted = choose(listed, self.include, self.exclude)
        paths = self._fetch_all([self._artifact(listed, file) for file in wanted])
        for file, path in zip(wanted, paths, strict=True):
            self._remember_git(listed, file, path)
        return Manifest.of(
            TreeFile(file.path, path.parent.name, file.size) for file, path in zip(wanted, paths, strict=True)
        )

    def _artifact(self, listed: Listing, file: Listed) -> Artifact:
        url = listings.url_of(listed.pinned, file.path)
        return Artifact(url, sha256=file.sha256 or self._known(listed, file), size=file.size)

    def _fetch_all(self, artifacts: list[Artifact]) -> list[Path]:
        with within(self.cancel):
            return many.fetch(artifacts, self._fetch_one, workers=None, return_exceptions=False, progress=self.progress)

    def _fetch_one(self, artifact: Artifact, cancel: Cancel, progress: ProgressOption) -> Path:
        request = Request.of(artifact, offline=self.settings.offline, progress=progress)
        return Fetch(self.store, request, cancel).run().path

    # What git calls a small file is no digest of ours: which digest it had is remembered for the next version of the
    # repository, for that repository alone, since SHA-1 can be made to collide.

    def _known(self, listed: Listing, file: Listed) -> str | None:
        ref = None if file.git_sha1 is None else refs.read(self.store, _git_key(listed, file.git_sha1))
        if ref is None or ref.size != file.size or self.store.any_intact(ref.digest, "") is None:
            return None
        return ref.digest

    def _remember_git(self, listed: Listing, file: Listed, path: Path) -> None:
        if file.git_sha1 is None or self._known(listed, file) is not None:
            return
        url = urls.redact(listings.url_of(listed.pinned, file.path))
        ref = Ref(url, path.parent.name, file.size, None, None, fetched_at=time.time(), version=file.git_sha1)
        self._write(_git_key(listed, file.git_sha1), ref)

    # --- the folder ---------------------------------------------------------------------------------------------------

    def _show(self, manifest: Manifest, pinned: str) -> Path:
        """The whole tree: made, or what it lacks put back."""
        name = self._name
        with self._locked(trees.lock_key_of(manifest, name)):
            if (found := trees.find(self.store, manifest, name)) is not None:
                return found
            whole = not Path(self.store.tree(manifest.digest, name)).is_dir()
            lost = list(manifest.files) if whole else trees.lacking(self.store, manifest, name)
            paths = self._fetch_all(
                [Artifact(listings.url_of(pinned, f.path), sha256=f.sha256, size=f.size) for f in lost]
            )
            blobs = {file.sha256: path for file, path in zip(lost, paths, strict=True)}
            if whole:
                return trees.publish(self.store, manifest, name, blobs)
            return trees.repair(self.store, manifest, name, blobs, lost)

    # --- small answers ------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        """What the answer is remembered under."""
        question: list[Any] = ["snapshot", urls.url_key(self.url), sorted(self.include), sorted(self.exclude)]
        return hashlib.sha256(json.dumps(question).encode()).hexdigest()

    @property
    def _name(self) -> str:
        return listings.name_of(self.url)

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.url, self.include, self.exclude, self.max_age, *astuple(self.settings)

    def _remember(self, ref: Ref) -> None:
        self._write(self._key, ref)

    def _write(self, key: str, ref: Ref) -> None:
        try:
            refs.write(self.store, key, ref)
        except OSError as e:  # a full disk, say: what was asked for is there all the same
            logger.warning("cannot remember what %s gave (%s): the next call asks again", ref.url, e)

    def _not_cached(self, reason: str) -> NotCached:
        return NotCached(
            url=urls.redact(self.url), base_dir=self.store.base, sha256=None, reason=reason, command="snapshot"
        )


def _git_key(listed: Listing, sha1: str) -> str:
    repository = listed.pinned.rpartition("@")[0]
    return hashlib.sha256(f"git blob of {repository} {sha1}".encode()).hexdigest()
