"""A bundle is written: a plain tar, the same bytes for the same contents on every host.

Not what belongs into it (`bundles`). Invariants: each blob is hashed while it is written, so that nothing wrong is
carried away; a bundle has its name only when it is whole and synced.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping

from ..archives.decoders import OUTPUT_CHUNK
from ..archives.tar import TAR_BLOCK
from ..cancel import Cancel
from ..errors import ChecksumMismatch, NoSpace
from .contents import CONTENTS, BundleContents, BundledBlob
from .parts import PartWriter

__all__ = ["pack"]

Report = Callable[[int, int], None]  # bytes done, of how many


def pack(
    contents: BundleContents,
    paths: Mapping[str, str],
    path: str,
    *,
    split: int | None,
    cancel: Cancel,
    report: Report,
) -> list[str]:
    """Write the bundle of `contents`, whose blobs lie at `paths` (digest -> path); the files that it is now.

    Raises ChecksumMismatch for a blob that is not what it was, NoSpace, Cancelled, OSError.
    """
    _check_room(path, contents.size)
    done = 0
    with PartWriter(path, split) as writer:
        data = contents.data
        writer.write(_header(CONTENTS, len(data)) + data + _padding(len(data)))
        for blob in contents.blobs:
            writer.write(_header(blob.member, blob.size))
            for chunk in _verified(blob, paths[blob.sha256], cancel):
                writer.write(chunk)
                done += len(chunk)
                report(done, contents.size)
            writer.write(_padding(blob.size))
        writer.write(bytes(2 * TAR_BLOCK))
        return writer.finish()


def _check_room(path: str, needed: int) -> None:
    folder = os.path.dirname(path)
    st = os.statvfs(folder)
    room = st.f_bavail * st.f_frsize
    if st.f_blocks and needed > room:
        raise NoSpace(path=folder, needed=needed, available=room, remedy="free some, or export to another disk")


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)  # mode 0644, and no owner and no time
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % TAR_BLOCK)


def _verified(blob: BundledBlob, path: str, cancel: Cancel) -> Iterator[bytes]:
    """The bytes of a blob. Raises ChecksumMismatch at their end, or once there are too many."""
    hasher = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while size <= blob.size and (chunk := file.read(OUTPUT_CHUNK)):
            cancel.check()
            hasher.update(chunk)
            size += len(chunk)
            yield chunk
    if (got := hasher.hexdigest()) != blob.sha256:
        note = "the cached file is damaged: nanocache verify --repair"
        raise ChecksumMismatch(url=path, expected=blob.sha256, got=got, size=size, note=note)
