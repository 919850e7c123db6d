"""Where the bytes of a digest can be had again: what refs and listings remember of it.

Hints: what comes is judged by its digest. Invariants: a URL whose credential was left out on disk is not asked for;
nothing is read before a first question.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ..artifact import hub
from ..artifact.artifact import Artifact
from ..callers import let_pass, suppress
from ..cancel import Cancel
from ..engine import known_files
from ..engine.steps import Fetch
from ..errors import NanocacheError
from ..lockfile.frozen import request_of
from ..retention import walk
from ..retention.alone import alone
from ..sources import listings
from ..sources.protocol import Listing
from ..store.blobs import Store
from .entries import all_refs

__all__ = ["Origins"]

logger = logging.getLogger("nanocache")

LEFT_OUT = "=..."  # what `redact` puts for the value of a query


class Origins:
    """What one store remembers of where its blobs came from."""

    def __init__(self, store: Store, cancel: Cancel) -> None:
        self._store = store
        self._cancel = cancel

    def knows(self, digest: str) -> bool:
        """Whether anything is remembered of it."""
        return digest in self._urls

    def bring(self, digest: str, name: str | None) -> bool:
        """Whether the blob of `digest` is right under `name` (None: any) by now: copied, or downloaded."""
        if not self._store.prepare():
            return False
        if name is not None and self._store.any_intact(digest, "") is not None:
            with alone(self._store, digest) as mine:
                return mine and self._store.copy_name(digest, name, self._cancel) is not None
        return any(self._download(url, digest, name) for url in self._urls.get(digest, ()))

    def _download(self, url: str, digest: str, name: str | None) -> bool:
        try:
            artifact = Artifact(url, sha256=digest, filename=name)
            Fetch(self._store, request_of(artifact, progress=False).of_base_alone(), self._cancel).run()
        except (NanocacheError, ValueError, OSError) as e:  # another URL may have it
            let_pass(e)
            logger.info("%s cannot be had from %s again: %s", digest, url, e)
            return False
        return True

    @cached_property
    def _urls(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for ref in all_refs(self._store):
            found[ref.digest] += [_address(url) for url in (ref.pinned, ref.url) if url and LEFT_OUT not in url]
        for listing in self._listings():
            for file in listing.files:
                if (digest := file.sha256 or known_files.digest_of(self._store, listing, file)) is not None:
                    found[digest].append(listings.url_of(listing, file.path))
        return found

    def _listings(self) -> Iterator[Listing]:
        """The listings of repositories that are here. Any artifact may have their name."""
        for digest, _ in walk.blob_folders(self._store):
            path = self._store.blob(digest, listings.FILENAME)
            if os.path.lexists(path) and self._store.intact(digest, path):
                with suppress(OSError, ValueError, LookupError, TypeError):
                    yield listings.parse(Path(path).read_bytes())


def _address(url: str) -> str:
    """What is fetched for what is shown: of a repository its listing."""
    return listings.artifact(url).url if hub.is_repository(url) else url
