"""The calls of a Cache on several artifacts at once: many, a repository, a bundle.

Not how they are fetched (`engine`), and no state: `Cache` has it. Invariant: each artifact is fetched as `Cache.fetch`
fetches one, so that it is shared, remembered and told of alike.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact import arguments, urls
from ..artifact.artifact import Artifact
from ..callers import callers_errors
from ..cancel import Cancel, ambient
from ..events import Hit
from ..lockfile.frozen import request_of
from ..progress import ProgressOption
from ..store.blobs import Store
from ..upkeep.calls import Upkeep
from .answers import fetched
from .asked import key_of

if TYPE_CHECKING:
    from ..bundle.loading import Loaded
    from ..engine.many import FetchOne
    from ..engine.placing import CallersFolder

__all__ = ["PathLike", "Several"]

PathLike = str | os.PathLike[str]


class Several(Upkeep):
    """The part of `Cache` that takes more than one artifact."""

    if TYPE_CHECKING:
        fetch: Any  # of `Cache`

    def fetch_many(
        self,
        artifacts: Iterable[object] | Mapping[Any, str],
        *,
        workers: int | None = None,
        return_exceptions: bool = False,
        progress: ProgressOption = None,
        offline: bool | None = None,
        into: PathLike | None = None,
    ) -> list[Path]:
        """The paths of all `artifacts` (URLs or Artifacts), in their order, fetched by up to `workers` threads.

        A mapping gives each URL its digest. The first error stops the rest and is raised; with `return_exceptions`
        errors come back in place. One bar for the set. `workers` defaults to the connections that one host may get.
        `into` as for `fetch`; two artifacts of one name are a ValueError.
        Raises what `fetch` raises.
        """
        from ..engine import many  # here, with concurrent.futures: most callers fetch one at a time

        checked = Artifact.each(artifacts)
        arguments.option("offline", offline)
        fetch: many.FetchOne = partial(self._fetch_one, self.store, offline)
        if into is not None:
            folder = self._folder(into)
            folder.check(checked)
            fetch = partial(_bring_one, folder, fetch)
        with callers_errors():
            return many.fetch(checked, fetch, workers=workers, return_exceptions=return_exceptions, progress=progress)

    def _fetch_one(
        self, store: Store, offline: bool | None, artifact: Artifact, cancel: Cancel, progress: ProgressOption
    ) -> Path:
        asked = key_of(artifact, None, None, (), None, None)
        if asked is not None and (path := store.hits.recall(asked)) is not None:
            store.counts.hits += 1
            return path if self._listener is None else self._told(store, asked, artifact, path)
        request = request_of(artifact, offline=offline, progress=progress)
        return fetched(store, request, asked, cancel, listener=self._listener)

    def snapshot(
        self,
        url: str,
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        max_age: float | None = None,
        offline: bool | None = None,
        progress: ProgressOption = None,
        into: PathLike | None = None,
    ) -> Path:
        """The folder with all files of the repository at `url`, at one version, complete and verified.

        `url`: hf://[datasets/|spaces/]OWNER/NAME[@REVISION]. Without a commit the first call's is remembered; `max_age`
        seconds later the branch is asked again, and only what changed is downloaded. `include` and `exclude`: patterns
        of paths, in which * also takes slashes. The files are read-only hard links to what is cached, so that two
        versions share what they have in common. A hit is a few stats: a name that came or went is noticed, and a
        write to one of the largest files; the folder is then made whole in place. One bar for all. `into`: a folder of
        yours in which each file appears, as `fetch` does it, and which is returned; what else lies there stays.

        Raises what `fetch_many` raises, and UnsafeArchive for a listing with a path that leads elsewhere.
        """
        from ..engine.snapshots import Snapshot  # here: most callers take none

        arguments.progress(progress)
        fetch_listing = partial(self.fetch, max_age=max_age, offline=offline, progress=False)
        fetch_files = partial(self.fetch_many, offline=offline, progress=progress)
        request = Snapshot.of(
            self.store,
            url,
            include=include,
            exclude=exclude,
            max_age=max_age,
            offline=offline,
            fetch_listing=fetch_listing,
            fetch_files=fetch_files,
        )
        folder = None if into is None else self._folder(into)
        with callers_errors():
            return request.run() if folder is None else folder.bring_tree(request.run, ambient())

    def export(
        self,
        lock_or_targets: object,
        path: PathLike,
        *,
        split: int | str | None = None,
        progress: ProgressOption = None,
    ) -> list[Path]:
        """Write what a lock file or targets mean into one tar at `path`, for a machine without a network; its files.

        `lock_or_targets`: a lock file (what `open_lock` gives, or its path), a target as for `info`, or several.
        What of artifacts and URLs is missing is fetched; of a repository, what its snapshots need is carried. The
        bundle's bytes depend on the targets and their contents alone. `split`: bytes, or `"4GB"`, of each of the parts
        PATH.000, PATH.001 and so on. What hooks built is not carried: it is built again.

        Raises ValueError, NotCached, ChecksumMismatch, NoSpace, OSError, and what `fetch` raises.
        """
        from .bundles import export

        fetch = partial(self.fetch_many, progress=progress)
        return export(self.store, fetch, lock_or_targets, path, split=split, progress=progress)

    def load(self, path: PathLike, *, progress: ProgressOption = None) -> Loaded:
        """Bring in the bundle at `path`, or its parts: what it holds is cached then, and its URLs are hits.

        What is here already is skipped, so that an import that was interrupted goes on. Each artifact is verified. The
        first wrong one ends it and is named, and what came before it stays.

        Raises UnsafeArchive for anything but a whole bundle, and nothing was written then; DamagedBundle, NoSpace,
        UnsafeCache, OSError.
        """
        from .bundles import load

        return load(self.store, path, progress=progress)

    def _told(self, store: Store, asked: Hashable, url: object, path: Path) -> Path:
        """The path of a hit, once the listener was told of it."""
        if self._listener is not None:
            shown = urls.redact(url.url if isinstance(url, Artifact) else str(url))
            self._listener(Hit(shown, store.hits.digest(asked), str(path)))
        return path

    def _folder(self, into: PathLike) -> CallersFolder:
        from ..engine.placing import CallersFolder  # here: most callers have none

        return CallersFolder.of(self.store, into)


def _bring_one(
    folder: CallersFolder, fetch: FetchOne, artifact: Artifact, cancel: Cancel, progress: ProgressOption
) -> Path:
    again = partial(fetch, artifact, cancel, progress)
    return folder.bring(again(), artifact, again, cancel)
