"""A product that comes from another disk: what this disk has of it is copied, the rest is written as it arrives.

In a private folder, and visible by one rename when all of it is there. Not how bytes travel. Invariants: each file's
digest is compared with what landed or came; a link is made last, so that nothing is written through one; what another
process published meanwhile stays.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..callers import let_pass
from ..cancel import ambient
from ..disk import copying, faults, files
from ..disk.hashing import hash_file
from ..room import Room
from . import products
from .building import BuiltPlace
from .parcel import Parcel, ParcelFile, check_travels

__all__ = ["ParcelRefused", "Unpacking"]

VERSIONS_LOOKED_AT = 4  # of products of the same name, the latest first


class ParcelRefused(Exception):
    """The peer sent something else than it promised, and nothing was published. Build it instead."""


class Unpacking:
    """A product on its way in, written by one thread at a time."""

    def __init__(self, place: BuiltPlace, folder: str, room: Room) -> None:
        """`folder`: a private one."""
        self._place = place
        self._folder = folder
        self._room = room
        self._stale = products.inode_of(place.path)
        self._parcel: Parcel | None = None
        self._lacking: set[int] = set()  # the numbers of files that have not come yet
        self._expected: Iterator[int] = iter(())
        self._file: _IncomingFile | None = None

    def begin(self, contents: bytes | bytearray) -> frozenset[int]:
        """Make what can be made of what is here; the numbers of the files that have to be sent.

        `contents`: a Parcel's data. Raises ParcelRefused, NoSpace, OSError.
        """
        with _refusing():
            parcel = Parcel.from_bytes(contents)
        if any(path.split("/", 1)[0] != self._place.name for path in parcel.paths()):
            raise ParcelRefused(f"a peer sent something else than {self._place.name}")
        self._room.have(sum(file.size for file in parcel.files))
        for path in parcel.folders:
            os.mkdir(self._at(path), 0o700)
        self._lacking = {n for n, file in enumerate(parcel.files) if not self._take_here(file)}
        faults.check_room(self._place.store.base, sum(parcel.files[n].size for n in self._lacking))
        self._parcel = parcel
        return frozenset(self._lacking)

    def _at(self, path: str) -> str:
        return f"{self._folder}/{path}"

    # --- what is here -------------------------------------------------------------------------------------------------

    def _take_here(self, file: ParcelFile) -> bool:
        """Copy the file from a blob, or from another version of the product, if one of them has the same bytes."""
        return any(self._copy(candidate, file) for candidate in self._candidates(file))

    def _candidates(self, file: ParcelFile) -> Iterator[str]:
        if not file.size:
            yield os.devnull
        blob = self._place.store.any_intact(file.sha256, os.path.basename(file.path))
        if blob is not None:
            yield blob
        for folder in self._place.versions()[:VERSIONS_LOOKED_AT]:
            yield f"{folder}/{file.path}"

    def _copy(self, candidate: str, file: ParcelFile) -> bool:
        """Whether the file is in place now, as a copy of `candidate`."""
        try:
            source = os.open(candidate, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as e:
            let_pass(e)
            return False
        with closing(io.FileIO(source)):
            if os.fstat(source).st_size != file.size:
                return False
            copied = _copy_open(source, self._at(file.path), file)
        if not copied:
            os.unlink(self._at(file.path))
        return copied

    # --- what comes ---------------------------------------------------------------------------------------------------

    def expect(self, numbers: Iterable[int]) -> None:
        """The bytes of these files come next, one after another; those that are here are passed over."""
        self._expected = iter(sorted(numbers))

    def write(self, data: memoryview) -> None:
        """Raises OSError, ParcelRefused."""
        while len(data):
            if self._file is None:
                self._file = self._next()
            data = data[self._file.write(data) :]
            if self._file.whole:
                self._file.close()
                self._file = None

    def _next(self) -> _IncomingFile:
        number = next(self._expected, None)
        if self._parcel is None or number is None or not 0 <= number < len(self._parcel.files):
            raise ParcelRefused("more bytes came than were promised")
        file = self._parcel.files[number]
        if number not in self._lacking:
            return _IncomingFile(file, None)
        self._lacking.discard(number)
        return _IncomingFile(file, self._at(file.path))

    def publish(self) -> None:
        """Make it visible. Raises ParcelRefused if it is not whole, OSError."""
        if self._parcel is None or self._lacking or self._file is not None:
            raise ParcelRefused("not all of its files came")
        for path, target in self._parcel.links:
            os.symlink(target, self._at(path))
        built = Path(self._at(self._place.name))
        with _refusing():
            check_travels(built)
        products.publish(self._place.store, str(built), self._place.path, self._stale, self._room)

    def close(self) -> None:
        if self._file is not None:
            self._file.abandon()


class _IncomingFile:
    """A file of the stream, on its way to `path`; to nowhere, where it is None."""

    def __init__(self, file: ParcelFile, path: str | None) -> None:
        self._file = file
        self._left = file.size
        self._hasher = hashlib.sha256()
        self._fd = None if path is None else _create(path, file)

    @property
    def whole(self) -> bool:
        return not self._left

    def write(self, data: memoryview) -> int:
        """Take what belongs to this file; the number of bytes that do."""
        part = data[: self._left]
        self._left -= len(part)
        taken = len(part)
        if self._fd is not None:
            self._hasher.update(part)
            while len(part):
                part = part[os.write(self._fd, part) :]
        return taken

    def close(self) -> None:
        """Of a whole file. Raises ParcelRefused for other bytes than were promised."""
        if self._fd is None:
            return
        if self._hasher.hexdigest() != self._file.sha256:
            raise ParcelRefused(f"other bytes came for {self._file.path} than were promised")
        os.utime(self._fd, ns=(self._file.mtime, self._file.mtime))
        self.abandon()

    def abandon(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with a parcel is its sender's fault."""
    try:
        yield
    except ValueError as e:
        raise ParcelRefused(str(e)) from None


def _create(path: str, file: ParcelFile) -> int:
    fd = files.open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    files.set_mode(fd, 0o700 if file.executable else 0o600)
    return fd


def _copy_open(source: int, path: str, file: ParcelFile) -> bool:
    """Whether `path`, which is made, has the right bytes from `source`."""
    with closing(io.FileIO(_create(path, file), "r+")) as target:
        if not copying.share_blocks(source, target.fileno()):
            copying.copy_bytes(source, target.fileno(), ambient())
        os.utime(target.fileno(), ns=(file.mtime, file.mtime))
        return hash_file(target.fileno(), ambient()) == file.sha256
