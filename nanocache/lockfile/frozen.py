"""NANOCACHE_FROZEN: nothing is fetched but what nanocache.lock in the current folder has, whichever call asks.

Every request is made here. Invariants: what is not locked is refused before anything is asked or looked for, cached or
not, so that a warm cache hides nothing; what is locked by its URL has the lock file's digest, whatever its server
gives now; a repository is what is locked of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache

from .. import config
from ..artifact import hub, urls
from ..artifact.artifact import Artifact
from ..artifact.request import Request
from ..disk import files
from ..errors import NotLocked
from ..progress import ProgressOption
from . import file
from .file import LOCK_FILE
from .form import MAIN_BRANCH, Locked

__all__ = ["files_of", "request_of"]


def request_of(
    artifact: Artifact,
    *,
    rehash: bool = False,
    max_age: float | None = None,
    offline: bool | None = None,
    progress: ProgressOption = None,
) -> Request:
    """The request for `artifact`; in a frozen process for what is locked of it. Raises ValueError, NotLocked."""
    request = Request.of(artifact, rehash=rehash, max_age=max_age, offline=offline, progress=progress)
    if not config.frozen():
        return request
    digest = _Index.now(artifact.url).digest_of(artifact)
    return replace(request, artifact=replace(artifact, sha256=digest), max_age=None)


def files_of(url: str) -> list[Locked]:
    """What is locked of the repository at `url`, all at one version. Raises NotLocked."""
    index = _Index.now(url)
    shown = urls.redact(url)
    found = [entry for entry in index.entries if _is_of(entry, hub.parse(url, repository=True))]
    if not found:
        raise NotLocked(target=shown, lock=index.path, reason=_REMEDY.format(shown))
    versions = {hub.parse(entry.pinned).at(entry.revision or MAIN_BRANCH, "").url for entry in found}
    if len(versions) > 1 or any(entry.size is None for entry in found):
        reason = f"its files are of {len(versions)} versions, or lack a size: nanocache lock --update them"
        raise NotLocked(target=f"{shown} as a whole", lock=index.path, reason=reason)
    return found


def _is_of(entry: Locked, wanted: hub.HubAddress) -> bool:
    if not entry.url.startswith("hf://"):
        return False
    address = hub.parse(entry.url)
    same = (address.kind, address.repository) == (wanted.kind, wanted.repository)
    return same and (wanted.revision or MAIN_BRANCH) in (address.revision or MAIN_BRANCH, entry.revision)


_REMEDY = "NANOCACHE_FROZEN allows nothing else; to add it: NANOCACHE_FROZEN=0 nanocache lock '{}'"


@dataclass(frozen=True)
class _Index:
    """The lock file of the current folder, by what calls may name."""

    path: str
    entries: tuple[Locked, ...]
    by_url: dict[str, str]  # key of a URL -> digest
    digests: frozenset[str]

    @staticmethod
    def now(asked: str) -> _Index:
        """As it is at this moment. Raises NotLocked if there is none for what is `asked`, and ValueError."""
        path = os.path.abspath(LOCK_FILE)
        stamp = files.stamp(path)
        if stamp is None:
            reason = "there is no such file, and NANOCACHE_FROZEN is set"
            raise NotLocked(target=urls.redact(asked), lock=path, reason=reason)
        return _index(path, stamp)

    def digest_of(self, artifact: Artifact) -> str:
        """The digest that `artifact` must have. Raises NotLocked."""
        locked = self.by_url.get(urls.url_key(artifact.url))
        if artifact.sha256 is not None and artifact.sha256 in self.digests:
            return artifact.sha256
        shown = urls.redact(artifact.url)
        if locked is None:
            raise NotLocked(target=shown, lock=self.path, reason=_REMEDY.format(shown))
        if artifact.sha256 is not None:
            reason = f"with sha256 {artifact.sha256}: it is locked with {locked}"
            raise NotLocked(target=shown, lock=self.path, reason=reason)
        return locked


@lru_cache(maxsize=8)
def _index(path: str, stamp: tuple[int, int]) -> _Index:
    entries = file.read(path)
    by_url = {urls.url_key(url): entry.sha256 for entry in entries for url in (*entry.spellings, *entry.mirrors)}
    return _Index(path, entries, by_url, frozenset(entry.sha256 for entry in entries))
