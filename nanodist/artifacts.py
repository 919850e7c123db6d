"""nanodist.fetch: one rank downloads, and every rank gets the file, or the same error.

    job        one rank of the job downloads; the base directory is shared by all nodes
    disk       the lock on the disk decides which rank downloads, and none asks the store: nanocache.fetch itself
    broadcast  one rank of the job downloads, and sends the bytes to one rank on each other disk (`broadcast`)
    auto       one rank per disk, which find each other by its name (`disk`); and on several nodes, broadcast

The rank that leads calls nanocache.fetch and publishes the path. The other ranks open that path only then.
Invariants: files are the truth and the store only notifies, so a lost store costs coordination, not files; a hit asks
no store; one process without a launcher, and a worker of a DataLoader, do what nanocache.fetch does.
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
FRESH = 60.0  # seconds for which an outcome binds the ranks that call later
ARTIFACTS_PER_OUTCOME = 128  # a path takes some 200 bytes of the outcome

REMEMBERED = 1 << 16  # artifacts

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | None
PathLike = str | os.PathLike[str]
ProgressOption = bool | Callable[[Progress], object] | None
Results = list[Path | BaseException]  # of a call's artifacts, in their order

_found: set[tuple[PathLike | None, Artifact]] = set()  # what this process found on its disk


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

    The ranks need not ask together, and not all of them have to. The first one leads, and its outcome binds the ranks
    that call within a minute. No collective is used, so the download may outlast the process group's time-out, and no
    group needs to be there. A leader that dies is replaced.

    `scope`: "auto" has one rank lead per disk, and if there are several disks, one of these downloads for all. "job":
    one rank for the whole job, where all nodes see one base directory. "broadcast": as "auto", whatever is known of the
    nodes. These are calls of all ranks; a disk that does not call is waited for, at most 2 s. "disk" leaves it to the
    lock and asks no store, which fits where each rank wants other files. NANODIST_SCOPE takes the place of "auto". The
    other arguments are nanocache.fetch's.

    Raises what nanocache.fetch raises, on every rank the same class with the same facts (anything that is no error of
    nanocache as LeaderError), and NotVisible if the file is on another disk than this rank's, or does not show.
    """
    artifact = Artifact.of(
        url, sha256=sha256, filename=filename, mirrors=mirrors, headers=headers, postprocess=postprocess
    )
    call = _FetchOne(
        wanted=[artifact],
        base_dir=base_dir,
        scope=_scope(scope),
        offline=offline,
        progress=progress,
        rehash=rehash,
        max_age=max_age,
    )
    [result] = call.hits() or call.share()
    if isinstance(result, BaseException):
        raise result
    return result


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

    All ranks ask for the same ones, in the same order. If all are here already, no rank is asked. The first error stops
    the rest and is raised on every rank; with `return_exceptions` errors come back in place. `scope` and errors as for
    `fetch`.
    """
    wanted = Artifact.each(artifacts)
    results: list[Any] = []
    for start in range(0, len(wanted), ARTIFACTS_PER_OUTCOME):
        call = _FetchMany(
            wanted=wanted[start : start + ARTIFACTS_PER_OUTCOME],
            base_dir=base_dir,
            scope=_scope(scope),
            offline=offline,
            progress=progress,
            workers=workers,
            return_exceptions=return_exceptions,
        )
        results += call.hits() or call.share()
    return results


def _scope(asked: str) -> str:
    scope = asked
    if asked == "auto":
        scope = os.environ.get("NANODIST_SCOPE") or "auto"
    if scope not in SCOPES:
        raise ValueError(f"scope (or NANODIST_SCOPE) must be one of {', '.join(SCOPES)}, got {scope!r}")
    return scope


# --- one call ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
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
        text = "\n".join(map(_artifact_identity, self.wanted))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

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
            return topology().node_count != 1
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
        if self.scope == "disk" or topology().world_size == 1:
            return False
        return self.scope == "job" or topology().node_count != 1

    def _announce_hit(self) -> None:
        """Have the disks that need the artifacts not wait for this disk: one message to the store, once.

        With "auto" only if this process has a store already: to look for one is more than a hit may cost, and what the
        other disks wait is bounded.
        """
        coordinator = self._listener()
        if coordinator is None or roll_call.announced(self.roll_key, self.base) or not self._spans_disks():
            return
        try:
            roll_call.announce_complete(coordinator, self.roll_key, self.base)
        except CoordinatorLost as e:
            logger.debug("%s", e)

    def _listener(self) -> Coordinator | None:
        coordinator = joined()
        if coordinator is None and self.scope == "broadcast" and topology().world_size > 1:
            return coordination()
        return coordinator

    def download(self, artifacts: Sequence[Artifact]) -> Results:
        """Get `artifacts` as this process alone would."""
        raise NotImplementedError

    def share(self) -> Results:
        """What `download` gives, from one rank where the ranks can agree, else from this one."""
        coordinator = self._coordinator()
        if coordinator is None:
            return self.download(self.wanted)
        try:
            return self._agree(coordinator)
        except CoordinatorLost as e:
            if coordinator.lost is None:  # an error of the download itself, and not of this job's store
                raise
            logger.warning("%s; file locks alone coordinate from here on", e)
        return self.download(self.wanted)

    def _coordinator(self) -> Coordinator | None:
        if self.scope == "disk" or topology().world_size == 1:
            return None
        return coordination()

    def _agree(self, coordinator: Coordinator) -> Results:
        domain = "job" if self.scope == "job" else disk_name(self.base, coordinator.job)
        if domain is None:
            return self.download(self.wanted)
        return _SharedCall(self, coordinator, domain).results()


@dataclass(frozen=True, slots=True, kw_only=True)
class _FetchOne(_Call):
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
class _FetchMany(_Call):
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


def _artifact_identity(artifact: Artifact) -> str:
    """The same on all ranks that mean the same. Never shown: a URL may hold credentials."""
    return repr((artifact.sha256 or artifact.url, artifact.name, _hook_label(artifact.postprocess)))


def _hook_label(hook: object) -> str | None:
    if hook is None:
        return None
    name = getattr(hook, "__qualname__", repr(type(hook)))
    return str(getattr(hook, "key", None) or name)


# --- the ranks that share a disk, or the job --------------------------------------------------------------------------


class _SharedCall:
    """One call of all ranks that have `domain` in common: one leads, the others read what it published."""

    def __init__(self, call: _Call, coordinator: Coordinator, domain: str) -> None:
        self._call = call
        self._base = call.base
        self._coordinator = coordinator
        self._domain = domain  # a disk's name, or "job"

    def results(self) -> Results:
        if self._call.broadcasts:  # each rank, so that the one that leads knows when it has heard of all disks
            roll_call.count_rank(self._coordinator, self._domain)
        verdict = self._decide()
        if self._missing(verdict) is None:
            return self._published(verdict)
        # Published on this very disk, and deleted since, within the minute: once more.
        verdict = self._decide()
        missing = self._missing(verdict)
        if missing is None:
            return self._published(verdict)
        raise _not_visible(missing, verdict, f"it was published twice and did not show within {VISIBLE:g} s")

    def _decide(self) -> Verdict:
        key = f"fetch/{self._domain}/{self._call.identity}"
        return decide(self._coordinator, key, self._lead, fresh=FRESH)

    # the rank that leads

    def _lead(self) -> dict[str, Any]:
        """Get the artifacts, and say where they are."""
        items = [self._item(result) for result in self._get()]
        return {"disk": self._disk(), "items": items}

    def _get(self) -> Results:
        wanted = self._call.wanted
        failed = self._broadcast()
        if failed and not self._call.return_exceptions:
            raise failed[min(failed)]
        rest = sorted(set(range(len(wanted))) - failed.keys())
        downloaded = self._call.download([wanted[n] for n in rest])
        results = dict(zip(rest, downloaded, strict=True)) | failed
        return [result for _, result in sorted(results.items())]

    def _broadcast(self) -> dict[int, Exception]:
        """Have what other disks of the job can give; the errors that every rank would get, by number."""
        if not self._call.broadcasts:
            return {}
        from .broadcast.broadcast import Broadcast  # loads much more of nanocache than a hit needs

        return Broadcast(
            coordinator=self._coordinator,
            key=self._call.roll_key,
            disk=self._domain,
            artifacts=self._call.wanted,
            base=self._base,
            workers=self._call.workers,
            return_exceptions=self._call.return_exceptions,
            progress=self._call.progress,
        ).bring()

    def _item(self, result: Path | BaseException) -> dict[str, Any]:
        if not isinstance(result, BaseException):
            return {"path": os.path.relpath(result, self._base)}
        record = to_record(result, rank=self._coordinator.rank, host=me().host)
        as_it_arrives: dict[str, Any] = json.loads(json.dumps(record))  # facts may be tuples
        return as_it_arrives

    def _disk(self) -> str | None:
        return disk_name(self._base, self._coordinator.job)

    # the others

    def _published(self, verdict: Verdict) -> Results:
        return [self._result(item) for item in verdict.value["items"]]

    def _result(self, item: dict[str, Any]) -> Path | BaseException:
        """What `_item` described."""
        if "path" not in item:
            return from_record(item)
        path: Path = self._base / item["path"]
        return path

    def _missing(self, verdict: Verdict) -> Path | None:
        """The first published file that does not show here. Raises NotVisible if the leader's disk is not ours."""
        if verdict.led:
            return None
        for path in self._published(verdict):
            if isinstance(path, Path) and not self._shows(path, verdict):
                return path
        return None

    def _shows(self, path: Path, verdict: Verdict) -> bool:
        if path.exists():
            return True
        self._check_same_disk(path, verdict)
        from nanocache.peers import forget_absence

        forget_absence(path, self._base)
        leader = verdict.leader.process
        # Two pods of one machine are of one boot, and have mounts of their own.
        same_mounts = leader.here and leader.space == me().space
        return wait_visible(path, self._base, 0.0 if same_mounts else VISIBLE)

    def _check_same_disk(self, path: Path, verdict: Verdict) -> None:
        """Raise NotVisible if the disks' names differ: they tell at once what waiting could only suggest."""
        names = {verdict.value["disk"], self._disk()}
        if len(names - {None}) == 2:
            raise _not_visible(path, verdict, "this is another disk")


def _not_visible(path: Path, verdict: Verdict, reason: str) -> NotVisible:
    return NotVisible(path=str(path), host=me().host, leader_host=verdict.leader.process.host, reason=reason)
