"""A product as it travels to another disk: what is in it, and the bytes of its files as one stream.

Paths are relative to the folder that the product lies in, so that each begins with the product's name. Not how bytes
travel, and not how they become a product again (`unpacking`). Invariants: what cannot be the same on another disk is
refused where it is built: links that lead out, devices, names that are no UTF-8; what is read back is checked, because
its paths become paths on this disk; small files cost no more than their bytes, however many there are.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from ..cancel import Cancel
from ..disk import files
from ..disk.hashing import hash_file
from ..store.manifest import is_inside

__all__ = ["PackReader", "Parcel", "ParcelFile", "check_travels"]

LARGEST_PARCEL = 1 << 30  # bytes of JSON that are believed


@dataclass(frozen=True, slots=True)
class ParcelFile:
    path: str
    size: int  # bytes
    sha256: str
    executable: bool
    mtime: int  # nanoseconds: ninja's and Python's own caches go by it


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is in a product. Each folder comes before what is in it."""

    folders: tuple[str, ...]
    files: tuple[ParcelFile, ...]
    links: tuple[tuple[str, str], ...]  # path and target

    @classmethod
    def of(cls, product: Path, cancel: Cancel) -> Parcel:
        """Read all of `product`. Raises ValueError for what cannot travel, Cancelled, OSError."""
        names = _Names.of(product)
        described = (_describe(product.parent, path, cancel) for path in names.files)
        return cls(tuple(names.folders), tuple(described), tuple(names.links))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray) -> Parcel:
        """Raises ValueError for anything but what `data` gives."""
        try:
            record = json.loads(zlib.decompressobj().decompress(data, LARGEST_PARCEL))
            parcel = cls(
                tuple(record["folders"]),
                tuple(_file(*values) for values in record["files"]),
                tuple((str(path), str(target)) for path, target in record["links"]),
            )
        except (KeyError, TypeError, ValueError, zlib.error) as e:
            raise ValueError(f"not what is in a product: {e}") from None
        for path in parcel.paths():
            if not isinstance(path, str) or not is_inside(path):
                raise ValueError(f"{path!r} is no path in a product")
        return parcel

    def paths(self) -> Iterator[Any]:
        yield from self.folders
        yield from (file.path for file in self.files)
        yield from (path for path, _ in self.links)

    @property
    def data(self) -> bytes:
        """What travels."""
        record = {"folders": self.folders, "files": list(map(astuple, self.files)), "links": self.links}
        return zlib.compress(json.dumps(record, separators=(",", ":")).encode())


def _file(*values: Any) -> ParcelFile:
    if [type(value) for value in values] != [str, int, str, bool, int] or values[1] < 0:
        raise ValueError(f"{values!r} is no file of a product")
    return ParcelFile(*values)


def _describe(parent: Path, path: str, cancel: Cancel) -> ParcelFile:
    fd = files.open_private(f"{parent}/{path}", os.O_RDONLY)
    try:
        st = os.fstat(fd)
        return ParcelFile(path, st.st_size, hash_file(fd, cancel), bool(st.st_mode & 0o100), st.st_mtime_ns)
    finally:
        os.close(fd)


def check_travels(product: Path) -> None:
    """Raise ValueError for what could not be the same on another disk. Nothing is read but names and links."""
    _Names.of(product)


class _Names:
    """The paths of what is in a product, of each kind."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.files: list[str] = []
        self.links: list[tuple[str, str]] = []

    @classmethod
    def of(cls, product: Path) -> _Names:
        names = cls()
        waiting = [product.name]
        while waiting:
            waiting += names._add(product, waiting.pop())
        return names

    def _add(self, product: Path, path: str) -> list[str]:
        """Take note of one path; the paths in it, if it is a folder."""
        _check_text(path)
        full = f"{product.parent}/{path}"
        mode = os.lstat(full).st_mode
        if stat.S_ISDIR(mode):
            self.folders.append(path)
            return [f"{path}/{name}" for name in sorted(os.listdir(full), reverse=True)]
        if stat.S_ISLNK(mode):
            self.links.append((path, _target(product, full, path)))
        elif stat.S_ISREG(mode):
            self.files.append(path)
        else:
            raise ValueError(f"{path} is {files.kind(mode)}, and only files, folders and links can be kept")
        return []


def _check_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a name is not UTF-8: {path!r}; give it another") from None


def _target(product: Path, full: str, path: str) -> str:
    """What a link says. Raises ValueError unless it is relative and leads to something inside."""
    target = os.readlink(full)
    _check_text(target)
    inside = os.path.realpath(product)
    real = os.path.realpath(full)
    if os.path.isabs(target) or not (real == inside or real.startswith(f"{inside}/")):
        raise ValueError(f"the link {path} leads out, to {target}; make it relative and inside, or copy the file")
    return target


class PackReader(io.RawIOBase):
    """The bytes of `files`, one after another, from the product that lies in `folder`."""

    def __init__(self, folder: Path, files: Iterable[ParcelFile]) -> None:
        super().__init__()
        self._folder = folder
        self._files = iter(files)
        self._open: io.FileIO | None = None
        self._left = 0  # bytes of the open file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the whole buffer while there are bytes. Raises OSError if a file was cut meanwhile."""
        room = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(room) and (source := self._source()) is not None:
            count = source.readinto(room[filled : filled + self._left])
            if not count:
                raise OSError(errno.EIO, "a file was cut while it was sent", str(source.name))
            self._left -= count
            filled += count
        return filled

    def _source(self) -> io.FileIO | None:
        """The file that comes next in the stream, None at its end."""
        while not self._left:
            if self._open is not None:
                self._open.close()
            file = next(self._files, None)
            if file is None:
                return None
            self._open = io.FileIO(files.open_private(f"{self._folder}/{file.path}", os.O_RDONLY))
            self._left = file.size
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        super().close()
