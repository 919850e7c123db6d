"""A blob that comes from a peer and not from a server: what the peer says of it, and how its bytes get in.

    describe_blob     of one who has the artifact: digest, size, and what its URL gave
    receive_blob    takes the bytes in order, and publishes them once what lies on disk has the digest

How bytes travel is the caller's business. Invariants: they come in by the store's own door (private partial, hash of
what landed, fsync, seal, rename), under the lock of the key, so that others on this machine wait for them; nobody waits
for that lock here, since a peer waits for us meanwhile, and two jobs could wait for each other for ever; a peer's fault
is no result of the artifact's, so nobody adopts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .artifact.artifact import Artifact
from .artifact.request import Request
from .cache import Cache, PathLike
from .cancel import Cancel
from .coordination.holder import HolderWriter
from .coordination.waiting import WaitOptions, hold_lock
from .disk import faults
from .disk.hashing import FileHasher
from .engine.steps import Fetch
from .progress import Display, ProgressOption
from .store import partials, refs
from .store.blobs import Store
from .store.layout import lock_key
from .store.partials import Abandoned, Partial
from .store.refs import Ref

__all__ = ["IncomingBlob", "BlobInfo", "BlobRefused", "receive_blob", "describe_blob"]


class BlobRefused(Exception):
    """What came is not what was promised, and nothing was published. Have the artifact from its URLs."""


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
            return cls(str(record["digest"]), int(record["size"]), None if ref is None else Ref(**ref))
        except (KeyError, TypeError, ValueError) as e:
            raise BlobRefused(f"not the record of a blob: {e!r}") from None


def describe_blob(artifact: Artifact, base_dir: PathLike) -> tuple[Path, BlobInfo] | None:
    """Where the artifact's blob lies here, and what a peer must know of it; None if it is not here."""
    store, request = Cache(base_dir).store, _request(artifact, False)
    if (found := Fetch(store, request).find()) is None:
        return None
    ref = None if artifact.sha256 is not None else refs.read(store, request.url_key)
    return found.path, BlobInfo(found.digest, os.stat(found.path).st_size, ref)


def _request(artifact: Artifact, progress: ProgressOption) -> Request:
    return Request.of(replace(artifact, postprocess=None), progress=progress)


@contextmanager
def receive_blob(
    artifact: Artifact, promised: BlobInfo, base_dir: PathLike, *, progress: ProgressOption = None
) -> Iterator[IncomingBlob]:
    """A place for the bytes of `artifact`; without `publish` in the block nothing is kept of them.

    Raises BlobRefused if another digest was asked for, LockTimeout at once if another process is at the same artifact,
    NoSpace, UnsafeCache, and OSError where the disk fails or may not be written.
    """
    store, request = Cache(base_dir).store, _request(artifact, progress)
    if artifact.sha256 not in (None, promised.digest):
        raise BlobRefused(
            f"a peer offers {promised.digest} for {request.shown_url}, and {artifact.sha256} was asked for"
        )
    if not store.prepare():
        raise PermissionError(f"{store.base} is not writable for this user")
    _check_room(store, request, promised.size)
    key = lock_key(artifact.sha256, request.url_key)
    at_once = WaitOptions(lambda: False, request.identity, Cancel(), 0.0, lambda *_: None)
    with (
        hold_lock(store.lock_place(key), at_once) as holding,
        partials.create(store, key) as partial,
        closing(Display(request.progress, request.name)) as display,
    ):
        try:
            yield IncomingBlob(store, request, promised, partial, holding, display)
        except Abandoned:
            raise BlobRefused("this process was stopped for so long that its partial may be another's") from None


def _check_room(store: Store, request: Request, size: int) -> None:
    faults.check_room(store.base, size)
    limit = request.settings.max_artifact
    if limit is not None and size > limit:
        raise faults.too_large(store.base, limit, size)


class IncomingBlob:
    """Bytes on their way in. One thread's."""

    def __init__(
        self,
        store: Store,
        request: Request,
        promised: BlobInfo,
        partial: Partial,
        holding: HolderWriter | None,
        display: Display,
    ) -> None:
        self._store, self._request, self._promised = store, request, promised
        self._partial, self._holding, self._display = partial, holding, display
        self._hasher = FileHasher(partial.fd)
        self.size = 0  # bytes so far

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
        got, promised = self._hasher.digest(), self._promised
        if (got, self.size) != (promised.digest, promised.size):
            raise BlobRefused(
                f"a peer sent {got} ({self.size:,} bytes) for {self._request.shown_url}, and had promised "
                f"{promised.digest} ({promised.size:,} bytes)"
            )
        if self._store.hit(promised.digest, self._request.name) is None:
            self._store.publish(self._partial, promised.digest, self._request.name)
        if promised.ref is not None and promised.ref.digest == promised.digest:
            refs.write(self._store, self._request.url_key, promised.ref)
