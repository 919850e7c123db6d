"""A lock file in the caller's hand: its artifacts by name, fetched with the digests that it has.

Not its form (`lockfile`), and not how artifacts get into it (`locking`). Invariants: whatever a server gives now, what
is returned has the locked digest; only `sync` writes the file, and only what it lacked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .. import config
from ..artifact import arguments, filenames
from ..artifact.artifact import Artifact
from ..cache import Cache, PathLike
from ..errors import ChecksumMismatch, UpstreamChanged
from ..lockfile import file, form, signing
from ..lockfile.file import LOCK_FILE
from ..lockfile.form import Locked
from ..lockfile.named import NamedArtifacts, names_lock_file
from ..progress import ProgressOption
from .registries import registry

__all__ = ["LockFile", "open_lock"]


def open_lock(
    path: PathLike = LOCK_FILE,
    *,
    base_url: str | None = None,
    require_signature: PathLike | None = None,
    base_dir: PathLike | None = None,
) -> LockFile:
    """The artifacts of the lock file at `path` by their names: `open_lock("nanocache.lock").fetch("weights")`.

    Lists of digests that others publish are taken as well, as by `registry`, whose `base_url` this is.
    `require_signature`: the public key that must have signed the lock file (see `nanocache lock --sign`).
    Raises ValueError that names the file and the line, NotSigned, FileNotFoundError, and of a
    registry's URL what `fetch` raises.
    """
    is_url = isinstance(path, str) and "://" in path
    place = str(path) if is_url else config.expand(path, "path")
    if is_url or not _is_lock_file(place):
        if require_signature is not None:
            raise ValueError(f"{place} is a list of digests, and only a lock file is signed: leave the key out")
        return LockFile(place, registry(place, base_url=base_url, base_dir=base_dir), Cache(base_dir))
    text = file.read_text(place)
    if require_signature is not None:
        signing.check(place, text.encode(), config.expand(require_signature, "require_signature"))
    entries = file.parse(place, text)
    artifacts = {entry.name: entry.artifact for entry in entries}
    return LockFile(place, artifacts, Cache(base_dir), entries, text=text if require_signature is None else None)


def _is_lock_file(path: str) -> bool:
    return names_lock_file(path) or "[[artifact]]" in file.read_text(path)


class LockFile(NamedArtifacts):
    """What `open_lock` gives: a mapping from names to Artifacts, as the file was when it was opened."""

    def __init__(
        self,
        path: str,
        artifacts: Mapping[str, Artifact],
        cache: Cache,
        entries: tuple[Locked, ...] = (),
        *,
        text: str | None = None,
    ) -> None:
        super().__init__(path, artifacts, entries)
        self._cache = cache
        self._text = text  # that `sync` may put into its usual form; None: it stays as it is

    def fetch(
        self,
        name: str,
        *,
        into: PathLike | None = None,
        offline: bool | None = None,
        progress: ProgressOption = None,
    ) -> Path:
        """The path of the artifact called `name`. `into`: a folder of yours, in which it appears under its name.

        Raises NotLocked, UpstreamChanged, and what else `fetch` raises.
        """
        artifact = self[name]
        with self._blaming_upstream():
            path = self._cache.fetch(artifact, offline=offline, progress=progress)
            return path if into is None else self._place(into, name)

    def sync(
        self,
        *,
        frozen: bool = False,
        into: PathLike | None = None,
        workers: int | None = None,
        offline: bool | None = None,
        progress: ProgressOption = None,
    ) -> dict[str, Path]:
        """Have all of them here, name -> path, by up to `workers` threads. `into`: a folder in which all appear.

        A lock file that was merged or written by hand is put into its usual form, and gets the sizes that it lacks;
        with `frozen`, or a signature, it stays as it is. Raises UpstreamChanged, ValueError, and what else `fetch_many`
        raises.
        """
        arguments.flag("frozen", frozen)
        if into is not None:
            form.check_apart(map(form.check_name, self))
        with self._blaming_upstream():
            found = self._cache.fetch_many(list(self.values()), workers=workers, offline=offline, progress=progress)
            paths = dict(zip(self, found, strict=True))
            if self._text is not None and not frozen:
                self._complete(paths)
            return paths if into is None else {name: self._place(into, name) for name in self}

    def _place(self, into: PathLike, name: str) -> Path:
        """The artifact, which is here, in a folder of the caller's."""
        folder, _, last = form.check_name(name).rpartition("/")
        artifact = replace(self[name], filename=filenames.check(last))
        return self._cache.fetch(artifact, into=os.path.join(config.expand(into, "into"), folder), progress=False)

    def _complete(self, paths: Mapping[str, Path]) -> None:
        """Have the file say what it lacked, unless another process has changed an artifact meanwhile."""

        def complete(entry: Locked) -> Locked:
            same = self._entries.get(entry.name) == entry
            return replace(entry, size=paths[entry.name].stat().st_size) if same else entry

        def completed(entries: Iterable[Locked]) -> tuple[Locked, ...]:
            return tuple(map(complete, entries))

        if form.render(completed(self._entries.values())) != self._text:  # so that a read-only one is no obstacle
            file.change(self.path, completed)

    @contextmanager
    def _blaming_upstream(self) -> Iterator[None]:
        """Other bytes than the locked ones are a change of what the URL gives."""
        try:
            yield
        except UpstreamChanged:
            raise
        except ChecksumMismatch as e:
            name = next((name for name, one in self.items() if one.sha256 == e.expected), e.url)
            raise UpstreamChanged(
                name=name, lock=self.path, url=e.url, expected=e.expected, got=e.got, size=e.size
            ) from e
