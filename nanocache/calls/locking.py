"""What `nanocache lock` does: have each URL say what it gives now, and put that into the lock file.

Not the file (`lockfile`). Invariants: what is locked is what the server says now, never what happens to be cached; a
digest is that of bytes that came here, or one that the store vouches for; what is locked already changes only when an
update is asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..artifact import hub
from ..artifact.artifact import Artifact
from ..artifact.urls import is_file, redact, url_key
from ..cache import Cache
from ..errors import NotCached, NotLocked, UpstreamChanged
from ..lockfile import file
from ..lockfile.file import LOCK_FILE
from ..lockfile.form import Locked
from ..progress import ProgressOption
from ..sources import listings
from ..sources.protocol import Listing
from ..store import refs

__all__ = ["Locking"]

Entries = tuple[Locked, ...]

_UNKNOWN = "0" * 64  # a digest, until the bytes are here


@dataclass(frozen=True, slots=True)
class Locking:
    """Additions to one lock file. Each call gives what it locked."""

    cache: Cache
    path: str = LOCK_FILE
    progress: ProgressOption = None

    def add(self, urls: Sequence[str], *, name: str | None = None, mirrors: Iterable[str] = ()) -> list[Locked]:
        """Lock `urls`, of repositories all files; all of it or nothing. `name`: of the one URL that there is then.

        Raises UpstreamChanged if one is locked and gives something else now, ValueError for a name that is another's,
        and what `fetch` raises.
        """
        new = [entry for url in urls for entry in self._found(url, name, mirrors)]
        file.change(self.path, lambda entries: _merged(entries, new, self.path))
        return new

    def _found(self, url: str, name: str | None, mirrors: Iterable[str]) -> list[Locked]:
        """What `url` gives now. Without a name, it has the one under which it is locked, or its usual one."""
        found = self._files(url, name) if hub.is_repository(url) else [self._one(Artifact(url, mirrors=mirrors), name)]
        if name is not None:
            return found
        known = {url_key(entry.url): entry.name for entry in self._entries}
        return [replace(entry, name=known.get(url_key(entry.url), entry.name)) for entry in found]

    def update(self, name: str) -> list[Locked]:
        """Lock anew what `name` is, or all in the folder `name`: of a repository, the files that it has now.

        Raises NotLocked, and what `add` raises.
        """
        old = [entry for entry in self._entries if _is_in(entry, name)]
        if not old:
            raise NotLocked(target=name, lock=self.path)
        new = {entry.name: entry for entry in self._again(old, name)}
        gone = {entry.name for entry in old}

        def updated(entries: Entries) -> Entries:
            stay = {entry.name: entry for entry in entries if entry.name not in gone}
            return tuple((stay | new).values())

        file.change(self.path, updated)
        return list(new.values())

    @property
    def _entries(self) -> Entries:
        return file.read(self.path) if os.path.lexists(self.path) else ()

    def _again(self, old: Sequence[Locked], name: str) -> Iterator[Locked]:
        folders = {_repository(entry, name) for entry in old}
        if len(folders) == 1 and (repository := folders.pop()) is not None:
            yield from self._files(repository, name)
            return
        for entry in old:
            yield self._one(Artifact(entry.url, mirrors=entry.mirrors), entry.name)

    # --- one artifact -------------------------------------------------------------------------------------------------

    def _one(self, artifact: Artifact, name: str | None) -> Locked:
        draft = Locked.of(name or _usual_name(artifact), artifact, artifact.sha256 or _UNKNOWN, None)
        began = time.time()
        max_age = None if artifact.sha256 else 0
        path = self.cache.fetch(artifact, max_age=max_age, progress=self.progress)
        ref = None if artifact.sha256 else refs.read(self.cache.store, url_key(artifact.url))
        digest, size = path.parent.name, path.stat().st_size
        if ref is not None and ref.digest == digest and ref.fetched_at < began and not is_file(artifact.url):
            reason = "its server could not be asked what it gives now"
            raise NotCached(url=redact(artifact.url), base_dir=self.cache.store.base, reason=reason, command="lock")
        pinned = artifact.url if ref is None or ref.pinned is None else ref.pinned
        return replace(draft, sha256=digest, size=size, revision=_commit(pinned))

    # --- a repository -------------------------------------------------------------------------------------------------

    def _files(self, url: str, name: str | None) -> list[Locked]:
        listed = self.cache.fetch(listings.artifact(url), max_age=0, progress=False)
        listing = listings.parse(listed.read_bytes())
        listings.learn(url, listing)
        digests = self._digests(listing)
        commit = _commit(listing.pinned)
        asked = hub.parse(url, repository=True)
        folder = name or f"{asked.prefix}{asked.repository}"
        return [
            Locked.of(
                f"{folder}/{one.path}", Artifact(replace(asked, path=one.path).url), digests[one.path], one.size, commit
            )
            for one in listing.files
        ]

    def _digests(self, listing: Listing) -> dict[str, str]:
        """Path -> SHA-256: what the Hub says; of small files, for which it says git's SHA-1, that of their bytes."""
        told = {one.path: one.sha256 for one in listing.files if one.sha256 is not None}
        small = [one for one in listing.files if one.path not in told]
        wanted = [Artifact(listings.url_of(listing, one.path), size=one.size) for one in small]
        paths = self.cache.fetch_many(wanted, progress=self.progress)
        return told | {one.path: path.parent.name for one, path in zip(small, paths, strict=True)}


def _usual_name(artifact: Artifact) -> str:
    if not artifact.url.startswith("hf://"):
        return artifact.name
    address = hub.parse(artifact.url)
    return f"{address.prefix}{address.repository}/{address.path}"


def _commit(pinned: str) -> str | None:
    """The commit of the version that a URL means, if it is a Hub's."""
    is_hub = pinned.startswith("hf://")
    address = hub.parse(pinned, repository=hub.is_repository(pinned)) if is_hub else None
    return address.revision if address is not None and address.is_pinned else None


def _is_in(entry: Locked, name: str) -> bool:
    return entry.name == name or entry.name.startswith(f"{name}/")


def _repository(entry: Locked, folder: str) -> str | None:
    """The repository that `entry` is a file of, if all of that is in `folder`."""
    if not entry.url.startswith("hf://"):
        return None
    address = hub.parse(entry.url)
    return replace(address, path="").url if entry.name == f"{folder}/{address.path}" else None


def _merged(entries: Entries, new: Iterable[Locked], path: str) -> Entries:
    """`entries` and `new`. Raises UpstreamChanged, and ValueError for a name that is another URL's."""
    named = {entry.name: entry for entry in entries}
    for entry in new:
        there = named.setdefault(entry.name, entry)
        if url_key(there.url) != url_key(entry.url):
            raise ValueError(f"{path} has another {entry.name!r}, of {there.url}: give a name with --name")
        if there.sha256 != entry.sha256:
            raise UpstreamChanged(
                name=entry.name,
                lock=path,
                url=redact(entry.url),
                expected=there.sha256,
                got=entry.sha256,
                size=entry.size or 0,
            )
        named[entry.name] = replace(there, size=entry.size, mirrors=entry.mirrors or there.mirrors)
    return tuple(named.values())
