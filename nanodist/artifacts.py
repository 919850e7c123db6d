"""nanodist.fetch: one rank downloads, and every rank gets the file, or the same error.

    job        one rank of the job downloads; the base directory is shared by all nodes
    disk       the lock on the disk decides who downloads, and no rank asks the store: nanocache.fetch itself
    broadcast  one rank of the job downloads, and sends the bytes to one rank on each other disk (`broadcast`)
    auto       one rank per disk, which find each other by its name (`disk`); and on several nodes, broadcast

The rank that acts calls `nanocache.fetch`; what it publishes is its path, and the others open that name only then.
Invariants: files are the truth and the store only notifies, so a lost store costs coordination, not files; a hit asks
no store; one process without a launcher, and a worker of a DataLoader, are nanocache.fetch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nanocache
from nanocache import Artifact, Cache, Progress
from nanocache.coordination.process import me

from .broadcast import roll_call
from .coordination.coordinator import Coordinator, coordination, joined
from .coordination.election import Verdict, decide
from .errors import CoordinatorLost, NotVisible, from_record, to_record
from .rank import topology
from .shared_disk import VISIBLE, disk_name, wait_visible

__all__ = ["fetch", "fetch_many"]

logger = logging.getLogger("nanodist")

SCOPES = ("auto", "job", "disk", "broadcast")
FRESH = 60.0  # seconds for which an outcome binds those who come later
CHUNK = 128  # artifacts that one outcome speaks of: a path takes some 200 bytes of it

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | None
PathLike = str | os.PathLike[str]
ProgressOption = bool | Callable[[Progress], object] | None
Got = list[Path | BaseException]  # what fetch_many gives for its artifacts, in their order
Act = Callable[[Sequence[Artifact]], Got]


def fetch(
    url: object,
    *,
    sha256: str | None = None,
    filename: str | None = None,
    mirrors: Iterable[object] = (),
    headers: Headers = None,
    postprocess: Callable[[Path, Path], Any] | None = None,
    rehash: bool = False,
    max_age: float | None = None,
    offline: bool | None = None,
    progress: ProgressOption = None,
    base_dir: PathLike | None = None,
    scope: str = "auto",
) -> Path:
    """The path of the artifact at `url`, as `nanocache.fetch` promises it, for all ranks that ask, from one download.

    The ranks need not ask together, nor all of them: whoever comes first acts, and who comes within a minute of the
    outcome is bound by it. No collective is used, so the download may outlast the process group's time-out, and no
    group needs to be there. A leader that dies is replaced.

    `scope`: "auto" has one rank act per disk, and if there are several disks, one of these download for all. "job": one
    rank for the whole job, where all nodes see one base directory. "broadcast": as "auto", whatever is known of the
    nodes. These are calls of all ranks; a disk that does not call is waited for, at most 2 s. "disk" leaves it to the
    lock and asks no store, which is the right one where each rank wants other files. NANODIST_SCOPE takes the place of
    "auto". The other arguments are nanocache.fetch's.

    Raises what nanocache.fetch raises, on every rank the same class with the same facts (anything that is no error of
    nanocache as LeaderError), and NotVisible if the file is on another disk than this rank's, or does not show.
    """
    artifact = _artifact(url, sha256, filename, mirrors, headers, postprocess)
    call = _Call([artifact], Cache(base_dir).base_dir, _scope(scope), None, False, progress)
    anew = rehash or max_age is not None
    if not anew and (hit := nanocache.lookup(artifact, base_dir=base_dir)) is not None:
        call.say_have()
        return hit

    def act(artifacts: Sequence[Artifact]) -> Got:
        return [
            nanocache.fetch(one, rehash=rehash, max_age=max_age, offline=offline, progress=progress, base_dir=base_dir)
            for one in artifacts
        ]

    [path] = call.share(act, castable=not (anew or offline))
    if isinstance(path, BaseException):
        raise path
    return path


def fetch_many(
    artifacts: Iterable[object],
    *,
    workers: int | None = None,
    return_exceptions: bool = False,
    progress: ProgressOption = None,
    offline: bool | None = None,
    base_dir: PathLike | None = None,
    scope: str = "auto",
) -> list[Path]:
    """The paths of all `artifacts` (URLs or Artifacts), in their order, as `nanocache.fetch_many`, for all ranks.

    All ranks ask for the same ones, in the same order; what is here already asks nobody. The first error stops the
    rest and is raised on every rank; with `return_exceptions` errors come back in place. `scope` and errors as for
    `fetch`.
    """
    wanted = [item if isinstance(item, Artifact) else Artifact(item) for item in artifacts]
    found: list[Any] = []
    for chunk in (wanted[n : n + CHUNK] for n in range(0, len(wanted), CHUNK)):
        call = _Call(chunk, Cache(base_dir).base_dir, _scope(scope), workers, return_exceptions, progress)
        hits = [nanocache.lookup(artifact, base_dir=base_dir) for artifact in chunk]
        if all(hits):
            call.say_have()
            found += hits
            continue

        def act(artifacts: Sequence[Artifact]) -> Got:
            paths: Got = []
            paths += nanocache.fetch_many(
                artifacts,
                workers=workers,
                return_exceptions=return_exceptions,
                progress=progress,
                offline=offline,
                base_dir=base_dir,
            )
            return paths

        found += call.share(act, castable=not offline)
    return found


def _artifact(
    url: object,
    sha256: str | None,
    filename: str | None,
    mirrors: Iterable[object],
    headers: Headers,
    postprocess: Callable[[Path, Path], Any] | None,
) -> Artifact:
    if not isinstance(url, Artifact):
        return Artifact(
            url, sha256=sha256, filename=filename, mirrors=mirrors, headers=headers, postprocess=postprocess
        )
    if any(value is not None for value in (sha256, filename, headers, postprocess)) or tuple(mirrors):
        raise ValueError("an Artifact already says sha256, filename, mirrors, headers and postprocess: give them there")
    return url


def _scope(asked: str) -> str:
    scope = os.environ.get("NANODIST_SCOPE") or asked if asked == "auto" else asked
    if scope not in SCOPES:
        raise ValueError(f"scope (or NANODIST_SCOPE) must be one of {', '.join(SCOPES)}, got {scope!r}")
    return scope


@dataclass(frozen=True, slots=True)
class _Call:
    """What is asked, by all ranks alike."""

    wanted: Sequence[Artifact]
    base: Path
    scope: str
    workers: int | None
    return_exceptions: bool
    progress: ProgressOption

    @property
    def identity(self) -> str:
        return hashlib.sha256("\n".join(map(_identity, self.wanted)).encode("utf-8", "surrogateescape")).hexdigest()

    def share(self, act: Act, *, castable: bool) -> Got:
        """What `act` gives, done by one rank where ranks can agree, else by this one."""
        if self.scope == "disk" or topology().world_size == 1 or (at := coordination()) is None:
            return act(self.wanted)
        try:
            domain = "job" if self.scope == "job" else disk_name(self.base, at.job)
            if domain is None:
                return act(self.wanted)
            castable = castable and self._casts()
            if castable:
                roll_call.count_rank(
                    at, domain
                )  # each rank, so that whoever acts knows when all disks have been heard of
            shared = _Shared(at, lambda: self._act(at, domain, act, castable=castable), self.base)
            return shared.get(f"fetch/{domain}/{self.identity}")
        except CoordinatorLost as e:
            if at.lost is None:  # not our store's: the act's own error
                raise
            logger.warning("%s; file locks alone coordinate from here on", e)
            return act(self.wanted)

    def _act(self, at: Coordinator, disk: str, act: Act, *, castable: bool) -> Got:
        if not castable:
            return act(self.wanted)
        from .broadcast.broadcast import Broadcast  # loads much more of nanocache than a hit needs

        cast = Broadcast(
            at, self._cast_key, disk, self.wanted, self.base, self.workers, self.return_exceptions, self.progress
        )
        return cast.get(act)

    @property
    def _cast_key(self) -> str:
        return f"cast/{self.identity}"

    def _casts(self) -> bool:
        """Whether there may be another disk that wants the bytes."""
        return self.scope == "broadcast" or (self.scope == "auto" and topology().node_count != 1)

    def say_have(self) -> None:
        """After a hit: have those who need it not wait for this disk. One word, once.

        With "auto" only if this process has a store to say it in already: to look for one is more than a hit may cost,
        and what the others wait is bounded.
        """
        at = joined()
        if at is None and self.scope == "broadcast" and topology().world_size > 1:
            at = coordination()
        if at is None or roll_call.announced(self._cast_key, self.base) or not self._casts():
            return
        try:
            roll_call.announce_complete(at, self._cast_key, self.base)
        except CoordinatorLost as e:
            logger.debug("%s", e)


class _Shared:
    """One act for all ranks that have a disk, or a job, in common."""

    def __init__(self, at: Coordinator, act: Callable[[], Got], base: Path) -> None:
        self._at, self._act, self._base = at, act, base

    def get(self, key: str) -> Got:
        for _ in range(2):
            verdict = decide(self._at, key, self._lead, fresh=FRESH)
            if (gone := self._gone(verdict)) is None:
                return self._read(verdict)
            # Published, on our own disk, and no longer there: somebody deleted it within the minute. Once more.
            error = self._not_visible(gone, verdict, f"it was published twice and did not show within {VISIBLE:g} s")
        raise error

    def _lead(self) -> dict[str, Any]:
        items = []
        for result in self._act():
            if isinstance(result, BaseException):
                record = to_record(result, rank=self._at.rank, host=me().host)
                items.append(json.loads(json.dumps(record)))  # facts may be tuples
            else:
                items.append({"path": os.path.relpath(result, self._base)})
        return {"disk": disk_name(self._base, self._at.job), "items": items}

    def _read(self, verdict: Verdict) -> Got:
        return [self._base / item["path"] if "path" in item else from_record(item) for item in verdict.value["items"]]

    def _gone(self, verdict: Verdict) -> Path | None:
        """The first of the leader's files that is not here. Raises NotVisible if its disk is not ours."""
        if verdict.led:
            return None
        patience = 0.0 if verdict.leader.who.here else VISIBLE
        for path in self._read(verdict):
            if isinstance(path, Path) and not path.exists():
                # The names tell at once what waiting could only suggest.
                theirs, ours = verdict.value["disk"], disk_name(self._base, self._at.job)
                if None not in (theirs, ours) and theirs != ours:
                    raise self._not_visible(path, verdict, "this is another disk")
                if not wait_visible(path, self._base, patience):
                    return path
        return None

    def _not_visible(self, path: Path, verdict: Verdict, reason: str) -> NotVisible:
        return NotVisible(path=str(path), host=me().host, leader_host=verdict.leader.who.host, reason=reason)


def _identity(artifact: Artifact) -> str:
    """What all ranks say alike when they mean the same. Never shown: a URL may hold credentials."""
    hook = artifact.postprocess
    label = hook and (getattr(hook, "key", None) or getattr(hook, "__qualname__", repr(type(hook))))
    return repr((artifact.sha256 or artifact.url, artifact.name, label))
