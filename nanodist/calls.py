"""One call of `fetch` or `fetch_many`: what is asked, what is here already, and how this process alone gets it.

Not what the ranks agree on (`sharing`). Invariants: a call's identity is the same on all ranks that mean the same; a
hit is one stat, and asks no store; on a disk that nodes share no name is looked up that its folder does not list.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nanocache
from nanocache import Artifact, Cache, Progress

from .broadcast import roll_call
from .coordination.coordinator import Coordinator, coordination, joined, may_serve
from .errors import CoordinatorLost
from .rank import has_other_ranks, may_span_nodes

__all__ = ["Call", "FetchMany", "FetchOne", "PathLike", "ProgressOption", "Results", "scope_of"]

logger = logging.getLogger("nanodist")

SCOPES = ("auto", "job", "disk", "broadcast")
REMEMBERED = 1 << 16  # artifacts

PathLike = str | os.PathLike[str]
ProgressOption = bool | Callable[[Progress], object] | None
Results = list[Path | BaseException]  # of a call's artifacts, in their order

_found: set[tuple[PathLike | None, Artifact]] = set()  # what this process found on its disk
_announced: set[tuple[Path, tuple[Artifact, ...]]] = set()  # hits of which the store has been told, or was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked, by all ranks alike, and how the rank that leads gets it."""

    wanted: Sequence[Artifact]
    base_dir: PathLike | None
    scope: str
    offline: bool | None
    progress: ProgressOption
    workers: int | None = None
    return_exceptions: bool = False

    @property
    def identity(self) -> str:
        """What the ranks that mean the same artifacts have in common."""
        from nanocache.peers import meaning  # loads much more of nanocache than a hit needs

        return hashlib.sha256("\n".join(map(meaning, self.wanted)).encode()).hexdigest()

    @property
    def base(self) -> Path:
        return Cache(self.base_dir).base_dir

    @property
    def roll_key(self) -> str:
        return f"cast/{self.identity}"

    @property
    def revalidates(self) -> bool:
        """Whether a file that is here is not yet the answer."""
        return False

    @property
    def broadcasts(self) -> bool:
        """Whether the bytes may go from disk to disk."""
        if self.offline or self.revalidates:
            return False
        return self._spans_disks()

    def _spans_disks(self) -> bool:
        """Whether there may be another disk that wants the bytes."""
        if self.scope == "auto":
            return may_span_nodes()
        return self.scope == "broadcast"

    def hits(self) -> Results:
        """The paths, if all artifacts are here; else nothing."""
        if self.revalidates:
            return []
        paths: Results = []
        for artifact in self.wanted:
            path = self._find(artifact)
            if path is None:
                return []
            paths.append(path)
        self._announce_hit()
        return paths

    def _find(self, artifact: Artifact) -> Path | None:
        """`lookup`, but on a disk that nodes may share no name is looked up that its folder does not list.

        The mount would remember its absence, and hide for up to a minute what the leader publishes on another node.
        Once a file was found, `lookup` alone is asked, which is one stat.
        """
        known = (self.base_dir, artifact)
        if known not in _found and self._shares_disk_with_nodes():
            from nanocache.peers import is_listed

            if not is_listed(artifact, self.base_dir):
                return None
        path = nanocache.lookup(artifact, base_dir=self.base_dir)
        if path is None:
            _found.discard(known)
        elif len(_found) < REMEMBERED:
            _found.add(known)
        return path

    def _shares_disk_with_nodes(self) -> bool:
        """Whether other nodes may publish on this disk."""
        if self.scope == "disk" or not has_other_ranks():
            return False
        return self.scope == "job" or may_span_nodes()

    def _announce_hit(self) -> None:
        """Have the disks that need the artifacts not wait for this disk: one message to the store, once.

        With "auto" only if this process has a store already, or is to serve it: to look for one is more than a hit may
        cost, and what the other disks wait is bounded.
        """
        coordinator = self._listener()
        if coordinator is None:
            return
        known = (self.base, tuple(self.wanted))  # what they mean takes ten times as long to tell as a hit
        if known in _announced or not self._spans_disks():
            return
        if len(_announced) < REMEMBERED:
            _announced.add(known)
        if roll_call.announced(self.roll_key, self.base):
            return
        try:
            roll_call.announce_complete(coordinator, self.roll_key, self.base)
        except CoordinatorLost as e:
            logger.debug("%s", e)

    def _listener(self) -> Coordinator | None:
        coordinator = joined()
        if coordinator is not None or not has_other_ranks() or not self._spans_disks():
            return coordinator
        return coordination() if self.scope == "broadcast" or may_serve() else None

    def alone(self) -> Results:
        """All of them, as this process alone would get them."""
        return self.download(self.wanted)

    def bring(self, coordinator: Coordinator, domain: str) -> Results:
        """The artifacts, on the rank that leads: what other disks can give comes from there."""
        failed = self._broadcast(coordinator, domain)
        if failed and not self.return_exceptions:
            raise failed[min(failed)]
        rest = sorted(set(range(len(self.wanted))) - failed.keys())
        downloaded = self.download([self.wanted[n] for n in rest])
        results = dict(zip(rest, downloaded, strict=True)) | failed
        return [result for _, result in sorted(results.items())]

    def _broadcast(self, coordinator: Coordinator, disk: str) -> dict[int, Exception]:
        """Have what other disks of the job can give; the errors that every rank would get, by number."""
        if not self.broadcasts:
            return {}
        from .broadcast.broadcast import Broadcast  # loads much more of nanocache than a hit needs

        return Broadcast(
            coordinator=coordinator,
            key=self.roll_key,
            disk=disk,
            artifacts=self.wanted,
            base=self.base,
            workers=self.workers,
            return_exceptions=self.return_exceptions,
            progress=self.progress,
        ).bring()

    def download(self, artifacts: Sequence[Artifact]) -> Results:
        """Get `artifacts` as this process alone would."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOne(Call):
    rehash: bool
    max_age: float | None

    @property
    def revalidates(self) -> bool:
        return self.rehash or self.max_age is not None

    def download(self, artifacts: Sequence[Artifact]) -> Results:
        return [
            nanocache.fetch(
                artifact,
                rehash=self.rehash,
                max_age=self.max_age,
                offline=self.offline,
                progress=self.progress,
                base_dir=self.base_dir,
            )
            for artifact in artifacts
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchMany(Call):
    def download(self, artifacts: Sequence[Artifact]) -> Results:
        results: Results = []
        results += nanocache.fetch_many(
            artifacts,
            workers=self.workers,
            return_exceptions=self.return_exceptions,
            progress=self.progress,
            offline=self.offline,
            base_dir=self.base_dir,
        )
        return results


def scope_of(asked: str) -> str:
    """The scope that is meant. Raises ValueError."""
    scope = asked
    if asked == "auto":
        scope = os.environ.get("NANODIST_SCOPE") or "auto"
    if scope not in SCOPES:
        raise ValueError(f"scope (or NANODIST_SCOPE) must be one of {', '.join(SCOPES)}, got {scope!r}")
    return scope
