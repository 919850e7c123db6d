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

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nanocache
from nanocache import Artifact

from .calls import FetchMany, FetchOne, PathLike, ProgressOption, scope_of
from .sharing import share

__all__ = ["fetch", "fetch_many", "snapshot"]

ARTIFACTS_PER_OUTCOME = 128  # a path takes some 200 bytes of the outcome

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | None


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
    into: PathLike | None = None,
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
    lock and asks no store, which fits where each rank wants other files. NANODIST_SCOPE takes the place of "auto".
    `into`: a folder that this rank can write. The other arguments are nanocache.fetch's.

    Raises what nanocache.fetch raises, on every rank the same class with the same facts (anything that is no error of
    nanocache as LeaderError), and NotVisible if the file is on another disk than this rank's, or does not show.
    """
    artifact = Artifact.of(
        url, sha256=sha256, filename=filename, mirrors=mirrors, headers=headers, postprocess=postprocess
    )
    call = FetchOne(
        wanted=[artifact],
        base_dir=base_dir,
        scope=scope_of(scope),
        offline=offline,
        progress=progress,
        rehash=rehash,
        max_age=max_age,
    )
    [result] = call.hits() or share(call)
    if isinstance(result, BaseException):
        raise result
    return result if into is None else nanocache.fetch(artifact, into=into, base_dir=base_dir)


def fetch_many(
    artifacts: Iterable[object],
    *,
    workers: int | None = None,
    return_exceptions: bool = False,
    progress: ProgressOption = None,
    offline: bool | None = None,
    into: PathLike | None = None,
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
        call = FetchMany(
            wanted=wanted[start : start + ARTIFACTS_PER_OUTCOME],
            base_dir=base_dir,
            scope=scope_of(scope),
            offline=offline,
            progress=progress,
            workers=workers,
            return_exceptions=return_exceptions,
        )
        results += call.hits() or share(call)
    return results if into is None else [_placed(*pair, into, base_dir) for pair in zip(wanted, results, strict=True)]


def _placed(artifact: Artifact, result: Any, into: PathLike, base_dir: PathLike | None) -> Any:
    return nanocache.fetch(artifact, into=into, base_dir=base_dir) if isinstance(result, Path) else result


def snapshot(
    url: str,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    max_age: float | None = None,
    offline: bool | None = None,
    progress: ProgressOption = None,
    into: PathLike | None = None,
    base_dir: PathLike | None = None,
    scope: str = "auto",
) -> Path:
    """The folder with all files of the repository at `url`, as `nanocache.snapshot` promises it, for all ranks.

    One rank asks for the listing, so that all have the same commit; one downloads the files for its disk, or for all
    disks; each disk makes its own folder. `scope` and errors as for `fetch`.
    """
    from nanocache.peers import snapshot_by  # loads much more of nanocache than a hit of `fetch` needs

    asked = scope_of(scope)
    folder = snapshot_by(
        partial(fetch, max_age=max_age, offline=offline, progress=False, base_dir=base_dir, scope=asked),
        partial(fetch_many, offline=offline, progress=progress, base_dir=base_dir, scope=asked),
        url,
        include=include,
        exclude=exclude,
        max_age=max_age,
        offline=offline,
        base_dir=base_dir,
    )
    if into is None:
        return folder
    return nanocache.snapshot(url, include=include, exclude=exclude, offline=offline, into=into, base_dir=base_dir)
