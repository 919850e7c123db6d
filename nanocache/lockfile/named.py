"""Artifacts by the names that a lock file gives them: a mapping, and nothing is fetched.

Invariant: it is what the file was when it was read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ..artifact.artifact import Artifact
from ..errors import NotLocked
from . import file
from .form import Locked

__all__ = ["NamedArtifacts", "names_lock_file"]

ENDINGS = (".lock", ".toml")  # of lock files


def names_lock_file(target: object) -> bool:
    """Whether `target` is the path of a lock file, as far as its name tells."""
    return isinstance(target, str | os.PathLike) and "://" not in str(target) and str(target).endswith(ENDINGS)


class NamedArtifacts(Mapping[str, Artifact]):
    """name -> Artifact. `entries`: of a file of our own form."""

    def __init__(self, path: str, artifacts: Mapping[str, Artifact], entries: tuple[Locked, ...] = ()) -> None:
        self.path = path
        self._artifacts = dict(artifacts)
        self._entries = {entry.name: entry for entry in entries}

    @classmethod
    def read(cls, path: str) -> NamedArtifacts:
        """Those of the lock file at `path`. Raises OSError, and ValueError that says where."""
        entries = file.read(path)
        return cls(path, {entry.name: entry.artifact for entry in entries}, entries)

    def __getitem__(self, name: str) -> Artifact:
        try:
            return self._artifacts[name]
        except KeyError:
            raise NotLocked(target=str(name), lock=self.path) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._artifacts)

    def __len__(self) -> int:
        return len(self._artifacts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}: {len(self):,} artifacts)"

    def urls(self, name: str) -> tuple[str, ...]:
        """The URLs that mean the artifact called `name`; of a Hub, the branch's and the commit's."""
        entry = self._entries.get(name)
        return (self[name].url,) if entry is None else entry.spellings
