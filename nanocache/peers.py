"""A blob that comes from a peer and not from a server: whether it is here, what the peer says, how its bytes get in.

    meaning         what all processes call the artifact
    is_listed       whether the artifact is here, without a look at its name before there is one
    describe_blob   on the peer that has the artifact: digest, size, and what its URL gave
    receive_blob    takes the bytes in order, and publishes them once what lies on disk has the digest

How bytes travel is the caller's business. Invariants: they come in by the store's own door (private partial, hash of
what landed, fsync, seal, rename), under the lock of the key, so that other processes of this machine wait for them;
this process does not wait for that lock, since a peer waits for it meanwhile, and two jobs could wait for each other
for ever; a peer's fault says nothing about the artifact, so no waiter adopts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .artifact import digest as digests
from .artifact.artifact import Artifact
from .artifact.request import Request
from .cache import Cache, PathLike
from .callers import callers_errors
from .cancel import Cancel
from .coordination.holder import HolderWriter
from .coordination.waiting import WaitOptions, hold_lock
from .disk import faults
from .disk.absence import listed
from .disk.hashing import FileHasher
from .download.filling import held_back as filling_later
from .download.turn import Turn
from .engine.finding import find_in_tiers
from .engine.remembered import Remembered
from .engine.room import room_for
from .engine.snapshots import FetchFiles, FetchListing, Snapshot
from .engine.steps import Fetch
from .engine.window import FetchShard
from .lockfile.frozen import request_of
from .progress import Display, ProgressOption
from .store import partials, refs, tiers
from .store.blobs import Store
from .store.layout import lock_key
from .store.partials import Abandoned, Partial
from .store.refs import Ref

__all__ = [
    "filling_later",
    "BlobInfo",
    "BlobRefused",
    "FetchShard",
    "IncomingBlob",
    "Turn",
    "describe_blob",
    "forget_absence",
    "is_listed",
    "meaning",
    "receive_blob",
    "snapshot_by",
]


class BlobRefused(Exception):
    """The peer sent something else than it promised, and nothing was published. Download the artifact instead."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a peer says of a blob that it has."""

    digest: str
    size: int
    ref: Ref | None  # what the URL gave, for an artifact without a digest

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> BlobInfo:
        """Raises BlobRefused if it is no such record."""
        try:
            ref = record["ref"]
            info = cls(digests.parse(record["digest"]), int(record["size"]), None if ref is None else Ref(**ref))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise BlobRefused(f"not the record of a blob: {e!r}") from None
        if info.size < 0:
            raise BlobRefused(f"not the record of a blob: a size of {info.size} bytes")
        return info


def meaning(artifact: Artifact) -> str:
    """What all processes call what `artifact` gives: its content, its name and its hook, and no credential of it.

    The content is its digest, or the key of its URL and of the headers that choose. Raises ValueError.
    """
    request = request_of(artifact, progress=False)
    content = request.artifact.sha256 or request.url_key
    return repr((content, request.name, None if request.hook is None else request.hook.key))


def is_listed(artifact: Artifact, base_dir: PathLike | None) -> bool:
    """Whether folders on a disk that several hosts share list the artifact, so that a `lookup` may find it.

    A look at a name that is absent would be remembered by NFS and FUSE clients, for up to a minute in which another
    host may publish it. A listing is not. In a read-only cache no host of this job publishes.
    """
    store = Cache(base_dir).store
    request = request_of(artifact, progress=False)
    return _is_listed(store, request) or find_in_tiers(store, request) is not None


def _is_listed(store: Store, request: Request) -> bool:
    if request.artifact.sha256 is None and not listed(store.ref(request.url_key), below=store.base):
        return False
    digest = Remembered(store, request).known()
    if digest is None:
        return False
    if request.hook is not None:
        product = store.product(digest, request.hook.key, request.hook.product_name(request.name))
        return listed(product, below=store.base)
    folder = store.blob_folder(digest)
    return listed(folder, below=store.base) and bool(store.names(digest))


def forget_absence(path: Path, base: Path) -> None:
    """Have the mount ask anew for `path`, which another host says it has published under `base`."""
    Cache(base).store.look_again(str(path))


def describe_blob(artifact: Artifact, base_dir: PathLike) -> tuple[Path, BlobInfo] | None:
    """Where the artifact's blob lies here, and what a peer must know of it; None if it is not here."""
    store = Cache(base_dir).store
    request = _request(artifact, False)
    with callers_errors():
        found = Fetch(store, request).find()
    if found is None:
        return None
    ref = None if request.artifact.sha256 is not None else _ref(store, request)
    return found.path, BlobInfo(found.digest, os.stat(found.path).st_size, ref)


def _ref(store: Store, request: Request) -> Ref | None:
    def read(holder: Store) -> Ref | None:
        return refs.read(holder, request.url_key)

    return read(store) or tiers.first(request.settings.readonly_dirs, read, beside=store.base)


def _request(artifact: Artifact, progress: ProgressOption) -> Request:
    return request_of(replace(artifact, postprocess=None), progress=progress)


def snapshot_by(
    fetch_listing: FetchListing,
    fetch_files: FetchFiles,
    url: str,
    *,
    include: str | Iterable[str],
    exclude: str | Iterable[str],
    max_age: float | None,
    offline: bool | None,
    base_dir: PathLike | None,
) -> Path:
    """`Cache.snapshot`, whose listing and files the caller's functions bring into the base directory."""
    question = Snapshot.of(
        Cache(base_dir).store,
        url,
        include=include,
        exclude=exclude,
        max_age=max_age,
        offline=offline,
        fetch_listing=fetch_listing,
        fetch_files=fetch_files,
    )
    return question.run()


@contextmanager
def receive_blob(
    artifact: Artifact, promised: BlobInfo, base_dir: PathLike, *, progress: ProgressOption = None
) -> Iterator[IncomingBlob]:
    """A place for the bytes of `artifact`; without `publish` in the block nothing is kept of them.

    Raises BlobRefused if another digest was asked for, LockTimeout at once if another process is at the same artifact,
    NoSpace, UnsafeCache, and OSError where the disk fails or may not be written.
    """
    store = Cache(base_dir).store
    request = _request(artifact, progress)
    _check(store, request, promised)
    key = lock_key(request.artifact.sha256, request.url_key)
    at_once = WaitOptions(lambda: False, request.identity, Cancel(), 0.0, lambda *_: None)
    with (
        callers_errors(),
        hold_lock(store.lock_place(key), at_once) as holding,
        partials.create(store, key, room_for(store, request.settings, Cancel())) as partial,
        closing(Display(request.progress, request.name)) as display,
    ):
        try:
            partial.expect(promised.size)
            yield IncomingBlob(store, request, promised, partial, holding, display)
        except Abandoned:
            raise BlobRefused("this process was stopped for so long that its partial may be another's") from None


def _check(store: Store, request: Request, promised: BlobInfo) -> None:
    """Whether the blob is the one that was asked for, and can be written here."""
    asked = request.artifact.sha256
    if asked not in (None, promised.digest):
        raise BlobRefused(f"a peer offers {promised.digest} for {request.shown_url}, and {asked} was asked for")
    if not store.prepare():
        raise PermissionError(f"{store.base} is not writable for this user")
    faults.check_room(store.base, promised.size)
    limit = request.settings.max_artifact
    if limit is not None and promised.size > limit:
        raise faults.too_large(store.base, limit, promised.size)


class IncomingBlob:
    """Bytes on their way in, written by one thread."""

    def __init__(
        self,
        store: Store,
        request: Request,
        promised: BlobInfo,
        partial: Partial,
        holding: HolderWriter | None,
        display: Display,
    ) -> None:
        self.size = 0  # bytes so far
        self._store = store
        self._request = request
        self._promised = promised
        self._partial = partial
        self._holding = holding
        self._display = display
        self._hasher = FileHasher(partial.fd)

    def write(self, data: memoryview) -> None:
        """Append `data`, and hash what landed. Raises OSError, BlobRefused."""
        if self.size + len(data) > self._promised.size:
            raise BlobRefused(f"more bytes came than the {self._promised.size:,} that were promised")
        self._partial.write(data, self.size)
        self.size += len(data)
        while self._hasher.follow(self.size):
            pass
        self._display.report(self.size, self._promised.size)
        if self._holding is not None:
            self._holding.report(self.size, self._promised.size)

    def publish(self) -> None:
        """Make it visible, and remember what the URL gave. Raises OSError, or BlobRefused for other bytes."""
        self._check_bytes()
        digest = self._promised.digest
        if self._store.hit(digest, self._request.name) is None:
            self._store.publish(self._partial, digest, self._request.name)
        ref = self._promised.ref
        if ref is not None and ref.digest == digest:
            refs.write(self._store, self._request.url_key, ref)

    def _check_bytes(self) -> None:
        digest = self._hasher.digest()
        promised = self._promised
        if (digest, self.size) != (promised.digest, promised.size):
            raise BlobRefused(
                f"a peer sent {digest} ({self.size:,} bytes) for {self._request.shown_url}, and had promised "
                f"{promised.digest} ({promised.size:,} bytes)"
            )
