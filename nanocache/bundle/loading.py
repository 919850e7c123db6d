"""A bundle is read: judged as a whole by what it says, and then brought in blob by blob, each by its digest.

A bundle is trusted as little as any archive. Invariants: nothing is written before every header was looked at and is
what the contents say; a blob is published through the store's one door, or not at all; what is here already is neither
read nor written, so that an import that was killed goes on; the first wrong blob ends it, and what came before stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from ..archives.decoders import OUTPUT_CHUNK
from ..archives.refusal import ArchiveRefused, refuse_if
from ..archives.tar import walk_tar
from ..cancel import Cancel
from ..config import Settings
from ..disk import faults
from ..disk.hashing import FileHasher
from ..engine.room import room_for
from ..errors import DamagedBundle, UnsafeArchive
from ..retention.alone import alone
from ..retention.eviction import check_writable
from ..store import partials, refs
from ..store.blobs import Store
from ..store.partials import Abandoned
from ..store.refs import Ref
from .contents import CONTENTS, BundleContents, BundledBlob, BundledRef
from .parts import PartReader, PartStream

__all__ = ["Loaded", "load"]

LARGEST_CONTENTS = 1 << 28  # bytes; a million blobs
LONG_AGO = 0.0  # seconds since the epoch: `max_age` has the server asked, and what a URL gave here is newer

Report = Callable[[int, int], None]  # bytes done, of how many


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` did."""

    digests: tuple[str, ...]  # of all artifacts in the bundle, which are here now
    added: int  # of them that were not here before
    size: int  # bytes of those


def load(store: Store, path: str, *, shown: str, cancel: Cancel, report: Report) -> Loaded:
    """Bring in the bundle at `path`. `shown`: its name in errors.

    Raises UnsafeArchive before anything is written, DamagedBundle, NoSpace, Cancelled, UnsafeCache, OSError.
    """
    with _refusals(shown), PartReader(path) as reader:
        contents, offsets = _survey(reader)
        check_writable(store)
        lacking = [blob for blob in contents.blobs if not _is_here(store, blob)]
        size = sum(blob.size for blob in lacking)
        faults.check_room(store.base, size)
        done = contents.size - size
        for blob in lacking:
            report(done, contents.size)
            read = partial(_pieces, reader, offsets[blob.sha256], blob.size)
            told = partial(_report_from, report, done, contents.size)
            _persistently(partial(_bring, store, blob, read, shown, cancel, told))
            done += blob.size
    _finish(store, contents)
    return Loaded(tuple(blob.sha256 for blob in contents.blobs), len(lacking), size)


def _report_from(report: Report, before: int, total: int, done: int) -> None:
    report(before + done, total)


def _persistently(step: Callable[[], None]) -> None:
    while True:
        try:
            return step()
        except Abandoned:  # this process was stopped for so long that its partial may be another's
            continue


def _finish(store: Store, contents: BundleContents) -> None:
    """What is not the bytes: further names, that they are wanted, and what URLs gave."""
    for blob in contents.blobs:
        store.recency.mark(store.blob_folder(blob.sha256))
        for name in blob.names:
            store.hit(blob.sha256, name)  # a hard link; where there are none, the next fetch makes a copy
    for ref in contents.refs:
        _remember(store, ref)


@contextmanager
def _refusals(shown: str) -> Iterator[None]:
    try:
        yield
    except ArchiveRefused as e:
        raise UnsafeArchive(archive=shown, reason=e.reason, member=e.member) from e.__cause__


# --- as a whole -------------------------------------------------------------------------------------------------------


def _survey(reader: PartReader) -> tuple[BundleContents, dict[str, int]]:
    """What the bundle says, and where the bytes of each digest begin. Raises ArchiveRefused."""
    stream = PartStream(reader)
    members = walk_tar(stream)
    name, size = next(members, ("", 0))
    refuse_if(name != CONTENTS, f"it is no bundle of nanocache's: it does not begin with {CONTENTS}")
    refuse_if(size > LARGEST_CONTENTS, f"its {CONTENTS} has {size:,} bytes")
    contents = BundleContents.from_bytes(stream.take(size))
    offsets = {}
    expected = iter(contents.blobs)
    for name, size in members:
        blob = next(expected, None)
        if blob is None or (name, size) != (blob.member, blob.size):
            raise ArchiveRefused(f"{CONTENTS} has no file of {size:,} bytes in its place", name)
        offsets[blob.sha256] = stream.position
    if (missing := next(expected, None)) is not None:
        raise ArchiveRefused(f"{CONTENTS} has it, and the bundle does not", missing.member)
    return contents, offsets


# --- blob by blob -----------------------------------------------------------------------------------------------------


def _is_here(store: Store, blob: BundledBlob) -> bool:
    return store.any_intact(blob.sha256, blob.names[0]) is not None


def _pieces(reader: PartReader, position: int, size: int) -> Iterator[bytes]:
    while size:
        piece = reader.read(position, min(size, OUTPUT_CHUNK))
        refuse_if(not piece, "it is being changed meanwhile")
        yield piece
        position += len(piece)
        size -= len(piece)


def _bring(
    store: Store,
    blob: BundledBlob,
    read: Callable[[], Iterator[bytes]],
    shown: str,
    cancel: Cancel,
    report: Callable[[int], None],
) -> None:
    """Publish one blob. A process that wants the same waits for this one; one that is at it already is not waited for.

    Raises DamagedBundle, OSError.
    """
    room = room_for(store, Settings.read(), cancel)
    with alone(store, blob.sha256), partials.create(store, blob.sha256, room) as private:
        private.expect(blob.size)
        hasher = FileHasher(private.fd)
        for piece in read():
            cancel.check()
            private.write(piece, hasher.hashed)
            end = hasher.hashed + len(piece)
            while hasher.follow(end):
                pass
            report(end)
        if (got := hasher.digest()) != blob.sha256:
            raise DamagedBundle(archive=shown, member=blob.member, expected=blob.sha256, got=got, size=blob.size)
        store.publish(private, blob.sha256, blob.names[0], cancel)


def _remember(store: Store, ref: BundledRef) -> None:
    """What a URL gave where the bundle was made, unless something newer is known here, and is here."""
    there = refs.read(store, ref.key)
    if there is None or store.any_intact(there.digest, "") is None:
        at = LONG_AGO if there is None else there.fetched_at  # an older one would not replace it
        refs.remember(store, ref.key, Ref(ref.url, ref.sha256, ref.size, None, None, fetched_at=at))
